//! The ports: what the kernel needs of the machine on which it runs, AArch64 at EL1 or, for tests, a host. All `unsafe`
//! code is in here.

mod stack;
pub(crate) use stack::Stack;

#[cfg(target_os = "none")]
mod aarch64;
#[cfg(target_os = "none")]
pub(crate) use aarch64::*;

#[cfg(not(target_os = "none"))]
pub mod host;
#[cfg(not(target_os = "none"))]
pub(crate) use host::port::*;
