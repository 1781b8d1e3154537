//! The hypervisor's trace: `run --trace` writes it, `trace` shows what was written, `top` shows it while the machine runs.

pub mod top;
mod tracer;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use trace::Recorded;

pub use tracer::Tracer;

/// Options of `cargo xtask trace`.
#[derive(Args, Debug)]
pub struct TraceOptions {
    /// What `cargo xtask run --trace` wrote
    #[arg(value_name = "FILE.pftrace")]
    file: PathBuf,
    /// Write a Gantt chart to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// What the chart begins with, from the beginning of the trace
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = machines::duration)]
    from: u64,
    /// How much of the time the chart shows [default: all]
    #[arg(long = "for", value_name = "TIME", value_parser = machines::duration)]
    duration: Option<u64>,
}

/// Prints the figures of a trace, and draws it.
///
/// # Errors
/// The file is no trace, or something cannot be written.
pub fn run(options: &TraceOptions) -> Result<()> {
    let TraceOptions { file, svg, from, duration } = options;
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let recorded = Recorded::parse(&bytes).with_context(|| file.display().to_string())?;
    print!("{recorded}");
    if let Some(path) = svg {
        let title = file.file_stem().unwrap_or_default().to_string_lossy();
        let chart = recorded.chart(&title, *from, *duration);
        fs::write(path, chart).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
