//! Machine files: read, checked, and compiled into the bundle (FIT image) that the hypervisor starts its guests from.
//!
//! A machine file is TOML; `docs/machine-file.md` documents it. Whatever is wrong with it is refused here, on the
//! host, as `FILE:LINE: KEY: REASON, WHAT TO DO`.
#![forbid(unsafe_code)]

mod admission;
mod compile;
mod error;
mod fields;
mod fit;
mod kernel;
mod machine;
mod placement;
mod schema;
mod summary;
mod units;
mod workload;

pub use admission::Plan;
pub use bundle::{Memory, Schedule};
pub use compile::Resolver;
pub use error::Error;
pub use machine::{Channel, Input, Kernel, Machine, Origin, Vm};
pub use schema::explain;
pub use units::duration;
pub use workload::{Task, Workload};
