//! The events of a row: spans of a recording, and the instructions that are in them.

use anyhow::Result;
use qemu::{Code, Event, Kind};

use super::figure::Figure;

/// Where functions of the scheduler begin.
const SCHEDULER: &str = "mobivmm_sched::";

/// Which instructions are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counter {
    /// Those of all CPUs at all exception levels.
    All,
    /// Those of all CPUs at EL2.
    El2,
    /// Those of this CPU at EL2.
    Own(u8),
}

impl Counter {
    /// Whether it counts this CPU's instructions.
    fn counts(self, cpu: u8) -> bool {
        !matches!(self, Self::Own(other) if other != cpu)
    }

    /// How many there were before an event.
    fn before(self, event: &Event) -> u64 {
        match self {
            Self::All => event.total,
            Self::El2 => event.el2,
            Self::Own(_) => event.own,
        }
    }
}

/// An event of a row: the last `length` instructions before a counter was at `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What counts the instructions.
    pub counter: Counter,
    /// How many it had counted at the end.
    pub to: u64,
    /// How many of them are in the span, with the time in which all CPUs slept if all are counted.
    pub length: u64,
    /// What the guest said with the mark at the end, if there is one.
    pub said: u64,
}

impl Span {
    fn start(&self) -> u64 {
        self.to.saturating_sub(self.length)
    }
}

/// Takes the events of a recording one after the other; returns the span that one ends.
pub type Observer = Box<dyn FnMut(&Event) -> Option<Span>>;

/// What of a span counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// The scheduler's instructions.
    Scheduler,
    /// What is not the scheduler's.
    Rest,
}

impl Part {
    /// Whether an instruction is of this part.
    pub fn has(self, code: &mut Code, pc: u64) -> bool {
        match self {
            Self::All => true,
            Self::Scheduler => code.is_in(pc, SCHEDULER),
            Self::Rest => !code.is_in(pc, SCHEDULER),
        }
    }
}

/// The spans of a recording, by counter and then by time; on the way `code` learns where the program was loaded.
///
/// # Errors
/// The recording cannot be read.
pub fn find(
    events: impl Iterator<Item = Result<Event>>,
    mut observe: Observer,
    code: &mut Code,
) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for event in events {
        let event = event?;
        if let Kind::Return { vbar, .. } = event.kind
            && event.kind.entered().is_some()
        {
            code.set_vbar(vbar);
        }
        spans.extend(observe(&event));
    }
    spans.sort_by_key(|span| span.counter);
    Ok(spans)
}

/// How much of each span counts. Where only a part does, `events` has the steps, and a span without any of it is none.
///
/// # Errors
/// The recording cannot be read.
pub fn figure<I: Iterator<Item = Result<Event>>>(
    spans: &[Span],
    part: Part,
    events: impl FnOnce() -> Result<I>,
    code: &mut Code,
) -> Result<Figure> {
    let mut lengths: Vec<u64> = spans.iter().map(|span| span.length).collect();
    if part != Part::All {
        lengths.fill(0);
        each_step(events()?, spans, |n, pc| lengths[n] += u64::from(part.has(code, pc)))?;
    }
    let mut figure = Figure::default();
    for (span, length) in spans.iter().zip(lengths) {
        if part == Part::All || length > 0 {
            figure.add_with(length, span.said);
        }
    }
    Ok(figure)
}

/// Calls `f` with each recorded instruction of a span: which span, and the instruction's address. The spans are as [`find`] has them.
///
/// # Errors
/// The recording cannot be read.
pub fn each_step(
    events: impl Iterator<Item = Result<Event>>,
    spans: &[Span],
    mut f: impl FnMut(usize, u64),
) -> Result<()> {
    let starts = spans.chunk_by(|a, b| a.counter == b.counter).scan(0, |start, chunk| {
        let range = *start..*start + chunk.len();
        *start = range.end;
        Some((chunk[0].counter, range))
    });
    // The spans of each counter that have not ended.
    let mut left: Vec<_> = starts.collect();
    for event in events {
        let event = event?;
        let Kind::Steps { pc, count } = event.kind else { continue };
        for (counter, left) in left.iter_mut().filter(|(counter, _)| counter.counts(event.cpu)) {
            let first = counter.before(&event);
            let end = first + u64::from(count);
            left.start = left.clone().find(|n| spans[*n].to > first).unwrap_or(left.end);
            for n in left.clone().take_while(|n| spans[*n].start() < end) {
                for at in first.max(spans[n].start())..end.min(spans[n].to) {
                    f(n, pc + 4 * (at - first));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_steps_is_divided_where_a_span_begins_or_ends() {
        // Two CPUs in turns, four instructions at a time, and as many below EL2 between them.
        let steps = (0..6).map(|n| {
            let kind = Kind::Steps { pc: 0x1000 * n, count: 4 };
            Ok(Event { cpu: n as u8 % 2, total: 8 * n, el2: 4 * n, own: n / 2 * 4, kind })
        });
        let steps: Vec<Result<Event>> = steps.collect();
        let steps = || steps.iter().map(|event| Ok(*event.as_ref().unwrap()));
        let within = |counter, ends: &[(u64, u64)]| {
            let span = |&(from, to)| Span { counter, to, length: to - from, said: 0 };
            let spans: Vec<_> = ends.iter().map(span).collect();
            let mut found = Vec::new();
            each_step(steps(), &spans, |n, pc| found.push((n, pc))).unwrap();
            found
        };
        assert_eq!(
            within(Counter::El2, &[(2, 5), (5, 5), (7, 8)]),
            [(0, 0x8), (0, 0xc), (0, 0x1000), (2, 0x100c)]
        );
        assert_eq!(within(Counter::Own(1), &[(3, 5)]), [(0, 0x100c), (0, 0x3000)]);
        assert_eq!(within(Counter::All, &[(3, 9)]), [(0, 0xc), (0, 0x1000)]);
    }
}
