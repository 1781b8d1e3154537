//! The QEMU plugin counts right: a program of known length (`tests/bench-guest/src/bin/count.rs`), on one CPU and on several, with and
//! without `-icount`, and at one CPU compared with the PMU.

use anyhow::{Result, ensure};
use qemu::{Board, Config, Event, Gic, Kind, Recording, Run};

use crate::Test;
use crate::lab::Lab;

/// Instructions at EL2 from one change of the interrupt mask to the next: the first one itself, `mov`, 1,000 rounds of six, a load that
/// faults, its handler of four, and two more.
const AT_EL2: u64 = 1 + 1 + 1_000 * 6 + 1 + 4 + 2;
/// What the PMU counts there: the mask is changed twice between its readings, one of which is counted.
const BY_PMU: u64 = AT_EL2 + 1;
/// Between the marks at EL1: the mark itself, `mov`, 100 rounds of five, and what each round executes at EL2.
const AT_EL1: u64 = 1 + 1 + 100 * 5;
const IN_CALLS: u64 = 100 * 3;

pub fn tests() -> Vec<Test> {
    [(1, true), (2, true), (4, true), (1, false), (4, false)]
        .map(|(cpus, icount)| {
            let name = format!("plugin_counts_cpus{cpus}{}", if icount { "_icount" } else { "" });
            Test::new(name, move |lab, name| counts(lab, name, cpus, icount))
        })
        .into()
}

fn counts(lab: &Lab<'_>, name: &str, cpus: u32, icount: bool) -> Result<()> {
    let recording = Recording::new(lab.plugin.clone(), lab.files.join(name).with_added_extension("events"));
    let config = Config {
        program: lab.qemu.clone().into(),
        board: Board::Virt { gic: Gic::V3, cpu: "cortex-a72".into(), cpus, memory_mib: 512 },
        icount,
        image: (lab.resolver)("bench-guest", "count")?,
        bundle: None,
        bootargs: Vec::new(),
        extra: recording.arguments().into(),
    };
    Run::new(config, [""; 0]).timeout(std::time::Duration::from_secs(60)).execute()?.success()?;
    let events = recording.read()?.collect::<Result<Vec<_>>>()?;
    let ended = events.iter().any(|event| matches!(event.kind, Kind::Mark { id: 0xffff, .. }));
    ensure!(ended, "the program did not come to its end: {:?}", events.last());

    let mut measured = 0;
    for cpu in 0..=u8::MAX {
        let own: Vec<&Event> = events.iter().filter(|event| event.cpu == cpu).collect();
        let masks: Vec<u64> = own
            .iter()
            .filter(|event| matches!(event.kind, Kind::Mask { .. }))
            .map(|event| event.own)
            .collect();
        let mark =
            |number| own.iter().find(|event| matches!(event.kind, Kind::Mark { id, .. } if id == number));
        let (Some(begin), Some(end)) = (mark(1), mark(2)) else { continue };
        measured += 1;
        ensure!(
            masks.len() == 2 && masks[1] - masks[0] == AT_EL2,
            "CPU {cpu}: {masks:?} at EL2, not {AT_EL2}"
        );
        ensure!(end.own - begin.own == IN_CALLS, "CPU {cpu}: {begin:?} to {end:?}");
        let entries =
            own.iter().filter(|event| matches!(event.kind, Kind::Entry { vector: 0x400, .. })).count();
        ensure!(entries >= 100, "CPU {cpu}: {entries} entries, not 100");
        if cpus == 1 {
            // Nobody else executes anything meanwhile.
            ensure!(end.total - begin.total == AT_EL1 + IN_CALLS, "{begin:?} to {end:?}");
            ensure!(end.el2 - begin.el2 == IN_CALLS, "{begin:?} to {end:?}");
        }
        if let (Kind::Mark { guest, .. }, true, 1) = (begin.kind, icount, cpus) {
            ensure!(guest.x0 == BY_PMU, "the PMU counts {} at EL2, not {BY_PMU}", guest.x0);
        }
    }
    ensure!(measured == cpus, "{measured} CPUs were seen, not {cpus}");
    Ok(())
}
