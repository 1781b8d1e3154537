//! `cargo xtask bench`: measures what is promised, from outside the code under test.

mod figure;
mod measure;
mod measured;
mod peers;
mod plants;
mod plots;
mod profile;
mod report;
mod rows;
mod scenario;
mod spans;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::build::Builder;
use crate::setup::{self, SetupOptions};

use peers::Peer;

pub use measured::{Extent, Measured};
pub use plants::Plants;
pub use profile::Profile;
pub use rows::{ROWS, Row, State};
pub use scenario::Stage;

/// What was measured last: of the rows, and of the comparison.
const FIGURES: &str = "docs/bench.json";
const PEERS: &str = "docs/peers.json";

/// Options of `cargo xtask bench`.
#[derive(Args, Debug)]
pub struct BenchOptions {
    /// What to measure; everything by default
    names: Vec<String>,
    /// Fail if a promise is broken, or where another number is proposed, that one
    #[arg(long)]
    check: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write docs/bench.json, or with --against docs/peers.json, and the pages as with --pages
    #[arg(long, conflicts_with = "names")]
    report: bool,
    /// Measure nothing: make PROMISES.md, the figures in docs/performance.md and docs/peers.md, and the pictures, of what was measured last
    #[arg(long, exclusive = true)]
    pages: bool,
    /// As many events as are promised, not as many as fit into a few minutes
    #[arg(long)]
    full: bool,
    /// Show where the instructions of this path go, by function
    #[arg(long, value_name = "NAME", conflicts_with_all = ["names", "check", "json", "report"])]
    profile: Option<String>,
    /// Plant a delay on the path of each of these rows in turn: that row, and no other one, must notice
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with_all = ["names", "check", "json", "report", "full"])]
    plant: Vec<String>,
    /// Compare with other hypervisors: the same guest on the same emulated machine
    #[arg(long, value_name = "PEER", value_delimiter = ',', conflicts_with_all = ["check", "full", "profile", "plant"])]
    against: Vec<Peer>,
    #[command(flatten)]
    setup: SetupOptions,
}

/// Measures, prints, and returns whether all promises that were to be checked are kept.
///
/// # Errors
/// Something could not be measured, or two runs of it differ.
pub fn run(options: &BenchOptions) -> Result<bool> {
    if options.pages {
        return write_pages().map(|()| true);
    }
    if !options.against.is_empty() {
        return compare(options).map(|()| true);
    }
    for name in options.profile.iter().chain(&options.names).chain(&options.plant) {
        let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        ensure!(ROWS.iter().any(|row| row.name == name), "there is no {name}: there are {}", known());
    }
    let stage = Stage::new(Builder::new(setup::run(&options.setup)?))?;
    if let Some(name) = &options.profile {
        let row = ROWS.iter().find(|row| row.name == name).context("no such row")?;
        Profile::take(&stage, row)?.print();
        return Ok(true);
    }
    if !options.plant.is_empty() {
        let plants = Plants::new(&stage)?;
        let mut all = true;
        for row in chosen(&options.plant) {
            let noticed = plants.check(row);
            all &= noticed.is_ok();
            println!("{}", noticed.unwrap_or_else(|error| format!("FAILED {error:#}")));
        }
        return Ok(all);
    }

    println!("{:<26} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}", "", "n", "p50", "p99", "p99.9", "max", "promise");
    let (mut all, mut broken) = (Vec::new(), Vec::new());
    for row in chosen(&options.names) {
        let measured = Measured::take(&stage, row, if options.full { Extent::Full } else { Extent::Usual })?;
        let state = measured.state();
        measured.print(match state {
            State::Broken => "  BROKEN",
            State::Proposed => "  as proposed",
            State::Kept => "",
        });
        broken.extend((state == State::Broken).then_some(row.name));
        all.push(measured);
    }
    let figures = json!({ "benches": all.iter().map(Measured::to_json).collect::<Vec<_>>() });
    if let Some(file) = &options.json {
        write(file, &json_text(&figures)?)?;
    }
    if options.report {
        write(&Builder::root().join(FIGURES), &json_text(&figures)?)?;
        write_pages()?;
    }
    if options.check && !broken.is_empty() {
        println!("broken: {}", broken.join(", "));
    }
    Ok(!options.check || broken.is_empty())
}

/// The rows of these names; all if there are none.
fn chosen(names: &[String]) -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(move |row| names.is_empty() || names.iter().any(|name| name == row.name))
}

fn compare(options: &BenchOptions) -> Result<()> {
    peers::check(&options.names)?;
    let figures = peers::run(&options.against, &options.names, &options.setup)?;
    options.json.iter().try_for_each(|file| write(file, &json_text(&figures)?))?;
    if options.report {
        write(&Builder::root().join(PEERS), &json_text(&figures)?)?;
        write_pages()?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| file.display().to_string())
}

/// One bench a line, so that a change of a figure is a change of a line.
fn json_text(figures: &Value) -> Result<String> {
    let benches = figures["benches"].as_array().into_iter().flatten();
    let lines = benches.map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(format!("{{\"benches\":[\n{}\n]}}\n", lines.join(",\n")))
}

/// The pages and pictures that are made from the figures and from nothing else, by their files.
fn pages() -> Result<[(&'static str, String); 5]> {
    let (figures, peers) = (recorded(FIGURES)?, recorded(PEERS)?);
    let page = |file: &'static str, part: &str| {
        let text = fs::read_to_string(Builder::root().join(file)).context(file)?;
        Ok::<_, anyhow::Error>((
            file,
            report::replace(&text, part).with_context(|| format!("{file} has no place for the figures"))?,
        ))
    };
    Ok([
        ("PROMISES.md", report::promises(&figures, ROWS)),
        page("docs/performance.md", &report::figures(&figures))?,
        page("docs/peers.md", &format!("```text\n{}```\n", peers::table::text(&peers)))?,
        ("docs/promises.svg", plots::promises(&figures)?),
        ("docs/peers.svg", plots::peers(&peers)?),
    ])
}

fn write_pages() -> Result<()> {
    pages()?.iter().try_for_each(|(file, text)| write(&Builder::root().join(file), text))
}

/// The figures in a file that `--report` has written.
fn recorded(file: &'static str) -> Result<Value> {
    let text = fs::read_to_string(Builder::root().join(file)).context(file)?;
    serde_json::from_str(&text).context(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_are_what_the_figures_make() {
        for (file, text) in pages().unwrap() {
            let there = fs::read_to_string(Builder::root().join(file)).unwrap();
            assert!(there == text, "{file}: run `cargo xtask bench --pages`");
        }
    }
}
