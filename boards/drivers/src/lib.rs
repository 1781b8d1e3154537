//! Drivers for the machine that EL2 itself uses (interrupt controller, console UART, CPU start, power), and the discovery
//! of what there is from the device tree. A board is a [`board::Board`] of data in a crate of its own.
//!
//! [`platform`] is pure and knows nothing but bytes, [`ranges`] nothing but numbers. `devices::Devices` makes drivers of what it describes, out of registers
//! that are known to be mapped and nobody else's. What a device is, the device tree says: it is trusted like firmware. There are no statics in here; handles are plain data (`Send`
//! and `Sync`), and a method that takes `&mut self` is one that must not run on two CPUs at once.
#![cfg_attr(not(test), no_std)]

#[cfg(target_os = "none")]
pub mod bcm2835_pm;
pub mod board;
mod mmio;
pub mod pl011;
pub mod platform;
pub mod ranges;

#[cfg(target_os = "none")]
pub mod devices;
#[cfg(target_os = "none")]
pub mod gic;
#[cfg(target_os = "none")]
pub mod gicv2;
#[cfg(target_os = "none")]
pub mod gicv3;
#[cfg(target_os = "none")]
mod irq_bank;
#[cfg(target_os = "none")]
pub mod psci;
#[cfg(target_os = "none")]
pub mod semihosting;

/// The most CPUs that are brought up; further ones stay where the firmware left them. A GICv2 has no more.
pub const MAX_CPUS: usize = 8;
