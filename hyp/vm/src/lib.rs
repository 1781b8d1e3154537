//! Virtual machines: what a guest's exits mean and what answers them.
//!
//! [`Exit::decode`] turns the syndrome registers into a [`Trap`]; the rest of the crate answers it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod exit;
pub mod state;

pub use exit::{Exit, Trap};
pub use state::VcpuState;
