//! The step from a description of the machine to the machine.

use core::fmt;

use arch::mmu::Active;
use arch::phys::ReleaseWord;

use crate::bcm2835_pm::Bcm2835Pm;
use crate::board::PowerMethod;
use crate::gic::{self, Gic};
use crate::gicv2::GicV2;
use crate::gicv3::GicV3;
use crate::pl011::Pl011;
use crate::platform::{Conduit, EnableMethod, Gic as GicModel, MAX_GICR, Platform};
use crate::psci;

/// A machine that is what its [`Platform`] says: makes drivers for it. The registers of each are claimed, so there is one at
/// the most.
#[derive(Debug)]
pub struct Devices<'p> {
    platform: &'p Platform<'p>,
    map: Active,
}

/// A CPU that has been told to start.
#[derive(Debug)]
#[must_use]
pub struct Starting(Option<ReleaseWord>);

impl Starting {
    /// To be called by another CPU once this one has come in, before it can go back to polling: takes its entry address away
    /// again.
    pub fn arrived(self) {
        if let Some(word) = self.0 {
            word.clear();
        }
    }
}

/// Why a CPU was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// There is no CPU with this index.
    NoSuchCpu,
    /// The device tree names no way that EL2 knows, or PSCI that EL2 cannot call.
    NoMethod,
    /// The word that it polls is in other use.
    InUse,
    /// PSCI refused.
    Psci(psci::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchCpu => write!(f, "no such CPU"),
            Self::NoMethod => write!(f, "no way to start it"),
            Self::InUse => write!(f, "its release address is in other use"),
            Self::Psci(error) => write!(f, "PSCI: {error}"),
        }
    }
}

impl<'p> Devices<'p> {
    /// The devices of `platform`, in a map that has [`Platform::devices`].
    pub const fn new(platform: &'p Platform<'p>, map: Active) -> Self {
        Self { platform, map }
    }

    /// The interrupt controller, not initialised yet.
    pub fn gic(&self) -> Result<Gic, gic::Error> {
        let claim = |registers| self.map.device(registers).ok_or(gic::Error::InUse);
        match &self.platform.gic {
            GicModel::V2 { gicd, gicc, gich, gicv, .. } => {
                let [gicd, gicc, gich, gicv] = [claim(gicd)?, claim(gicc)?, claim(gich)?, claim(gicv)?];
                GicV2::new([&gicd, &gicc, &gich, &gicv]).map(Gic::V2).ok_or(gic::Error::TooSmall)
            }
            GicModel::V3 { gicd, gicr, .. } => {
                let gicr = gicr.iter().map(claim).collect::<Result<heapless::Vec<_, MAX_GICR>, _>>()?;
                GicV3::new(&claim(gicd)?, &gicr, &self.platform.cpus).map(Gic::V3)
            }
        }
    }

    /// The console's UART, initialised.
    pub fn uart(&self) -> Option<Pl011> {
        let found = self.platform.uart.as_ref()?;
        let mut uart = Pl011::new(&self.map.device(&found.registers)?)?;
        uart.init(found.clock_hz);
        Some(uart)
    }

    /// What turns the machine off, if the board's method is there.
    pub fn power(&self, method: PowerMethod) -> Option<Power> {
        match method {
            PowerMethod::Psci => (self.platform.psci == Some(Conduit::Smc)).then_some(Power::Psci),
            PowerMethod::Bcm2835Pm => {
                let registers = self.map.device(self.platform.bcm2835_pm.as_ref()?)?;
                Bcm2835Pm::new(&registers).map(Power::Bcm2835Pm)
            }
        }
    }

    /// Starts a CPU, which then comes in at [`arch::boot::secondary_entry`].
    pub fn start_cpu(&self, index: usize) -> Result<Starting, StartError> {
        let cpu = self.platform.cpus.get(index).ok_or(StartError::NoSuchCpu)?;
        match cpu.enable {
            EnableMethod::Psci if self.platform.psci == Some(Conduit::Smc) => {
                psci::cpu_on(cpu.mpidr).map_err(StartError::Psci)?;
                Ok(Starting(None))
            }
            EnableMethod::Psci | EnableMethod::None => Err(StartError::NoMethod),
            EnableMethod::SpinTable { release_addr } => {
                let word = ReleaseWord::claim(release_addr).ok_or(StartError::InUse)?;
                word.release();
                Ok(Starting(Some(word)))
            }
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
