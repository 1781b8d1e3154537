//! The EL2 program: ties the pure crates to the machine it finds itself on. Start at [`boot::primary`], which ends in [`cpu::run`],
//! the loop of every CPU.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
#[macro_use]
mod plant;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod channels;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod control;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod exits;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod host;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod load;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod memory;
#[cfg(target_os = "none")]
mod operator;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod schedule;
#[cfg(target_os = "none")]
mod trace;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is the EL2 program: `cargo xtask run` builds and starts it");
    std::process::exit(2);
}
