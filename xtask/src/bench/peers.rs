//! `cargo xtask bench --against xen,kvm`: the same guest on the same emulated machine with other hypervisors at EL2, in one table.
//!
//! Figures are of whole round trips as a guest has them, since what is EL2 and what is not differs between hypervisors.

mod kvm;
mod rows;
pub mod table;
pub mod tree;
mod xen;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu::{Board, Config, Gic, HYPERVISOR, Recording, Run, Step, Steps};
use serde_json::{Value, json};

use super::figure::Figure;
use super::scenario::{COUNTER, SHARE, Scenario, Stage, repeat};
use crate::build::Builder;
use crate::setup::{self, SetupOptions};

use kvm::Kvm;
pub use rows::Peer;
use rows::{Case, Contender, N, ROWS, Row};
use table::HEAD;

/// How long a run may take on the host's clock.
const TIMEOUT: Duration = Duration::from_secs(1800);
/// What Xen says when it has not the scheduler that it was told to use, and takes another one.
const NO_SCHEDULER: &str = "Could not find scheduler";
/// Where the bench guest is linked to run, from the start of RAM.
const GUEST_BASE: u64 = tree::RAM + 0x8_0000;

/// What the peers are made of.
struct Files {
    xen: Option<PathBuf>,
    kvm: Kvm,
    /// The bench guest, as an arm64 Image.
    guest: Vec<u8>,
}

/// Refuses names of rows that there are not.
///
/// # Errors
/// The first such name.
pub fn check(names: &[String]) -> Result<()> {
    for name in names {
        let known = || ROWS.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        ensure!(
            ROWS.iter().any(|row| row.name == name),
            "there is no {name} to compare: there are {}",
            known()
        );
    }
    Ok(())
}

/// Measures and prints the rows of these names, all if there are none, and returns the figures.
///
/// # Errors
/// Something that is compared cannot be had, or a run failed.
pub fn run(peers: &[Peer], names: &[String], options: &SetupOptions) -> Result<Value> {
    let xen = if peers.contains(&Peer::Xen) { Some(setup::xen(options)?) } else { None };
    let stage = &Stage::new(Builder::new(setup::run(options)?))?;
    let elf = fs::read(stage.guest()).with_context(|| stage.guest().display().to_string())?;
    let guest = qemu::flatten_at(&elf, GUEST_BASE).context("the bench guest")?;
    let kvm = Kvm {
        kernel: stage.builder().tools().kernel.clone(),
        runner: stage.builder().artefact("kvm-runner", "kvm-runner")?,
    };
    let files = Files { xen, kvm, guest };

    println!("{HEAD}");
    let mut all: Vec<Value> = Vec::new();
    for row in ROWS.iter().filter(|row| names.is_empty() || names.iter().any(|name| name == row.name)) {
        println!("{}", table::title(row.name, row.path));
        for contender in rows::contenders(peers) {
            let Some(case) = row.case(contender) else { continue };
            let measured = measure(stage, &files, row, contender, &case)
                .with_context(|| format!("{} on {}", row.name, contender.name))?;
            all.push(to_json(row, contender, &measured));
            println!("{}", table::line(&all, all.len() - 1));
        }
    }
    Ok(json!({ "benches": all }))
}

/// What was measured of a contender.
struct Measured {
    /// Nothing, if the contender turns out not to have its scheduler.
    figure: Figure,
    /// Two runs had the same histogram.
    repeats: bool,
}

fn measure(stage: &Stage, files: &Files, row: &Row, contender: &Contender, case: &Case) -> Result<Measured> {
    let Some(peer) = contender.peer else {
        let taken = stage.run_twice(&scenario(row, case), Steps::None)?;
        let figure = complete(row.measured.figure(taken.events()?)?)?;
        taken.remove()?;
        return Ok(Measured { figure, repeats: true });
    };
    let run = |copy| {
        let Some(taken) = record(stage, files, peer, row, case, copy)? else { return Ok(Figure::default()) };
        let figure = complete(row.measured.figure(taken.read()?)?)?;
        fs::remove_file(&taken.file).with_context(|| taken.file.display().to_string())?;
        Ok(figure)
    };
    let mut runs = repeat(row.name, run, |one, other| Ok(one == other))?;
    // Without two equal ones the first will do as well as any.
    Ok(Measured { figure: runs.all.swap_remove(runs.agreed.unwrap_or(0)), repeats: runs.agreed.is_some() })
}

fn complete(figure: Figure) -> Result<Figure> {
    ensure!(figure.n() == N, "{} events were measured instead of {N}", figure.n());
    Ok(figure)
}

/// A case as a machine of MobiVMM.
fn scenario(row: &Row, case: &Case) -> Scenario {
    let mut scenario = Scenario::alone(row.name, row.role, 0);
    (scenario.cpu, scenario.cpus, scenario.marks_only) = (case.cpu, case.cpus, true);
    scenario.vms = case.vms.iter().map(|(role, vcpus)| (role.clone(), *vcpus, SHARE)).collect();
    scenario.vms[0].2 = case.scheduler;
    scenario
}

/// Runs a case on a peer; `None` if it does not have this scheduler.
fn record(
    stage: &Stage,
    files: &Files,
    peer: Peer,
    row: &Row,
    case: &Case,
    copy: u32,
) -> Result<Option<Recording>> {
    let beside = stage.files().join(format!("peer-{}-{copy}", row.name));
    let mut recording = Recording::new(stage.plugin().into(), beside.with_extension("events"));
    recording.entries = false;
    let mut config = Config {
        program: stage.builder().tools().qemu.clone().into(),
        board: Board::Virt {
            gic: Gic::V3,
            cpu: format!("{},{COUNTER}", case.cpu),
            cpus: case.cpus,
            memory_mib: 1024,
        },
        icount: true,
        image: PathBuf::new(),
        bundle: None,
        bootargs: Vec::new(),
        extra: recording.arguments().into(),
    };
    match peer {
        Peer::Xen => {
            let xen = files.xen.clone().context("Xen was not asked for")?;
            xen::prepare(&mut config, xen, case, &files.guest, &beside)?;
        }
        Peer::Kvm => kvm::prepare(&mut config, &files.kvm, case, &files.guest, &beside)?,
    }
    let outcome = Run::new(config, Vec::<String>::new())
        .plain()
        .script([Step::until(HYPERVISOR, &format!(r"\b(done: .*|FAIL.*)$|{NO_SCHEDULER}"))?])
        .timeout(TIMEOUT)
        .execute()?
        .success()?;
    let console = outcome.console(HYPERVISOR);
    ensure!(!console.contains("FAIL"), "it failed:\n{console}");
    Ok((!console.contains(NO_SCHEDULER)).then_some(recording))
}

fn to_json(row: &Row, contender: &Contender, measured: &Measured) -> Value {
    let Measured { figure, repeats } = measured;
    json!({
        "name": row.name,
        "contender": contender.name,
        "cpu": contender.model(),
        "mobivmm": contender.peer.is_none(),
        "path": row.path,
        "n": figure.n(),
        "p50": figure.quantile(500),
        "p99": figure.quantile(990),
        "max": figure.max(),
        "repeats": repeats,
        "histogram": figure.histogram().collect::<Vec<_>>(),
    })
}
