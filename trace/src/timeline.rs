//! From records to who was where, and how long.

use std::collections::BTreeMap;

use abi::trace::{Kind, Record};

use crate::exits::VIRTUAL_TIMER;
use crate::reader::{Entry, Seen};

/// Whom something is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Track {
    /// A physical CPU.
    Cpu(u8),
    /// A vCPU, by its number over all VMs.
    Vcpu(u8),
}

/// A stretch of a track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Of a CPU: this vCPU has it, EL2's work for it included.
    Has(u8),
    /// Of a CPU: so many records of what it did are lost.
    Lost(u64),
    /// Of a CPU: the trace was off.
    Off,
    /// Of a vCPU: it has this CPU.
    Runs(u8),
    /// Of a vCPU: it wants to run.
    Waits,
    /// Of a vCPU: it sleeps.
    Sleeps,
    /// Of a vCPU: it wants to run, and has no budget.
    Exhausted,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A stretch has ended. Those of a track come in their order and do not overlap. ns since boot.
    Span {
        /// Whose.
        track: Track,
        /// What it is.
        state: State,
        /// From.
        start: u64,
        /// Up to.
        end: u64,
    },
    /// A vCPU came into EL2, as [`Kind::Exit`] has it.
    Exit {
        /// Where.
        cpu: u8,
        /// Who.
        vcpu: u8,
        /// When.
        at: u64,
        /// ESR_EL2 or what stands for it.
        syndrome: u32,
        /// The detail.
        detail: u32,
    },
    /// An interrupt became pending for a vCPU; its own timer's, or another one.
    Inject {
        /// For whom.
        vcpu: u8,
        /// When.
        at: u64,
        /// It is the virtual timer's.
        timer: bool,
    },
    /// A vCPU that slept wants to run.
    WakeUp {
        /// Who.
        vcpu: u8,
        /// When.
        at: u64,
    },
    /// A vCPU said that its job is done.
    Job {
        /// Who.
        vcpu: u8,
        /// When.
        at: u64,
        /// After its deadline.
        late: bool,
    },
}

#[derive(Debug, Default)]
struct Cpu {
    /// Who has it, and since when. The inner `None`: nobody; the outer: that is not known.
    has: Option<(Option<u8>, u64)>,
    /// Up to when it is known what it did.
    seen: u64,
}

#[derive(Debug, Default)]
struct Vcpu {
    state: Option<(State, u64)>,
    /// What it has waited in all, ns, when it was given a CPU last.
    waited: Option<u64>,
    misses: Option<u64>,
}

/// Puts the CPUs' records into one order, and follows who does what.
#[derive(Debug, Default)]
pub struct Timeline {
    /// Read, and not looked at yet: another CPU's record may belong before.
    pending: Vec<Entry>,
    /// The latest time of what has been read: what is read from now on is later than what was read before the last time.
    horizon: u64,
    cpus: BTreeMap<u8, Cpu>,
    vcpus: BTreeMap<u8, Vcpu>,
    now: u64,
}

impl Timeline {
    /// Takes what was read of all rings at one go, and passes on what is sure to be in order. If the machine `stands` still nothing
    /// earlier can follow.
    pub fn feed(&mut self, entries: Vec<Entry>, stands: bool, each: &mut dyn FnMut(Item)) {
        let before = self.horizon;
        self.horizon = entries.iter().map(|entry| entry.time).fold(before, u64::max);
        self.pending.extend(entries);
        self.pending.sort_by_key(|entry| (entry.time, entry.cpu));
        let sure = if stands { u64::MAX } else { before };
        let later = self.pending.split_off(self.pending.partition_point(|entry| entry.time <= sure));
        for Entry { cpu, time, seen } in std::mem::replace(&mut self.pending, later) {
            // A CPU's record may have come late, if the host has stopped it between taking the time and writing.
            self.now = self.now.max(time);
            match seen {
                Seen::Record(record) => self.record(cpu, record, each),
                Seen::Lost(count) => self.lose(cpu, State::Lost(count), each),
            }
            self.cpus.entry(cpu).or_default().seen = self.now;
        }
    }

    /// The time of what was looked at last, ns since boot.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// What has not ended yet, as if it ended now.
    pub fn open(&self) -> impl Iterator<Item = Item> {
        let end = self.now;
        let cpus = self.cpus.iter().filter_map(move |(cpu, state)| {
            let (Some(vcpu), start) = state.has? else { return None };
            Some(Item::Span { track: Track::Cpu(*cpu), state: State::Has(vcpu), start, end })
        });
        let vcpus = self.vcpus.iter().filter_map(move |(vcpu, known)| {
            let (state, start) = known.state?;
            Some(Item::Span { track: Track::Vcpu(*vcpu), state, start, end })
        });
        cpus.chain(vcpus)
    }

    fn record(&mut self, cpu: u8, record: Record, each: &mut dyn FnMut(Item)) {
        let Record { kind, vcpu, argument, .. } = record;
        let at = self.now;
        match kind {
            Kind::Run => {
                self.give(cpu, Some(vcpu), each);
                self.run(cpu, vcpu, argument, each);
            }
            Kind::Idle => self.give(cpu, None, each),
            Kind::Sleep => self.leave(cpu, vcpu, State::Sleeps, each),
            Kind::Preempt => self.leave(cpu, vcpu, State::Waits, each),
            Kind::Exhausted => self.leave(cpu, vcpu, State::Exhausted, each),
            Kind::Exit => {
                let (syndrome, detail) = (argument as u32, (argument >> 32) as u32);
                each(Item::Exit { cpu, vcpu, at, syndrome, detail });
                if (syndrome, detail) == VIRTUAL_TIMER {
                    each(Item::Inject { vcpu, at, timer: true });
                }
            }
            Kind::Inject => {
                each(Item::Inject { vcpu, at, timer: false });
                if matches!(self.vcpus.entry(vcpu).or_default().state, Some((State::Sleeps, _))) {
                    each(Item::WakeUp { vcpu, at });
                    self.become_at(vcpu, State::Waits, at, each);
                }
            }
            Kind::Begin => self.lose(cpu, State::Off, each),
            Kind::Job => {
                let before = self.vcpus.entry(vcpu).or_default().misses.replace(argument);
                each(Item::Job { vcpu, at, late: before.is_some_and(|before| argument > before) });
            }
        }
    }

    /// `cpu` is `vcpu`'s from now on, or nobody's.
    fn give(&mut self, cpu: u8, vcpu: Option<u8>, each: &mut dyn FnMut(Item)) {
        let (track, now) = (Track::Cpu(cpu), self.now);
        let has = &mut self.cpus.entry(cpu).or_default().has;
        if has.is_some_and(|(has, _)| has == vcpu) {
            return;
        }
        if let Some((Some(old), start)) = has.replace((vcpu, now)) {
            each(Item::Span { track, state: State::Has(old), start, end: now });
        }
    }

    /// `vcpu` has `cpu` from now on. What it has `waited` says since when it has wanted to: a timer may have woken it.
    fn run(&mut self, cpu: u8, vcpu: u8, waited: u64, each: &mut dyn FnMut(Item)) {
        let now = self.now;
        let known = self.vcpus.entry(vcpu).or_default();
        let wait = waited.saturating_sub(known.waited.replace(waited).unwrap_or(waited));
        match known.state {
            Some((State::Runs(on), _)) if on == cpu => return,
            Some((State::Sleeps, since)) => {
                let at = now.saturating_sub(wait).max(since);
                each(Item::WakeUp { vcpu, at });
                self.become_at(vcpu, State::Waits, at, each);
            }
            _ => {}
        }
        self.become_at(vcpu, State::Runs(cpu), now, each);
    }

    /// `vcpu` no longer has `cpu`, if it had.
    fn leave(&mut self, cpu: u8, vcpu: u8, state: State, each: &mut dyn FnMut(Item)) {
        if matches!(self.vcpus.entry(vcpu).or_default().state, Some((State::Runs(on), _)) if on == cpu) {
            self.become_at(vcpu, state, self.now, each);
        }
    }

    fn become_at(&mut self, vcpu: u8, state: State, at: u64, each: &mut dyn FnMut(Item)) {
        let before = self.vcpus.entry(vcpu).or_default().state.replace((state, at));
        if let Some((state, start)) = before.filter(|(_, start)| *start < at) {
            each(Item::Span { track: Track::Vcpu(vcpu), state, start, end: at });
        }
    }

    /// Nothing is known of `cpu` since the last record that was read of it, nor of whom it ran.
    fn lose(&mut self, cpu: u8, state: State, each: &mut dyn FnMut(Item)) {
        let known = self.cpus.entry(cpu).or_default();
        let (seen, track) = (known.seen, Track::Cpu(cpu));
        if let Some((Some(vcpu), start)) = known.has.take() {
            each(Item::Span { track, state: State::Has(vcpu), start, end: seen });
        }
        each(Item::Span { track, state, start: seen, end: self.now });
        for (vcpu, known) in &mut self.vcpus {
            if let Some((state @ State::Runs(on), start)) = known.state
                && on == cpu
            {
                each(Item::Span { track: Track::Vcpu(*vcpu), state, start, end: seen });
                known.state = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(cpu: u8, time: u64, kind: Kind, vcpu: u8, argument: u64) -> Entry {
        Entry { cpu, time, seen: Seen::Record(Record { time, kind, vcpu, argument }) }
    }

    fn items(entries: Vec<Entry>) -> Vec<Item> {
        let (mut timeline, mut items) = (Timeline::default(), Vec::new());
        timeline.feed(entries, true, &mut |item| items.push(item));
        items.extend(timeline.open());
        items
    }

    fn spans(items: &[Item], of: Track) -> Vec<(State, u64, u64)> {
        let span = |item: &Item| match *item {
            Item::Span { track, state, start, end } if track == of => Some((state, start, end)),
            _ => None,
        };
        items.iter().filter_map(span).collect()
    }

    #[test]
    fn a_vcpu_waits_runs_sleeps_and_is_woken_by_its_timer() {
        let items = items(vec![
            entry(0, 100, Kind::Run, 1, 50),
            entry(0, 150, Kind::Run, 1, 50),
            entry(0, 200, Kind::Preempt, 1, 0),
            entry(0, 200, Kind::Run, 2, 0),
            entry(0, 300, Kind::Sleep, 2, 0),
            entry(0, 300, Kind::Run, 1, 150),
            entry(0, 400, Kind::Sleep, 1, 0),
            entry(0, 400, Kind::Idle, 0, 0),
            entry(0, 600, Kind::Run, 1, 160),
            entry(0, 700, Kind::Exhausted, 1, 900),
            entry(0, 700, Kind::Idle, 0, 0),
            entry(0, 900, Kind::Run, 1, 360),
        ]);
        let (one, two) = (State::Has(1), State::Has(2));
        let cpu = [(one, 100, 200), (two, 200, 300), (one, 300, 400), (one, 600, 700), (one, 900, 900)];
        assert_eq!(spans(&items, Track::Cpu(0)), cpu);
        let runs = State::Runs(0);
        let vcpu = [
            (runs, 100, 200),
            (State::Waits, 200, 300),
            (runs, 300, 400),
            (State::Sleeps, 400, 590),
            (State::Waits, 590, 600),
            (runs, 600, 700),
            (State::Exhausted, 700, 900),
            (runs, 900, 900),
        ];
        assert_eq!(spans(&items, Track::Vcpu(1)), vcpu);
        assert!(items.contains(&Item::WakeUp { vcpu: 1, at: 590 }));
    }

    #[test]
    fn an_interrupt_wakes_who_sleeps_and_nobody_else() {
        let items = items(vec![
            entry(1, 10, Kind::Run, 3, 0),
            entry(0, 20, Kind::Inject, 3, 0),
            entry(1, 30, Kind::Sleep, 3, 0),
            entry(0, 40, Kind::Inject, 3, 0),
            entry(0, 50, Kind::Inject, 3, 0),
            entry(1, 60, Kind::Run, 3, 20),
        ]);
        let woken: Vec<&Item> = items.iter().filter(|item| matches!(item, Item::WakeUp { .. })).collect();
        assert_eq!(woken, [&Item::WakeUp { vcpu: 3, at: 40 }]);
        let runs = State::Runs(1);
        let vcpu = [(runs, 10, 30), (State::Sleeps, 30, 40), (State::Waits, 40, 60), (runs, 60, 60)];
        assert_eq!(spans(&items, Track::Vcpu(3)), vcpu);
    }

    #[test]
    fn what_is_lost_is_a_gap() {
        let lost = Entry { cpu: 0, time: 500, seen: Seen::Lost(7) };
        let items = items(vec![
            entry(0, 100, Kind::Run, 1, 0),
            entry(0, 200, Kind::Exit, 1, 1),
            lost,
            entry(0, 500, Kind::Exit, 1, 1),
            entry(0, 600, Kind::Run, 1, 9),
            entry(0, 700, Kind::Idle, 0, 0),
        ]);
        let cpu = [(State::Has(1), 100, 200), (State::Lost(7), 200, 500), (State::Has(1), 600, 700)];
        assert_eq!(spans(&items, Track::Cpu(0)), cpu);
    }

    #[test]
    fn records_of_several_cpus_come_in_one_order_while_they_run() {
        let (mut timeline, mut items) = (Timeline::default(), Vec::new());
        let mut feed = |entries, stands| timeline.feed(entries, stands, &mut |item| items.push(item));
        // The first ring was read before its CPU wrote at 25.
        feed(vec![entry(0, 10, Kind::Run, 1, 0), entry(1, 30, Kind::Run, 2, 0)], false);
        feed(vec![entry(0, 25, Kind::Preempt, 1, 0), entry(0, 25, Kind::Idle, 0, 0)], false);
        feed(vec![entry(1, 40, Kind::Run, 1, 15)], true);
        assert_eq!(spans(&items, Track::Vcpu(1)), [(State::Runs(0), 10, 25), (State::Waits, 25, 40)]);
    }

    #[test]
    fn a_job_is_late_if_the_count_of_misses_goes_up() {
        let items = items((0..4).map(|n| entry(0, n, Kind::Job, 1, 5 + n / 2)).collect());
        let late = items.iter().map(|item| matches!(item, Item::Job { late: true, .. }));
        assert_eq!(late.collect::<Vec<_>>(), [false, false, true, false]);
    }
}
