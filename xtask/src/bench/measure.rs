//! From a recording to figures.

use anyhow::{Context, Result};
use qemu::{Clock, Code, Event, Guest, Kind, Section, Sections};

use super::figure::Figure;
use super::scenario::Taken;
use super::spans::{self, Counter, Observer, Part, Span};

/// The bench guest's marks (`tests/bench-guest/src/mark.rs`).
pub const BEGIN: u16 = 1;
pub const END: u16 = 2;
pub const INTERRUPT: u16 = 3;
pub const OFF: u16 = 0xfff1;
pub const DONE: u16 = 0xffff;

/// What is taken from a recording.
#[derive(Clone, Copy)]
pub enum Measure {
    /// How long spans are, in the instructions of this part. The observer is made for what [`Taken::only`] says.
    Spans(fn(Option<u64>) -> Observer, Part),
    /// What is no number of EL2's instructions, and so has no profile.
    Other(fn(&Taken) -> Result<Figure>),
}

impl Measure {
    /// Takes it.
    ///
    /// # Errors
    /// The recording cannot be read, or says nothing of it.
    pub fn take(self, taken: &Taken, code: &mut Code) -> Result<Figure> {
        match self {
            Self::Spans(observer, part) => {
                let spans = spans::find(taken.events()?, observer(taken.only), code)?;
                spans::figure(&spans, part, || taken.events(), code)
            }
            Self::Other(take) => take(taken),
        }
    }
}

/// EL2's instructions, on all CPUs, from each beginning to its end.
pub fn to_end(only: Option<u64>) -> Observer {
    between(END, only)
}

/// EL2's instructions, on all CPUs, from each beginning to the interrupt.
pub fn to_interrupt(only: Option<u64>) -> Observer {
    between(INTERRUPT, only)
}

fn between(to: u16, only: Option<u64>) -> Observer {
    let mut begun = None;
    Box::new(move |event| match event.kind {
        Kind::Mark { id: BEGIN, guest } => {
            begun = counts(only, &guest).then_some(event.el2);
            None
        }
        Kind::Mark { id, guest } if id == to => {
            let length = event.el2 - begun.take()?;
            Some(Span { counter: Counter::El2, to: event.el2, length, said: guest.x0 })
        }
        _ => None,
    })
}

/// Whether what begins with this mark is what is measured.
fn counts(only: Option<u64>, mark: &Guest) -> bool {
    only.is_none_or(|only| only == mark.x0)
}

/// A CPU's instructions from the WFI that an interrupt ended to the guest's vector, if no other guest ran meanwhile.
pub fn from_wait_to_interrupt(only: Option<u64>) -> Observer {
    let (mut measured, mut waits) = (None, [None; 256]);
    Box::new(move |event| {
        let wait = &mut waits[usize::from(event.cpu)];
        match event.kind {
            Kind::Wait => *wait = Some(event.own + 1),
            Kind::Return { vmid, .. } if measured != Some(vmid) => *wait = None,
            Kind::Mark { id: BEGIN, guest } => {
                (measured, *wait) = (counts(only, &guest).then_some(guest.vmid), None);
            }
            Kind::Mark { id: INTERRUPT, .. } if measured.take().is_some() => {
                return wait.take().map(|wait| own(event, event.own, event.own - wait));
            }
            _ => {}
        }
        None
    })
}

/// The last so many of a CPU's instructions before its own count was `to`.
fn own(event: &Event, to: u64, length: u64) -> Span {
    Span { counter: Counter::Own(event.cpu), to, length, said: 0 }
}

/// From when the virtual timer was due to its vector, in virtual ns.
pub fn latency(_: Option<u64>) -> Observer {
    let (mut begun, mut clock) = (false, Clock::default());
    Box::new(move |event| {
        clock.observe(event);
        match event.kind {
            Kind::Mark { id: BEGIN, .. } => begun = true,
            Kind::Mark { id: INTERRUPT, guest } if std::mem::take(&mut begun) => {
                let length = clock.time(event).saturating_sub(guest.cval + guest.offset);
                return Some(Span { counter: Counter::All, to: event.total, length, said: 0 });
            }
            _ => {}
        }
        None
    })
}

/// Visits to EL2 that leave one VM and enter another.
pub fn switches(_: Option<u64>) -> Observer {
    measured_visits(|section| section.switch)
}

/// Visits to EL2, whatever follows.
pub fn visits(_: Option<u64>) -> Observer {
    measured_visits(|_| true)
}

/// Visits to EL2 that end while something is measured, where they end with such a section.
fn measured_visits(counts: fn(&Section) -> bool) -> Observer {
    let (mut sections, mut begun) = (Sections::default(), false);
    Box::new(move |event| {
        match event.kind {
            Kind::Mark { id: BEGIN, .. } => begun = true,
            Kind::Mark { id: END, .. } => begun = false,
            _ => {}
        }
        let section = sections.observe(event).filter(|section| begun && counts(section))?;
        Some(own(event, event.own + 1, section.visit?))
    })
}

/// Sections of EL2 in which interrupts are masked and not looked for, in instructions.
pub fn masked(_: Option<u64>) -> Observer {
    let mut sections = Sections::default();
    Box::new(move |event| sections.observe(event).map(|section| own(event, event.own + 1, section.length)))
}

/// Virtual time from reset to a guest's first instruction.
pub fn first_instruction(_: Option<u64>) -> Observer {
    let (mut entered, mut clock) = (false, Clock::default());
    Box::new(move |event| {
        clock.observe(event);
        event.kind.entered().filter(|_| !std::mem::replace(&mut entered, true))?;
        let length = clock.time(event) + 1;
        Some(Span { counter: Counter::All, to: event.total + 1, length, said: 0 })
    })
}

/// How often a CPU went to sleep again while nothing happened but that the measured guest slept once.
pub fn wake_ups(taken: &Taken) -> Result<Figure> {
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

/// All instructions, at whatever level, from a guest's first one to the mark that it has arrived.
pub fn arrival(taken: &Taken) -> Result<Figure> {
    let mut entered = None;
    for event in taken.events()? {
        let event = event?;
        match event.kind {
            kind if kind.entered().is_some() => _ = entered.get_or_insert(event.total + 1),
            Kind::Mark { id: DONE, .. } => {
                return Ok([event.total - entered.unwrap_or(0)].into_iter().collect());
            }
            _ => {}
        }
    }
    Ok(Figure::default())
}

/// What EL2 occupies: what it says itself, in KiB.
pub fn footprint(taken: &Taken) -> Result<Figure> {
    let line = taken.log.lines().find_map(|line| line.strip_prefix("EL2: "));
    let kib = line.and_then(|line| line.split(' ').next()?.parse().ok());
    Ok([kib.context("the log does not say how large EL2 is")?].into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The places at which the observer's spans end, and their lengths.
    fn spans(mut observer: Observer, events: &[(u64, Kind)]) -> Vec<(u64, u64)> {
        let event = |&(own, kind): &(u64, Kind)| Event { cpu: 0, total: 2 * own, el2: own, own, kind };
        let spans = events.iter().filter_map(|at| observer(&event(at)));
        spans.map(|span| (span.to, span.length)).collect()
    }

    fn mark(id: u16, x0: u64) -> Kind {
        Kind::Mark { id, guest: Guest { vmid: 1, x0, cval: 0, offset: 0 } }
    }

    fn enter(vmid: u16) -> Kind {
        Kind::Return { vmid, spsr: 0x3c5, elr: 0, vbar: 0 }
    }

    const ENTRY: Kind = Kind::Entry { vector: 0x480, esr: 0, far: 0, hpfar: 0 };
    /// A return to a work item, which runs at EL2 with interrupts open.
    const WORK: Kind = Kind::Return { vmid: 1, spsr: 9, elr: 0, vbar: 0 };

    #[test]
    fn a_visit_counts_whether_a_vm_or_a_work_item_follows() {
        let events = [
            (0, enter(1)),
            (1, ENTRY),
            (10, enter(1)),
            (11, mark(BEGIN, 0)),
            (11, ENTRY),
            (20, WORK),
            (100, ENTRY),
            (129, enter(1)),
            (130, ENTRY),
            (149, enter(2)),
            (150, mark(END, 0)),
            (150, ENTRY),
            (160, enter(1)),
        ];
        assert_eq!(spans(visits(None), &events), [(21, 10), (130, 30), (150, 20)]);
        assert_eq!(spans(switches(None), &events), [(150, 20)]);
    }

    #[test]
    fn only_what_is_asked_for_counts() {
        let events = [(0, mark(BEGIN, 7)), (5, mark(END, 7)), (5, mark(BEGIN, 8)), (8, mark(END, 8))];
        assert_eq!(spans(to_end(None), &events), [(5, 5), (8, 3)]);
        assert_eq!(spans(to_end(Some(8)), &events), [(8, 3)]);
    }
}
