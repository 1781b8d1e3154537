//! Starts MobiVMM on QEMU, and reads and types into its consoles: by a script ([`Run`]) or for a person at a
//! terminal ([`Run::interactive`]).
//!
//! ```no_run
//! # use mobivmm_qemu as qemu;
//! # fn config() -> qemu::Config { unimplemented!() }
//! use qemu::{Run, Step};
//!
//! let outcome = Run::new(config(), ["linux", "control"])
//!     .script([Step::until("linux", "~ #")?, Step::send("linux", "nproc\n"), Step::until("linux", "^2$")?])
//!     .timeout(std::time::Duration::from_secs(120))
//!     .execute()?
//!     .success()?;
//! assert!(outcome.console("control").contains("misses=0"));
//! # Ok::<(), anyhow::Error>(())
//! ```
//!
//! The consoles share one byte stream, [`abi::mux`]. Usually that is the UART (QEMU's standard input and output).
//! A scripted run under `-icount` uses lockstep instead: EL2 reads and writes QEMU's standard input and output by
//! semihosting, which stops the machine, and with it virtual time, until the runner has answered. So what is typed
//! arrives at a point that follows from the output alone, and two runs are equal to the byte. Only such a run has
//! semihosting, which QEMU cannot keep from the guests' kernels.
//!
//! QEMU never outlives its runner: it is killed when the run ends, and by the kernel if the runner itself is killed.

mod config;
mod console;
mod host_cpu;
mod image;
mod input;
mod jobs;
mod memory;
mod outcome;
mod process;
mod profile;
mod recording;
mod run;
mod script;
mod sections;
mod session;
mod symbols;
mod terminal;

pub use config::{Board, Config, Gic, Program};
pub use console::HYPERVISOR;
pub use image::{flatten, flatten_at};
pub use jobs::{Job, Jobs};
pub use memory::Memory;
pub use outcome::{Ending, Failure, Outcome};
pub use profile::{Class, Code, Profile};
pub use recording::{Clock, Event, Events, Guest, JOB_BEGIN, JOB_END, Kind, Recording, Steps};
pub use run::Run;
pub use script::{Step, unescape};
pub use sections::{Section, Sections};
pub use session::Observer;
pub use symbols::Symbols;
