//! `cargo xtask sim`: a machine's schedule in virtual time, on the host.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use machines::{Machine, Workload};
use sim::{Costs, Options};

use crate::board::BoardArgs;

/// Options of `cargo xtask sim`.
#[derive(Args, Debug)]
pub struct SimOptions {
    /// The machine file
    #[arg(value_name = "MACHINE.toml")]
    machine: PathBuf,
    /// What the guests' random numbers follow from
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How long to simulate
    #[arg(long = "for", value_name = "TIME", default_value = "2s", value_parser = machines::duration)]
    duration: u64,
    /// What a VM's vCPUs do, instead of what the file says: the name of a kind (see `machine explain`)
    #[arg(long, value_name = "VM=KIND", value_parser = workload)]
    workload: Vec<(String, String)>,
    /// Write a Gantt chart to this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// How much of the time the chart shows, from the start
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = machines::duration)]
    svg_for: u64,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    board: BoardArgs,
}

/// Simulates, prints the figures, and returns whether nobody was late and no task can be.
///
/// # Errors
/// The machine file is refused, or something cannot be written.
pub fn run(options: &SimOptions) -> Result<bool> {
    let mut machine = Machine::load(&options.machine)?;
    for (name, kind) in &options.workload {
        assign(&mut machine, name, kind)?;
    }
    let overhead = options.board.overhead();
    let outcome = sim::simulate(
        &machine,
        &Options {
            online: options.board.online()?,
            overhead,
            costs: Costs::of(overhead),
            seed: options.seed,
            duration: options.duration,
            charted: if options.svg.is_some() { options.svg_for } else { 0 },
        },
    )?;
    print!("{}", outcome.report);
    if let Some(path) = &options.svg {
        write(path, &outcome.chart())?;
    }
    if let Some(path) = &options.json {
        write(path, &serde_json::to_string_pretty(&outcome.report)?)?;
    }
    Ok(outcome.report.passes())
}

fn assign(machine: &mut Machine, name: &str, kind: &str) -> Result<()> {
    let vm = machine.vms.iter_mut().find(|vm| vm.name == name);
    let vm = vm.with_context(|| format!("--workload: the machine has no VM \"{name}\""))?;
    let Some(workload) = Workload::of_kind(kind, &vm.schedule) else {
        bail!("--workload: \"{kind}\" is none of {}", Workload::kinds().collect::<Vec<_>>().join(", "))
    };
    vm.workload = workload;
    Ok(())
}

fn workload(text: &str) -> Result<(String, String)> {
    let (vm, kind) = text.split_once('=').ok_or_else(|| anyhow!("write VM=KIND"))?;
    Ok((vm.to_owned(), kind.to_owned()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_on_the_command_line_replaces_the_files() {
        let text = "[machine]\nname = \"m\"\n[[vm]]\nname = \"a\"\nkernel = \"x:y\"\nmemory = \"2MiB\"\n";
        let mut machine = Machine::parse(Path::new("m.toml"), text).unwrap();
        let (vm, kind) = workload("a=dodger").unwrap();
        assign(&mut machine, &vm, &kind).unwrap();
        assert!(matches!(machine.vms[0].workload, Workload::Dodger { .. }));
        let refused = |vm, kind| assign(&mut machine.clone(), vm, kind).unwrap_err().to_string();
        assert!(refused("b", "busy").contains("no VM \"b\""));
        assert!(refused("a", "lazy").contains("none of busy, periodic"));
        assert!(workload("a").is_err());
    }
}
