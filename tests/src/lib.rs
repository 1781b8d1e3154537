//! End-to-end tests: each starts the machine on QEMU with real guests, and looks at what their consoles say.
//!
//! `cargo xtask test` builds what a [`Lab`] needs and runs [`all`] of them. Times are asserted nowhere: QEMU's CPUs run at the mercy
//! of the host.
#![forbid(unsafe_code)]

mod bad_input;
mod checks;
mod command_line;
mod control;
mod footprint;
mod fuzz;
mod lab;
mod lifecycle;
mod linux;
mod plugin;
mod rpi4;
mod rtos;
mod rules;
mod sched;
mod stolen;
mod terminal;
mod trace;

use anyhow::Result;

pub use lab::Lab;

/// The bare-metal guests that the tests need: package and binary.
pub const GUESTS: [(&str, &str); 6] = [
    ("rtos-guest", "control-loop"),
    ("rtos-guest", "producer-consumer"),
    ("rtos-guest", "two-tasks"),
    ("test-guest", "checks"),
    ("bench-guest", "bench"),
    ("bench-guest", "count"),
];

/// One test.
pub struct Test {
    /// What it is called.
    pub name: String,
    /// Runs it. The error says what went wrong, with the ends of the consoles.
    pub run: Box<TestFn>,
    /// It takes many minutes: it runs only if it is asked for by its whole name.
    pub long: bool,
}

/// The body of a test; it gets the test's own name, for its files.
type TestFn = dyn Fn(&Lab<'_>, &str) -> Result<()>;

impl Test {
    fn new(name: impl Into<String>, run: impl Fn(&Lab<'_>, &str) -> Result<()> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run), long: false }
    }

    fn long(self) -> Self {
        Self { long: true, ..self }
    }

    /// Whether it is among the tests whose name contains `filter`.
    pub fn matches(&self, filter: &str) -> bool {
        if self.long { self.name == filter } else { self.name.contains(filter) }
    }
}

/// All tests, in the order in which they are best run: the quick ones first.
pub fn all() -> Vec<Test> {
    [
        rules::tests(),
        fuzz::tests(),
        command_line::tests(),
        plugin::tests(),
        sched::tests(),
        terminal::tests(),
        checks::tests(),
        bad_input::tests(),
        rtos::tests(),
        lifecycle::tests(),
        footprint::tests(),
        stolen::tests(),
        control::tests(),
        trace::tests(),
        rpi4::tests(),
        linux::tests(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
