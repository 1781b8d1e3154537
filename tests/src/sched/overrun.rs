//! Who has a reservation and wants more gets no more.

use std::ops::Range;

use anyhow::{Result, ensure};

use super::occupancy::{Span, shares};
use super::scene::{MS, Scene, US, VIRT, Vm};
use crate::Test;
use crate::lab::{Lab, until};

const BUDGET: u64 = 250 * US;
const PERIOD: u64 = MS;
/// What EL2 takes for a switch to the VM and for one away from it, with the decision.
const SWITCHES: u64 = 2 * VIRT.vm_switch;
const WINDOW: Range<u64> = 100 * MS..2_100 * MS;

pub fn tests() -> Vec<Test> {
    vec![Test::new("sched_overrun_icount", overrun)]
}

/// An RTOS that never sleeps is cut at its budget in every period, and the others get the rest.
fn overrun(lab: &Lab<'_>, name: &str) -> Result<()> {
    let schedule = format!("{{ budget = \"{BUDGET}ns\", period = \"{PERIOD}ns\" }}");
    let vms = [
        Vm::new("rtos", "burn").schedule(schedule),
        Vm::new("a", &format!("burn until={}", WINDOW.end)),
        Vm::new("b", "burn"),
    ];
    let seen = Scene::new(lab, name, 1, &vms)?.run(vec![until("a", "^done")?])?;
    let spans = seen.spans()?;
    let had = shares(&spans, 3, &WINDOW);
    let own: Vec<&Span> =
        spans.iter().filter(|span| span.vm == 0 && span.time.start >= WINDOW.start).collect();
    let most = own.iter().map(|first| {
        let period = first.time.start..first.time.start + PERIOD;
        own.iter().map(|span| span.within(&period)).sum::<u64>()
    });
    let most = most.max().unwrap_or(0);
    ensure!(most <= BUDGET + SWITCHES, "{most} ns in a period, of a budget of {BUDGET}");
    ensure!(had[0] >= BUDGET as f64 / PERIOD as f64 * 0.999, "it has had only {} of the CPU", had[0]);
    for share in &had[1..] {
        let fair = (1.0 - BUDGET as f64 / PERIOD as f64) / 2.0;
        ensure!((share / fair - 1.0).abs() <= 0.01, "{had:?} of the CPU, where {fair} is left for each");
    }
    Ok(())
}
