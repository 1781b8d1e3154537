//! The hypervisor's trace on the host: from the rings in its memory to a picture.
//!
//! ```text
//! rings ([`abi::trace`]) ── [`Reader`] ── [`Timeline`] ─┬─ [`Writer`] ── a Perfetto trace ── [`Recorded`] ── chart, figures
//!                          copies, counts   who was where │
//!                          what is lost     and how long  └─ [`Meter`] ── a table for each interval
//! ```
#![forbid(unsafe_code)]

mod exits;
mod meter;
mod perfetto;
mod reader;
mod record;
mod recorded;
mod timeline;

pub use meter::{Meter, Row};
pub use perfetto::Writer;
pub use reader::{Entry, Memory, Reader, Seen};
pub use recorded::Recorded;
pub use timeline::{Item, State, Timeline, Track};
