//! Starts the bench guests with KVM. It is the first program of a Linux that has nothing else, and has no C library, so that what is
//! measured beside MobiVMM is KVM, and of user space only what KVM asks of any.
//!
//! Its arguments are the VMs: `vcpus=1` or `vcpus=2`, for SCHED_FIFO with `,fifo` behind it. VM number n has a process of its own, the
//! guest's image from `/guest` and its device tree from `/tree-n`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kvm;
#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod sys;
#[cfg(target_os = "none")]
mod uart;
#[cfg(target_os = "none")]
mod vm;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!(
        "this is a program of Linux on arm64 without a C library: build it for aarch64-unknown-none-softfloat"
    );
}
