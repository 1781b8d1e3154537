//! Shares: busy VMs get CPU time in proportion to their weights, whoever else is there and whatever tricks they try.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::occupancy::{lags, shares};
use super::scene::{MS, Scene, Vm, machine};
use crate::Test;
use crate::lab::{Lab, send, until};

/// How much a share may be off, of what it should be.
const TOLERANCE: f64 = 0.01;
/// How much somebody may gain by tricks.
const GAIN: f64 = 0.005;
/// The farthest that a VM may be behind or ahead of its fluid share at any time, ns.
const LAG: f64 = 5e6;
/// When shares are measured: all guests have started by then.
const WINDOW: Range<u64> = 100 * MS..2_100 * MS;

pub fn tests() -> Vec<Test> {
    let weights = |weights: [u32; 3]| weights.map(|weight| format!("{{ weight = {weight} }}"));
    let one_cpu = |schedules: [String; 3], ideal: [f64; 3]| {
        move |lab: &Lab<'_>, name: &str| {
            let vms = schedules.iter().enumerate().map(|(n, schedule)| burner(n).schedule(schedule.clone()));
            check(lab, name, 1, &vms.collect::<Vec<_>>(), &ideal)
        }
    };
    let capped = ["{ weight = 256, cap = 20 }", "{ weight = 256 }", "{ weight = 256 }"].map(String::from);
    vec![
        Test::new("sched_equal_weights_icount", one_cpu(weights([256; 3]), [1.0 / 3.0; 3])),
        Test::new(
            "sched_weights_1_2_4_icount",
            one_cpu(weights([256, 512, 1024]), [1, 2, 4].map(|n| f64::from(n) / 7.0)),
        ),
        Test::new("sched_cap_icount", one_cpu(capped, [0.2, 0.4, 0.4])),
        Test::new("sched_5_busy_on_4_cpus_icount", |lab: &Lab<'_>, name: &str| {
            check(lab, name, 4, &(0..5).map(burner).collect::<Vec<_>>(), &[0.8; 5])
        }),
        Test::new("sched_60_percent_of_a_cpu_reserved_icount", |lab: &Lab<'_>, name: &str| {
            let reserved = Vm::new("rtos", "burn").schedule("{ budget = \"3ms\", period = \"5ms\" }");
            let vms: Vec<Vm> = (0..5).map(burner).chain([reserved]).collect();
            beside_reservations(lab, name, &vms, &[1.0 / 5.0; 5])
        }),
        Test::new("sched_overcommit_icount", |lab: &Lab<'_>, name: &str| {
            beside_reservations(lab, name, &overcommit([256; 3]), &[1.0 / 3.0; 3])
        }),
        Test::new("sched_overcommit_1_2_4_icount", |lab: &Lab<'_>, name: &str| {
            let parts = [1, 2, 4].map(|n| f64::from(n) / 7.0);
            beside_reservations(lab, name, &overcommit([256, 512, 1024]), &parts)
        }),
        Test::new("sched_overcommit_linux_icount", linux).long(),
        Test::new("sched_dodgers_icount", dodgers),
    ]
}

/// A VM that is always busy; the first one says when the window has passed.
fn burner(n: usize) -> Vm {
    let role = if n == 0 { format!("burn until={}", WINDOW.end) } else { "burn".into() };
    Vm::new(format!("burner-{n}"), &role)
}

/// `machines/overcommit.toml`: real Linux VMs, busy on all vCPUs. One of its real-time VMs says when time is up, and the other is as
/// in the file but for what it runs.
fn linux(lab: &Lab<'_>, name: &str) -> Result<()> {
    const NAMES: [&str; 3] = ["linux-a", "linux-b", "linux-c"];
    const BUSY: &str = "for n in 1 2 3 4; do while :; do :; done & done; echo bu''sy";
    // All three have booted by then.
    const UP: u64 = 15_000 * MS;
    let mut vms: Vec<Vm> = NAMES.map(|name| Vm::linux(name).vcpus(4)).into();
    let [period, n] = [MS, 2_000];
    let control = format!("jobs n={n} period={period} work=20000 at={UP}");
    vms.push(Vm::new("control", &control).schedule("{ budget = \"250us\", period = \"1ms\" }"));
    let sensor = "{ budget = \"500us\", period = \"5ms\", deadline = \"2ms\" }";
    vms.push(Vm::new("sensor", "burn").schedule(sensor));
    let mut script = Vec::new();
    for name in NAMES {
        script.extend([until(name, "~ #")?, send(name, BUSY), until(name, "^busy")?]);
    }
    script.extend([until("control", "^jobs begin$")?, until("control", "^done")?]);
    let seen = Scene::new(lab, name, 4, &vms)?.timeout(3 * 3_600).run(script)?;
    let had = shares(&seen.spans()?, vms.len(), &(UP..UP + n * period));
    let (busy, reserved) = had.split_at(NAMES.len());
    let left = 4.0 - reserved.iter().sum::<f64>();
    near(busy, &[left / 3.0; 3])
}

/// The shape of `machines/overcommit.toml`.
fn overcommit(weights: [u32; 3]) -> Vec<Vm> {
    let busy = weights.into_iter().enumerate();
    let mut vms: Vec<Vm> =
        busy.map(|(n, weight)| burner(n).vcpus(4).schedule(format!("{{ weight = {weight} }}"))).collect();
    vms.push(Vm::new("control", "burn").schedule("{ budget = \"250us\", period = \"1ms\" }"));
    let sensor = "{ budget = \"500us\", period = \"5ms\", deadline = \"2ms\" }";
    vms.push(Vm::new("sensor", "burn").schedule(sensor));
    vms
}

/// Each VM gets its part of one CPU's time, and is never far from it.
fn check(lab: &Lab<'_>, name: &str, cpus: u32, vms: &[Vm], ideal: &[f64]) -> Result<()> {
    near(&watch(lab, name, cpus, vms, ideal.len())?, ideal)
}

/// The first VMs get their parts of what the others, which have reservations, leave of four CPUs. What those have is more than their
/// budgets, because a CPU sees its timer only when it is its turn.
fn beside_reservations(lab: &Lab<'_>, name: &str, vms: &[Vm], parts: &[f64]) -> Result<()> {
    const CPUS: u32 = 4;
    let had = watch(lab, name, CPUS, vms, parts.len())?;
    let (busy, reserved) = had.split_at(parts.len());
    let left = f64::from(CPUS) - reserved.iter().sum::<f64>();
    near(busy, &parts.iter().map(|part| part * left).collect::<Vec<_>>())
}

/// Each VM's part of one CPU's time. It is an error if one of the first `busy` ones, which never sleep, was ever far from its fluid share.
fn watch(lab: &Lab<'_>, name: &str, cpus: u32, vms: &[Vm], busy: usize) -> Result<Vec<f64>> {
    let machine = machine(lab, name, vms)?;
    let spans = Scene::of(lab, name, cpus, &machine)?.run(vec![until("burner-0", "^done")?])?.spans()?;
    let lags = &lags(&spans, &machine, &WINDOW)[..busy];
    ensure!(lags.iter().all(|lag| *lag <= LAG), "the VMs were up to {lags:?} ns off their shares");
    Ok(shares(&spans, vms.len(), &WINDOW))
}

fn near(had: &[f64], ideal: &[f64]) -> Result<()> {
    let off = had.iter().zip(ideal).position(|(had, ideal)| (had / ideal - 1.0).abs() > TOLERANCE);
    ensure!(off.is_none(), "the VMs have had {had:?} of a CPU, not {ideal:?}");
    Ok(())
}

/// Who sleeps at just the right times gains nothing by it: across what others take for ticks, or whenever it would have to go.
fn dodgers(lab: &Lab<'_>, name: &str) -> Result<()> {
    for (work, period) in [(990, 1_000), (9_900, 10_000), (29_700, 30_000), (9, 10)] {
        let dodger = Vm::new("dodger", &format!("dodge work={work}000 period={period}000"));
        let vms = [burner(0), burner(1), dodger];
        let seen = Scene::new(lab, name, 1, &vms)?.run(vec![until("burner-0", "^done")?])?;
        let had = shares(&seen.spans()?, vms.len(), &WINDOW);
        let fair = 1.0 / 3.0;
        ensure!(
            had[2] <= fair * (1.0 + GAIN),
            "who sleeps across every {period} us has had {} of the CPU, more than {fair}",
            had[2]
        );
    }
    Ok(())
}
