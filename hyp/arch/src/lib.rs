//! AArch64 at EL2: boot, vectors, world switch, EL2 translation, caches, time. The only crate of `hyp/` with `unsafe`,
//! and the only one that names a register.
//!
//! References are to the Arm Architecture Reference Manual for A-profile (Arm DDI 0487J.a), "Arm ARM" below.
//! Everything runs nVHE (HCR_EL2.E2H = 0): the Cortex-A72 has nothing else, and one way is simpler than two.
#![no_std]
#![cfg(target_os = "none")]

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
/// Bytes of a CPU's EL2 stack. Boot is what needs most: it makes VMs by value.
pub const STACK_SIZE: usize = 32 * 1024;
/// The translation granule everywhere in this system, bytes.
pub const PAGE: usize = 4096;
