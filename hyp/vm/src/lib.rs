//! Virtual machines: what a guest's exits mean and what answers them.
//!
//! [`Exit::decode`] turns the syndrome registers into a [`Trap`]; [`handle`] answers it on the vCPU's registers and the
//! VM's devices, and says in [`Next`] what its CPU has to do besides. Whatever a guest does has a defined answer: an error code,
//! a register that reads as zero, an exception, or the end of that VM. What this needs of the machine is [`Host`].
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod bus;
mod console;
pub mod dtb;
pub mod exit;
mod handle;
mod idreg;
pub mod inject;
mod insn;
mod mmio;
mod pl011;
mod psci;
mod smccc;
pub mod state;
pub mod stolen;
mod sysreg;
pub mod timer;
mod vm;

pub use exit::{Exit, Trap};
pub use handle::{Context, Crash, Host, Next, Power, StageTwo, StageTwoAccess, handle, hypercall, trap};
pub use state::VcpuState;
pub use vm::{BadVm, Channel, Config, Entry, Phase, Vcpu, VcpuPower, Vm};

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
