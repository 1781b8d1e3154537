//! The boards as the command line names them, and what the scheduler has to know of one.

use std::fmt;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use drivers::board::Board;
use sched::CpuSet;
use sched::admission::Overhead;

/// A board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BoardName {
    /// QEMU's `virt`.
    Virt,
    /// Raspberry Pi 4.
    Rpi4,
}

impl BoardName {
    /// Its data.
    pub fn data(self) -> &'static Board {
        match self {
            Self::Virt => &board_virt::BOARD,
            Self::Rpi4 => &board_rpi4::BOARD,
        }
    }
}

/// The CPUs that a machine is to be scheduled on.
#[derive(Args, Clone, Debug)]
pub struct BoardArgs {
    /// The board whose figures count
    #[arg(long, value_enum, default_value_t = BoardName::Virt)]
    board: BoardName,
    /// The number of CPUs
    #[arg(long, value_name = "N", default_value_t = 4)]
    cpus: usize,
}

impl BoardArgs {
    /// The CPUs.
    ///
    /// # Errors
    /// The board cannot have so many.
    pub fn online(&self) -> Result<CpuSet> {
        let Board { name, max_cpus, .. } = *self.board.data();
        ensure!((1..=max_cpus).contains(&self.cpus), "--cpus: {name} has 1 to {max_cpus} CPUs");
        Ok(CpuSet::first(self.cpus))
    }

    /// What EL2's own paths cost there.
    pub fn overhead(&self) -> Overhead {
        let timing = self.board.data().timing;
        Overhead { irq_off_max: timing.irq_off_max_ns.into(), vm_switch: timing.vm_switch_ns.into() }
    }
}

impl fmt::Display for BoardArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "on {} with {} CPUs:", self.board.data().name, self.cpus)
    }
}
