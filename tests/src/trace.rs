//! The hypervisor's trace: that it opens by the schema that Perfetto publishes, and says what was seen from outside of the same run.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use qemu::{Event, Gic, Kind, Recording};

use crate::sched::{Occupancy, Span, shares};
use crate::{Lab, Test};

/// Makes the counter count instructions: under `--icount` one takes 1 ns.
const CPU: &str = "cortex-a72,cntfrq=1000000000";
const MS: u64 = 1_000_000;
/// What is looked at: all guests have started.
const WINDOW: Range<u64> = 50 * MS..190 * MS;
/// When the burner ends it all.
const UNTIL: u64 = 200 * MS;
/// How far the two may be apart at one switch: EL2 writes the record between the decision and the entry of the guest, ns.
const SWITCH: u64 = 10_000;
/// How long after the vector's first instruction EL2 takes an exit's time, ns.
const EXIT: u64 = 1_000;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("trace_agrees_gicv2_icount", |lab, name| agrees(lab, name, Gic::V2, 1)),
        Test::new("trace_agrees_gicv3_icount", |lab, name| agrees(lab, name, Gic::V3, 1)),
        Test::new("trace_agrees_cpus4_icount", |lab, name| agrees(lab, name, Gic::V3, 4)),
        Test::new("trace_off_and_on_icount", off_and_on),
        Test::new("trace_storm", storm),
        Test::new("trace_main_job", main_job),
        Test::new("trace_top_icount", top),
    ]
}

/// A reservation with jobs, which is woken by its timer; a share that sleeps and wakes; one that always wants to run; and one that is woken
/// all the time.
fn machine(lab: &Lab<'_>, name: &str) -> Result<PathBuf> {
    let vm = |name: &str, role: &str, schedule: &str| {
        format!(
            "[[vm]]\nname = \"{name}\"\nkernel = \"bench-guest:bench\"\nmemory = \"4MiB\"\nvcpus = 1\n\
             cmdline = \"{role}\"\nschedule = {{ {schedule} }}\n"
        )
    };
    let vms = [
        vm("jobs", "task n=100000 work=100000 sleep=900000", "budget = \"250us\", period = \"1ms\""),
        vm("burner", &format!("burn until={UNTIL}"), "weight = 256"),
        vm("dodger", "dodge work=300000 period=2000000", "weight = 256"),
        vm("timers", "timers", "weight = 128"),
    ];
    let file = lab.files.join(name).with_added_extension("toml");
    fs::write(&file, format!("[machine]\nname = \"trace\"\n{}", vms.concat()))?;
    Ok(file)
}

/// The trace and the plugin's recording of the same run say the same; and it comes out the same twice.
fn agrees(lab: &Lab<'_>, name: &str, gic: Gic, cpus: u32) -> Result<()> {
    let machine = machine(lab, name)?;
    let recording = Recording::new(lab.plugin.clone(), lab.files.join(name).with_added_extension("events"));
    let mut files = Vec::new();
    for n in 0..2 {
        let file = lab.files.join(format!("{name}-{n}")).with_added_extension("pftrace");
        let (gic, cpus) = (gic.to_string(), cpus.to_string());
        let [_, plugin] = recording.arguments();
        run(
            lab,
            &[
                "run",
                text(&machine)?,
                "--icount",
                "--gic",
                &gic,
                "--cpus",
                &cpus,
                "--cpu",
                CPU,
                "--trace",
                text(&file)?,
                "--until",
                "burner:^done",
                "--",
                "-plugin",
                text(Path::new(&plugin))?,
            ],
        )?;
        files.push(file);
    }
    ensure!(fs::read(&files[0])? == fs::read(&files[1])?, "two runs wrote traces that are not equal");
    let trace = Trace::parse(lab, &files[0])?;
    let events = recording.read()?.collect::<Result<Vec<_>>>()?;
    let names = ["jobs", "burner", "dodger", "timers"];
    let vms: Vec<(&str, &[&str])> = names.iter().map(|vm| (*vm, std::slice::from_ref(vm))).collect();
    trace.has_tracks(cpus, &vms)?;
    ensure!(trace.lost() == 0, "{} records are lost", trace.lost());

    let mut occupancy = Occupancy::default();
    let seen: Vec<Span> = events.iter().filter_map(|event| occupancy.observe(event)).collect();
    let mut said = Vec::new();
    for cpu in 0..cpus as u8 {
        for slice in &trace.slices[&format!("CPU {cpu}")] {
            let vm = names.iter().position(|name| *name == slice.name).context("a CPU is nobody's")?;
            let time = slice.time.clone();
            said.push(Span { cpu, vm, visit: time.start, time });
        }
    }
    let (seen_shares, said_shares) =
        (shares(&seen, names.len(), &WINDOW), shares(&said, names.len(), &WINDOW));
    for (vm, name) in names.iter().enumerate() {
        if cpus == 1 {
            // With several a CPU's turn ends when the emulator likes: between a record and what it says, too.
            let switches =
                said.iter().filter(|span| span.vm == vm && span.within(&WINDOW) > 0).count() as u64;
            let slack = (switches * SWITCH) as f64 / (WINDOW.end - WINDOW.start) as f64;
            let (outside, inside) = (seen_shares[vm], said_shares[vm]);
            ensure!(
                (outside - inside).abs() <= slack,
                "{name} had {outside} of a CPU, and {inside} by the trace: {slack}"
            );
        }
        // What a vCPU's own track says is the other side of what the CPUs' say.
        let runs = |slice: &&Slice| slice.name.starts_with("runs on CPU ");
        let own: u64 = trace.slices[*name].iter().filter(runs).map(Slice::length).sum();
        let had: u64 =
            said.iter().filter(|span| span.vm == vm).map(|span| span.time.end - span.time.start).sum();
        ensure!(own == had && own > 0, "{name} ran for {own} ns by its track, for {had} by the CPUs'");
    }
    compare_exits(&trace, &events, if cpus == 1 { EXIT } else { u64::MAX })?;
    // Of 1,000 and 500 a second; with several CPUs a budget also goes while another one has its turn.
    let least = if cpus == 1 { [150, 75] } else { [20, 20] };
    let woken = ["jobs", "dodger"].map(|vm| trace.count(vm, "wake-up"));
    ensure!(woken[0] >= least[0] && woken[1] >= least[1], "{woken:?} wake-ups in 200 ms, not {least:?}");
    Ok(())
}

/// Each exit from a guest is in the trace, on its CPU, in its place, with its reason, and at most so many ns late.
fn compare_exits(trace: &Trace, events: &[Event], most: u64) -> Result<()> {
    let mut clock = qemu::Clock::default();
    let mut seen: BTreeMap<u8, Vec<(u16, u64, u64)>> = BTreeMap::new();
    for event in events {
        clock.observe(event);
        // Vectors for exceptions from a lower level (Arm ARM, "Exception vectors").
        if let Kind::Entry { vector: vector @ 0x400.., esr, .. } = event.kind {
            seen.entry(event.cpu).or_default().push((vector, esr, clock.time(event)));
        }
    }
    let said = trace.instants.iter().filter(|(track, exits)| track.starts_with("CPU ") && !exits.is_empty());
    let said: Vec<_> = said.map(|(_, exits)| exits).collect();
    ensure!(said.len() == seen.len(), "{} CPUs had exits, not {}", said.len(), seen.len());
    // The plugin's numbers need not begin with 0, but are in the same order.
    for (cpu, (seen, said)) in seen.values().zip(said).enumerate() {
        compare_cpu(cpu, seen, said, most)?;
    }
    let last = events.last().map(|event| clock.time(event));
    ensure!(last >= Some(WINDOW.end), "the recording ends at {last:?}");
    Ok(())
}

/// Both end with the run, but not with the same exit: QEMU is killed.
fn compare_cpu(cpu: usize, seen: &[(u16, u64, u64)], said: &[(String, u64)], most: u64) -> Result<()> {
    ensure!(seen.len().abs_diff(said.len()) < 100, "{} exits of CPU {cpu}, not {}", said.len(), seen.len());
    for (n, ((vector, esr, at), (name, time))) in seen.iter().zip(said).enumerate() {
        let right = match (vector & 0x180, esr >> 26) {
            (0x80, _) => ["timer", "CPU", "interrupt", "registers"].iter().any(|word| name.contains(word)),
            (0, 1) => name == "WFI" || name == "WFE",
            (0, 0x16) => name == "HVC",
            (0, 0x18) => name == "system register",
            (0, 0x24) => name == "data abort",
            _ => false,
        };
        let late = time.wrapping_sub(*at);
        ensure!(
            right && late <= most,
            "exit {n} of CPU {cpu}: {vector:#x}, {esr:#x} at {at} ns is {name:?} at {time} ns"
        );
    }
    Ok(())
}

/// The operator's commands: what happens meanwhile is not in the trace, and that is.
fn off_and_on(lab: &Lab<'_>, name: &str) -> Result<()> {
    let file = lab.files.join(name).with_added_extension("pftrace");
    let path = text(&file)?;
    let mut arguments = vec!["run", "machines/rtos.toml", "--icount", "--cpu", CPU, "--trace", path];
    arguments.extend([
        "--until",
        "control:misses=",
        "--send",
        r"mobivmm:trace off\n",
        "--until",
        "control:misses=",
    ]);
    arguments.extend(["--send", r"mobivmm:trace on\n", "--until", "control:misses="]);
    run(lab, &arguments)?;
    let trace = Trace::parse(lab, &file)?;
    trace.has_tracks(4, &[("control", &["control"])])?;
    let cpu = trace.slices.iter().find(|(track, slices)| {
        track.starts_with("CPU ") && slices.iter().any(|slice| slice.name == "control")
    });
    let (_, slices) = cpu.context("control had no CPU")?;
    let off: Vec<&Slice> = slices.iter().filter(|slice| slice.name == "not traced").collect();
    let &[gap] = &off[..] else { bail!("{} gaps, not one", off.len()) };
    // It prints once a second.
    ensure!((900 * MS..1_100 * MS).contains(&gap.length()), "a gap of {} ns", gap.length());
    let outside = |slice: &&Slice| slice.time.end <= gap.time.start || slice.time.start >= gap.time.end;
    ensure!(trace.slices["control"].iter().all(|slice| outside(&slice)), "control was seen in the gap");
    let jobs = trace.count("control", "job done");
    ensure!((1_900..2_100).contains(&jobs), "{jobs} jobs in two seconds");
    Ok(())
}

/// What cannot be read in time is counted, and nothing else is wrong with the trace.
fn storm(lab: &Lab<'_>, name: &str) -> Result<()> {
    let content = "[machine]\nname = \"storm\"\n[[vm]]\nname = \"storm\"\nkernel = \"bench-guest:bench\"\nmemory = \"4MiB\"\n\
                cmdline = \"hypercall n=100000\"\n";
    let machine = lab.files.join(name).with_added_extension("toml");
    fs::write(&machine, content)?;
    let file = machine.with_extension("pftrace");
    run(
        lab,
        &[
            "run",
            text(&machine)?,
            "--cpus",
            "1",
            "--trace",
            text(&file)?,
            "--trace-every",
            "100ms",
            "--until",
            "storm:^done",
        ],
    )?;
    let trace = Trace::parse(lab, &file)?;
    trace.has_tracks(1, &[("storm", &["storm"])])?;
    let (came, lost) = (trace.count("CPU 0", "HVC"), trace.lost());
    ensure!(lost > 0 && came > 0, "{came} came and {lost} were lost");
    // The hypercalls themselves, those that are not measured, and what it takes to start and to end.
    ensure!((100_010..101_000).contains(&(came + lost)), "{came} came and {lost} were lost: not 100,000");
    Ok(())
}

/// The machine that everybody starts with, at the host's speed.
fn main_job(lab: &Lab<'_>, name: &str) -> Result<()> {
    let file = lab.files.join(name).with_added_extension("pftrace");
    let path = text(&file)?;
    run(lab, &["run", "--trace", path, "--until", "linux:~ #", "--until", "control:misses="])?;
    let trace = Trace::parse(lab, &file)?;
    trace.has_tracks(4, &[("linux", &["linux/0", "linux/1"]), ("control", &["control"])])?;
    ensure!(trace.slices["linux/0"].len() > 100, "Linux has hardly run");
    ensure!(trace.count("control", "job done") + trace.count("control", "deadline missed") > 100, "no jobs");
    // The command says the same of the file.
    let svg = file.with_extension("svg");
    let picture = text(&svg)?;
    let figures = run(lab, &["trace", path, "--svg", picture, "--from", "100ms", "--for", "50ms"])?;
    let first = figures.lines().next().unwrap_or_default();
    ensure!(first.ends_with(&format!("{} records lost", trace.lost())), "{first}");
    let picture = fs::read_to_string(&svg)?;
    ensure!(["CPU 3", "linux/1", "control"].iter().all(|name| picture.contains(name)), "{picture}");
    Ok(())
}

/// A table for each interval, which is over when the machine is looked at next.
fn top(lab: &Lab<'_>, _: &str) -> Result<()> {
    let shown = run(
        lab,
        &["top", "machines/rtos.toml", "--icount", "--cpu", CPU, "--every", "500ms", "--for", "1500ms"],
    )?;
    let tables = shown.lines().filter(|line| line.ends_with(" s, 0 records lost")).count();
    ensure!(tables == 3, "{tables} tables, not 3:\n{shown}");
    let rows = shown.lines().filter_map(|line| line.strip_prefix("control "));
    let rows: Vec<Vec<f64>> =
        rows.map(|row| row.split_whitespace().filter_map(|word| word.parse().ok()).collect()).collect();
    // The first interval has the start.
    for row in &rows[1..] {
        let &[share, jobs, misses, exits, wakeups] = &row[..] else { bail!("{shown}") };
        let right = (1.0..25.0).contains(&share)
            && (500.0..600.0).contains(&jobs)
            && misses == 0.0
            && exits >= wakeups
            && (950.0..=1_050.0).contains(&wakeups);
        ensure!(right, "1,000 jobs a second within a quarter of a CPU are not:\n{shown}");
    }
    Ok(())
}

/// Runs `cargo xtask`, which has to succeed; returns what it prints.
fn run(lab: &Lab<'_>, arguments: &[&str]) -> Result<String> {
    let output = lab.xtask(arguments)?;
    let [out, err] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    ensure!(output.status.success(), "{}\n{out}{err}", output.status);
    Ok(out)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path of the tests' files is not UTF-8")
}

/// A stretch of a track.
#[derive(Debug)]
struct Slice {
    name: String,
    /// ns.
    time: Range<u64>,
}

impl Slice {
    fn length(&self) -> u64 {
        self.time.end - self.time.start
    }
}

/// What a trace says by Perfetto's own schema.
#[derive(Debug, Default)]
struct Trace {
    /// Name and parent of each track.
    tracks: BTreeMap<u64, (String, u64)>,
    /// By track.
    slices: BTreeMap<String, Vec<Slice>>,
    /// By track: their names and times.
    instants: BTreeMap<String, Vec<(String, u64)>>,
}

impl Trace {
    /// Reads it with the Python package that Perfetto publishes. Slices have an end and do not overlap, and nothing is of no track.
    fn parse(lab: &Lab<'_>, file: &Path) -> Result<Self> {
        let mut python = Command::new("python3");
        python.arg(lab.root.join("tests/read_trace.py")).arg(file);
        let output = python
            .env("PYTHONPATH", (lab.schema)()?)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .context("cannot start python3")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut trace = Self::default();
        let mut begun: BTreeMap<String, Slice> = BTreeMap::new();
        for line in String::from_utf8(output.stdout)?.lines() {
            let &[kind, track, number, name] = &line.split('\t').collect::<Vec<_>>()[..] else {
                bail!("{line}")
            };
            let (uuid, number): (u64, u64) = (track.parse()?, number.parse()?);
            if kind == "track" {
                let double = trace.tracks.insert(uuid, (name.into(), number));
                ensure!(double.is_none(), "two tracks are {uuid}");
                trace.slices.insert(name.into(), Vec::new());
                trace.instants.insert(name.into(), Vec::new());
                continue;
            }
            let (track, _) = trace.tracks.get(&uuid).with_context(|| format!("of no track: {line}"))?.clone();
            let slices = trace.slices.entry(track.clone()).or_default();
            match kind {
                "begin" => {
                    let last = slices.last().map_or(0, |slice| slice.time.end);
                    ensure!(number >= last, "{track}: {name} begins at {number}, before {last}");
                    let double = begun.insert(track, Slice { name: name.into(), time: number..number });
                    ensure!(double.is_none(), "{double:?} has not ended: {line}");
                }
                "end" => {
                    let mut slice = begun.remove(&track).with_context(|| format!("not begun: {line}"))?;
                    ensure!(number >= slice.time.start, "{slice:?} ends at {number}");
                    slice.time.end = number;
                    slices.push(slice);
                }
                _ => trace.instants.entry(track).or_default().push((name.into(), number)),
            }
        }
        ensure!(begun.is_empty(), "slices without an end: {begun:?}");
        Ok(trace)
    }

    /// The tracks are those of so many CPUs and of these VMs, each with its vCPUs.
    fn has_tracks(&self, cpus: u32, vms: &[(&str, &[&str])]) -> Result<()> {
        let mut wanted: Vec<(String, Option<String>)> = vec![("CPUs".into(), None)];
        wanted.extend((0..cpus).map(|cpu| (format!("CPU {cpu}"), Some("CPUs".into()))));
        for (vm, vcpus) in vms {
            wanted.push((format!("VM {vm}"), None));
            wanted.extend(vcpus.iter().map(|vcpu| ((*vcpu).into(), Some(format!("VM {vm}")))));
        }
        let parent = |parent: &u64| self.tracks.get(parent).map(|(name, _)| name.clone());
        let mut found: Vec<_> =
            self.tracks.values().map(|(name, above)| (name.clone(), parent(above))).collect();
        wanted.sort();
        found.sort();
        ensure!(found == wanted, "the tracks are {found:?}, not {wanted:?}");
        Ok(())
    }

    /// How often something happened on a track.
    fn count(&self, track: &str, name: &str) -> u64 {
        let instants = self.instants.get(track).into_iter().flatten();
        instants.filter(|(instant, _)| instant == name).count() as u64
    }

    /// How many records are missing.
    fn lost(&self) -> u64 {
        let names = self.slices.values().flatten().map(|slice| slice.name.as_str());
        names.filter_map(|name| name.strip_prefix("lost: ")?.parse::<u64>().ok()).sum()
    }
}
