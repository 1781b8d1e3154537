//! `cargo xtask bench`: measures what is promised, from outside the code under test.

mod figure;
mod measure;
mod peers;
mod profile;
mod report;
mod rows;
mod scenario;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use qemu::Code;
use serde_json::{Value, json};

use crate::build::Builder;
use crate::setup::{self, SetupOptions};

use figure::Figure;
use peers::Peer;
use rows::{ROWS, Row};
use scenario::Stage;

/// Options of `cargo xtask bench`.
#[derive(Args, Debug)]
pub struct BenchOptions {
    /// What to measure; everything by default
    names: Vec<String>,
    /// Fail if a promise is broken
    #[arg(long)]
    check: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write docs/bench.json, PROMISES.md and the figures in docs/performance.md
    #[arg(long, conflicts_with = "names")]
    report: bool,
    /// As many events as are promised, not as many as fit into a few minutes
    #[arg(long)]
    full: bool,
    /// Show where the instructions of this path go, by function
    #[arg(long, value_name = "NAME", conflicts_with_all = ["names", "check", "json", "report"])]
    profile: Option<String>,
    /// Compare with other hypervisors: the same guest on the same emulated machine
    #[arg(long, value_name = "PEER", value_delimiter = ',', conflicts_with_all = ["check", "report", "full", "profile"])]
    against: Vec<Peer>,
    #[command(flatten)]
    setup: SetupOptions,
}

/// What was measured for a row.
struct Measured {
    row: &'static Row,
    /// By scenario.
    scenarios: Vec<(&'static str, Figure)>,
    total: Figure,
}

/// Measures, prints, and returns whether all promises that were to be checked are kept.
///
/// # Errors
/// Something could not be measured, or two runs of it differ.
pub fn run(options: &BenchOptions) -> Result<bool> {
    if !options.against.is_empty() {
        return compare(options).map(|()| true);
    }
    let names = options.profile.as_slice().iter().chain(&options.names);
    for name in names {
        let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        ensure!(ROWS.iter().any(|row| row.name == name), "there is no {name}: there are {}", known());
    }
    let stage = Stage::new(Builder::new(setup::run(&options.setup)?))?;
    if let Some(name) = &options.profile {
        let row = ROWS.iter().find(|row| row.name == name).context("no such row")?;
        profile::print(&stage, row)?;
        return Ok(true);
    }

    println!("{:<26} {:>8} {:>8} {:>8} {:>8} {:>8} {:>9}", "", "n", "p50", "p99", "p99.9", "max", "promise");
    let mut all = Vec::new();
    for row in ROWS
        .iter()
        .filter(|row| options.names.is_empty() || options.names.iter().any(|name| name == row.name))
    {
        let measured = measure(&stage, row, options.full)?;
        print(&measured);
        all.push(measured);
    }
    let figures = json!({ "benches": all.iter().map(to_json).collect::<Vec<_>>() });
    if let Some(file) = &options.json {
        write(file, &json_text(&figures)?)?;
    }
    if options.report {
        write_report(&figures)?;
    }
    let broken: Vec<&str> = all.iter().filter(|at| !at.kept()).map(|at| at.row.name).collect();
    if options.check && !broken.is_empty() {
        println!("broken: {}", broken.join(", "));
    }
    Ok(!options.check || broken.is_empty())
}

fn compare(options: &BenchOptions) -> Result<()> {
    peers::check(&options.names)?;
    let figures = peers::run(&options.against, &options.names, &options.setup)?;
    options.json.iter().try_for_each(|file| write(file, &json_text(&figures)?))
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

fn write_report(figures: &Value) -> Result<()> {
    let root = Builder::root();
    let page = root.join("docs/performance.md");
    let text = fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let text = report::replace(&text, &report::figures(figures))
        .with_context(|| format!("{} has no place for the figures", page.display()))?;
    write(&root.join("docs/bench.json"), &json_text(figures)?)?;
    write(&root.join("PROMISES.md"), &report::promises(figures))?;
    write(&page, &text)
}

impl Measured {
    fn kept(&self) -> bool {
        self.total.n() > 0 && self.total.max() <= self.row.promise
    }
}

fn measure(stage: &Stage, row: &'static Row, full: bool) -> Result<Measured> {
    let n = row.n[usize::from(full)];
    let mut code = Code::load(&stage.hypervisor().elf, &stage.hypervisor().image)?;
    let mut measured = Measured { row, scenarios: Vec::new(), total: Figure::default() };
    for scenario in (row.scenarios)(n) {
        let taken = stage.run_twice(&scenario, row.steps)?;
        let figure = (row.measure)(&taken, &mut code)?;
        ensure!(figure.n() > 0, "{}: nothing was measured in {}", row.name, scenario.name);
        measured.total.merge(&figure);
        measured.scenarios.push((scenario.name, figure));
        let file = &taken.recording.file;
        fs::remove_file(file).with_context(|| file.display().to_string())?;
    }
    Ok(measured)
}

fn print(measured: &Measured) {
    let Measured { row, scenarios, total } = measured;
    let verdict = if measured.kept() { "" } else { "  BROKEN" };
    println!("{:<26} {total} {:>9}{verdict}", row.name, row.promise);
    if let (true, Some(worst)) = (row.names_worst, total.worst()) {
        println!("  the worst is {worst:#x}");
    }
    if scenarios.len() > 1 {
        for (name, figure) in scenarios {
            println!("  {name:<24} {figure}");
        }
    }
}

fn to_json(measured: &Measured) -> Value {
    let figure = |figure: &Figure| {
        json!({
            "n": figure.n(),
            "p50": figure.quantile(500),
            "p99": figure.quantile(990),
            "p99.9": figure.quantile(999),
            "max": figure.max(),
            "histogram": figure.histogram().collect::<Vec<_>>(),
        })
    };
    let Measured { row, scenarios, total } = measured;
    let mut value = figure(total);
    value["name"] = row.name.into();
    value["unit"] = row.unit.name().into();
    value["promise"] = row.promise.into();
    value["path"] = row.path.into();
    value["scenarios"] = scenarios.iter().map(|(name, at)| ((*name).to_owned(), figure(at))).collect();
    value
}
