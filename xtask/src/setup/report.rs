//! What setup tells the user, on the standard error: the standard output belongs to the guests' consoles.

use std::fmt::Display;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

/// Tells one fact.
pub fn note(what: impl Display) {
    eprintln!("setup: {what}");
}

/// Does one step and tells about it: with the time that passes on a terminal, else with a line at its start.
pub fn step<T>(what: impl Display, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if !io::stderr().is_terminal() {
        note(what);
        return work();
    }
    let started = Instant::now();
    let bar = ProgressBar::new_spinner()
        .with_style(
            ProgressStyle::with_template("setup: {msg} {spinner} {elapsed}").expect("a valid template"),
        )
        .with_message(what.to_string());
    bar.enable_steady_tick(Duration::from_millis(200));
    let result = work();
    bar.finish_and_clear();
    let outcome = if result.is_ok() { "" } else { ": failed" };
    note(format_args!("{what} ({} s){outcome}", started.elapsed().as_secs()));
    result
}
