//! A bare-metal EL1 guest to measure hypervisors with: it finds its machine in the device tree, so the same binary runs on MobiVMM,
//! Xen, KVM and plain QEMU. What it does is the first word of its boot arguments; see [`roles`].
//!
//! It marks the beginning and the end of what is measured by [`mark`]s, which the QEMU plugin stamps, so that nothing depends on what the
//! guest believes; its own figures go with them.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod gic;
#[cfg(target_os = "none")]
mod mark;
#[cfg(target_os = "none")]
mod mmio;
#[cfg(target_os = "none")]
mod platform;
#[cfg(target_os = "none")]
mod psci;
#[cfg(target_os = "none")]
mod roles;
#[cfg(target_os = "none")]
mod timer;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is a guest: build it for aarch64-unknown-none-softfloat");
}
