//! AArch64 at EL2: boot, vectors, world switch, EL2 translation, caches, time. The only crate of `hyp/` that names a
//! register, and, but for a hint in `hyp/lock`, the only one with `unsafe`.
//!
//! "Arm ARM" is the Arm Architecture Reference Manual for A-profile, DDI 0487. Its sections are named by title, since every issue
//! numbers them anew; a register's description is found by its name.
//! Everything runs nVHE (HCR_EL2.E2H = 0): the Cortex-A72 has nothing else, and one way is simpler than two.
#![no_std]
#![cfg(target_os = "none")]

#[macro_use]
mod register;

pub mod boot;
pub mod cache;
pub mod context;
pub mod cpu;
pub mod enter;
pub mod errata;
pub mod features;
pub mod heap;
pub mod image;
pub mod mmu;
pub mod panic;
pub mod phys;
pub mod time;
pub mod tlb;
pub mod traps;
mod vectors;
pub mod work;

/// The most physical CPUs that EL2 brings up; further ones stay where the firmware left them.
pub const MAX_CPUS: usize = 8;
/// Bytes of a CPU's EL2 stack. Boot is what needs most: it reads the device tree and makes VMs.
pub const STACK_SIZE: usize = 24 * 1024;
/// The translation granule everywhere in this system, bytes.
pub const PAGE: usize = 4096;
