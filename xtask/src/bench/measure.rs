//! From a recording to figures.

use anyhow::{Context, Result};
use qemu::{Clock, Code, Events, Guest, Kind, Section, Sections};

use super::figure::Figure;
use super::scenario::Taken;

/// The bench guest's marks (`tests/bench-guest/src/mark.rs`).
pub const BEGIN: u16 = 1;
pub const END: u16 = 2;
pub const INTERRUPT: u16 = 3;
pub const DONE: u16 = 0xffff;

/// Where functions of the scheduler begin.
const SCHEDULER: &str = "mobivmm_sched::";

/// What is taken from a recording.
pub type Measure = fn(&Taken, &mut Code) -> Result<Figure>;

/// EL2's instructions, on all CPUs, from each beginning to its end.
pub fn to_end(taken: &Taken, _: &mut Code) -> Result<Figure> {
    between(taken, END)
}

/// EL2's instructions, on all CPUs, from each beginning to the interrupt.
pub fn to_interrupt(taken: &Taken, _: &mut Code) -> Result<Figure> {
    between(taken, INTERRUPT)
}

fn between(taken: &Taken, to: u16) -> Result<Figure> {
    let (mut figure, mut begun) = (Figure::default(), None);
    for event in taken.events()? {
        let event = event?;
        match event.kind {
            Kind::Mark { id: BEGIN, guest } => begun = counts(taken, &guest).then_some(event.el2),
            Kind::Mark { id, guest } if id == to => {
                if let Some(begun) = begun.take() {
                    figure.add_with(event.el2 - begun, guest.x0);
                }
            }
            _ => {}
        }
    }
    Ok(figure)
}

/// Whether what begins with this mark is what is measured.
fn counts(taken: &Taken, mark: &Guest) -> bool {
    taken.only.is_none_or(|only| only == mark.x0)
}

/// A CPU's instructions from the WFI that an interrupt ended to the guest's vector, if no other guest ran meanwhile.
pub fn from_wait_to_interrupt(taken: &Taken, _: &mut Code) -> Result<Figure> {
    let (mut figure, mut measured, mut waits) = (Figure::default(), None, [None; 256]);
    for event in taken.events()? {
        let event = event?;
        let wait = &mut waits[usize::from(event.cpu)];
        match event.kind {
            Kind::Wait => *wait = Some(event.own + 1),
            Kind::Return { vmid, .. } if measured != Some(vmid) => *wait = None,
            Kind::Mark { id: BEGIN, guest } => {
                (measured, *wait) = (counts(taken, &guest).then_some(guest.vmid), None);
            }
            Kind::Mark { id: INTERRUPT, .. } if measured.take().is_some() => {
                figure.extend(wait.take().map(|wait| event.own - wait));
            }
            _ => {}
        }
    }
    Ok(figure)
}

/// From when the virtual timer was due to its vector, in virtual ns.
pub fn latency(taken: &Taken, _: &mut Code) -> Result<Figure> {
    let (mut figure, mut begun, mut clock) = (Figure::default(), false, Clock::default());
    for event in taken.events()? {
        let event = event?;
        clock.observe(&event);
        match event.kind {
            Kind::Mark { id: BEGIN, .. } => begun = true,
            Kind::Mark { id: INTERRUPT, guest } if std::mem::take(&mut begun) => {
                figure.add(clock.time(&event).saturating_sub(guest.cval + guest.offset));
            }
            _ => {}
        }
    }
    Ok(figure)
}

/// EL2's instructions from leaving one VM to entering another, without those of the scheduler.
pub fn switch(taken: &Taken, code: &mut Code) -> Result<Figure> {
    visits(taken.events()?, code, |visit| visit.switched.then_some(visit.total - visit.decision))
}

/// The scheduler's instructions in each visit to EL2 that asks it.
pub fn decision(taken: &Taken, code: &mut Code) -> Result<Figure> {
    visits(taken.events()?, code, |visit| (visit.decision > 0).then_some(visit.decision))
}

/// A visit to EL2.
struct Visit {
    total: u64,
    /// Instructions of the scheduler.
    decision: u64,
    /// Another VM was entered than left.
    switched: bool,
}

/// A value of each visit to EL2 that ends while something is measured.
fn visits(events: Events, code: &mut Code, value: impl Fn(&Visit) -> Option<u64>) -> Result<Figure> {
    let (mut figure, mut sections, mut begun) = (Figure::default(), Sections::default(), false);
    let mut decisions = [0; 256];
    for event in events {
        let event = event?;
        let decision = &mut decisions[usize::from(event.cpu)];
        match event.kind {
            Kind::Mark { id: BEGIN, .. } => begun = true,
            Kind::Mark { id: END, .. } => begun = false,
            Kind::Steps { pc, count } => {
                let steps = (0..u64::from(count)).map(|n| pc + 4 * n);
                *decision += steps.filter(|pc| code.is_in(*pc, SCHEDULER)).count() as u64;
            }
            Kind::Return { spsr, vbar, .. } if to_guest(spsr) => code.set_vbar(vbar),
            _ => {}
        }
        if let Some(Section { visit: Some(total), switch: switched, .. }) = sections.observe(&event) {
            let visit = Visit { total, decision: std::mem::take(decision), switched };
            figure.extend(value(&visit).filter(|_| begun));
        }
    }
    Ok(figure)
}

/// Whether an exception at this vector came from EL1 or EL0.
pub fn from_guest(vector: u16) -> bool {
    vector >= 0x400
}

/// Whether an exception return goes to EL1 or EL0 (SPSR_EL2.M).
pub fn to_guest(spsr: u64) -> bool {
    spsr & 0xf < 8
}

/// Sections of EL2 in which interrupts are masked and not looked for, in instructions.
pub fn masked(taken: &Taken, _: &mut Code) -> Result<Figure> {
    let (mut figure, mut sections) = (Figure::default(), Sections::default());
    for event in taken.events()? {
        figure.extend(sections.observe(&event?).map(|section| section.length));
    }
    Ok(figure)
}

/// How often a CPU went to sleep again while nothing happened but that the measured guest slept once.
pub fn wake_ups(taken: &Taken, _: &mut Code) -> Result<Figure> {
    let (mut figure, mut waits) = (Figure::default(), None);
    for event in taken.events()? {
        match (event?.kind, &mut waits) {
            (Kind::Mark { id: BEGIN, .. }, _) => waits = Some(0u64),
            (Kind::Mark { id: END, .. }, _) => {
                figure.extend(waits.take().map(|waits| waits.saturating_sub(1)))
            }
            (Kind::Wait, Some(waits)) => *waits += 1,
            _ => {}
        }
    }
    Ok(figure)
}

/// Virtual time from reset to a guest's first instruction.
pub fn first_instruction(taken: &Taken, _: &mut Code) -> Result<Figure> {
    let mut clock = Clock::default();
    for event in taken.events()? {
        let event = event?;
        clock.observe(&event);
        if matches!(event.kind, Kind::Return { spsr, .. } if to_guest(spsr)) {
            return Ok([clock.time(&event) + 1].into_iter().collect());
        }
    }
    Ok(Figure::default())
}

/// All instructions, at whatever level, from a guest's first one to the mark that it has arrived.
pub fn arrival(taken: &Taken, _: &mut Code) -> Result<Figure> {
    let mut entered = None;
    for event in taken.events()? {
        let event = event?;
        match event.kind {
            Kind::Return { spsr, .. } if to_guest(spsr) => _ = entered.get_or_insert(event.total + 1),
            Kind::Mark { id: DONE, .. } => {
                return Ok([event.total - entered.unwrap_or(0)].into_iter().collect());
            }
            _ => {}
        }
    }
    Ok(Figure::default())
}

/// What EL2 occupies: what it says itself, in KiB.
pub fn footprint(taken: &Taken, _: &mut Code) -> Result<Figure> {
    let line = taken.log.lines().find_map(|line| line.strip_prefix("EL2: "));
    let kib = line.and_then(|line| line.split(' ').next()?.parse().ok());
    Ok([kib.context("the log does not say how large EL2 is")?].into_iter().collect())
}
