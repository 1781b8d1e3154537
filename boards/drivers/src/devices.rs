//! The step from a description of the machine to the machine.

use core::fmt;

use crate::bcm2835_pm::Bcm2835Pm;
use crate::board::PowerMethod;
use crate::gic::{self, Gic};
use crate::gicv2::GicV2;
use crate::gicv3::GicV3;
use crate::pl011::Pl011;
use crate::platform::{Conduit, EnableMethod, Gic as GicModel, Platform};
use crate::{psci, spin_table};

/// A machine that is what its [`Platform`] says: makes drivers for it.
#[derive(Debug)]
pub struct Devices<'p> {
    platform: &'p Platform<'p>,
    secondary_entry: u64,
}

/// Why a CPU was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// There is no CPU with this index.
    NoSuchCpu,
    /// The device tree names no way that EL2 knows, or PSCI that EL2 cannot call.
    NoMethod,
    /// PSCI refused.
    Psci(psci::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCpu => write!(f, "no such CPU"),
            Self::NoMethod => write!(f, "no way to start it"),
            Self::Psci(error) => write!(f, "PSCI: {error}"),
        }
    }
}

impl<'p> Devices<'p> {
    /// Believes the device tree, which is the firmware's word for what this machine is, and so trusted like the firmware. To be true:
    /// * `platform` was read from the device tree that the firmware passed for this machine.
    /// * `_map` has [`Platform::devices`] one to one as device memory, and the words at the CPUs' `release_addr` as device or
    ///   normal memory, for as long as drivers made here are in use; Rust uses none of it otherwise.
    /// * `secondary_entry` is the physical address of code that a CPU may run from in EL2 with its MMU off.
    pub const fn claim(platform: &'p Platform<'p>, _map: &arch::mmu::Active, secondary_entry: u64) -> Self {
        Self { platform, secondary_entry }
    }

    /// The interrupt controller, not initialised yet. To be made once: [`Gic`]'s `&mut self` tells nothing of others.
    pub fn gic(&self) -> Result<Gic, gic::Error> {
        match &self.platform.gic {
            GicModel::V2 { gicd, gicc, gich, gicv, .. } => {
                // The CPU interface's second page has GICC_DIR.
                if gicc.end - gicc.start < 0x2000 || gicv.end - gicv.start < 0x2000 {
                    return Err(gic::Error::TooSmall);
                }
                // SAFETY: a GICv2's, and mapped, as the contract of `claim` says.
                Ok(Gic::V2(unsafe { GicV2::new(gicd.start, gicc.start, gich.start, gicv.start) }))
            }
            GicModel::V3 { gicd, gicr, .. } => {
                if gicd.end - gicd.start < 0x10000 {
                    return Err(gic::Error::TooSmall);
                }
                // SAFETY: a GICv3's, and mapped, as the contract of `claim` says.
                Ok(Gic::V3(unsafe { GicV3::new(gicd.start, gicr, &self.platform.cpus)? }))
            }
        }
    }

    /// The console's UART, initialised. To be made once; for the panic handler, clone it.
    pub fn uart(&self) -> Option<Pl011> {
        let found = self.platform.uart.as_ref()?;
        // SAFETY: a PL011's, and mapped, as the contract of `claim` says.
        let mut uart = unsafe { Pl011::new(found.registers.start) };
        uart.init(found.clock_hz);
        Some(uart)
    }

    /// What turns the machine off, if the board's method is there.
    pub fn power(&self, method: PowerMethod) -> Option<Power> {
        match method {
            PowerMethod::Psci => (self.platform.psci == Some(Conduit::Smc)).then_some(Power::Psci),
            PowerMethod::Bcm2835Pm => {
                let registers = self.platform.bcm2835_pm.as_ref()?;
                // SAFETY: a BCM2835 power manager's, and mapped, as the contract of `claim` says.
                Some(Power::Bcm2835Pm(unsafe { Bcm2835Pm::new(registers.start) }))
            }
        }
    }

    /// Starts a CPU, which then comes in at the secondary entry. [`Devices::cpu_has_started`] when it is there.
    pub fn start_cpu(&self, index: usize) -> Result<(), StartError> {
        let cpu = self.platform.cpus.get(index).ok_or(StartError::NoSuchCpu)?;
        match cpu.enable {
            EnableMethod::Psci if self.platform.psci == Some(Conduit::Smc) => {
                // SAFETY: there is PSCI by SMC, and the entry is one, as the contract of `claim` says.
                unsafe { psci::cpu_on(cpu.mpidr, self.secondary_entry) }.map_err(StartError::Psci)
            }
            EnableMethod::Psci | EnableMethod::None => Err(StartError::NoMethod),
            EnableMethod::SpinTable { release_addr } => {
                // SAFETY: a slot, mapped, and the entry is one, as the contract of `claim` says.
                unsafe { spin_table::release(release_addr, self.secondary_entry) };
                Ok(())
            }
        }
    }

    /// To be called by another CPU once the CPU with this index has come in, before it can go back to polling: takes its
    /// entry address away again.
    pub fn cpu_has_started(&self, index: usize) {
        let cpu = self.platform.cpus.get(index);
        if let Some(EnableMethod::SpinTable { release_addr }) = cpu.map(|cpu| cpu.enable) {
            // SAFETY: a slot, and mapped, as the contract of `claim` says.
            unsafe { spin_table::clear(release_addr) };
        }
    }
}

/// How this machine is turned off.
#[derive(Debug)]
pub enum Power {
    /// By the firmware's PSCI.
    Psci,
    /// By the power manager.
    Bcm2835Pm(Bcm2835Pm),
}

impl Power {
    /// Turns the machine off. Returns if that takes a moment or has failed.
    pub fn off(&mut self) {
        match self {
            Self::Psci => psci::system_off(),
            Self::Bcm2835Pm(pm) => pm.halt(),
        }
    }
}
