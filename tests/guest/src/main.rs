//! A bare-metal EL1 guest that checks the virtual platform from the inside: interrupts, timers, SMP, faults. It reads commands from
//! its console, a line each, and answers `PASS name` or `FAIL name`. The end-to-end tests drive it.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![allow(clippy::needless_range_loop, reason = "vCPU indices address several tables at once")]

#[cfg(target_os = "none")]
mod checks;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod time;
#[cfg(target_os = "none")]
mod uart;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a guest: build it for aarch64-unknown-none-softfloat");
}
