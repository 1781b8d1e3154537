//! Who does how much, interval by interval.

use crate::perfetto::names;
use crate::timeline::{Item, State, Timeline, Track};

/// What a vCPU did in an interval.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The vCPU.
    pub name: String,
    /// Its part of a CPU's time, in percent.
    pub share: f64,
    /// How often a second it came into EL2.
    pub exits: f64,
    /// How often a second it woke up.
    pub wakeups: f64,
    /// Jobs of its that were done, and those that were done after their deadline.
    pub jobs: u64,
    /// The latter.
    pub misses: u64,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    ran: u64,
    exits: u64,
    wakeups: u64,
    jobs: u64,
    misses: u64,
}

/// Counts what a timeline passes on.
#[derive(Debug)]
pub struct Meter {
    names: Vec<String>,
    counts: Vec<Counts>,
    /// When the interval began, ns since boot.
    since: u64,
    lost: u64,
}

impl Meter {
    /// For VMs with so many vCPUs each, in the machine file's order. The first interval begins at `since`, ns since boot.
    pub fn new<'a>(vms: impl IntoIterator<Item = (&'a str, u32)>, since: u64) -> Self {
        let names = names(vms);
        Self { counts: vec![Counts::default(); names.len()], names, since, lost: 0 }
    }

    /// When the interval began.
    pub fn since(&self) -> u64 {
        self.since
    }

    /// How many records are missing in all.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Takes what happened.
    pub fn count(&mut self, item: &Item) {
        let since = self.since;
        let (Item::Span { track: Track::Vcpu(vcpu), .. }
        | Item::Exit { vcpu, .. }
        | Item::Inject { vcpu, .. }
        | Item::WakeUp { vcpu, .. }
        | Item::Job { vcpu, .. }) = *item
        else {
            if let Item::Span { state: State::Lost(count), .. } = item {
                self.lost += count;
            }
            return;
        };
        let Some(counts) = self.counts.get_mut(usize::from(vcpu)) else { return };
        match *item {
            Item::Span { state: State::Runs(_), start, end, .. } => {
                counts.ran += end.saturating_sub(start.max(since));
            }
            Item::Exit { .. } => counts.exits += 1,
            Item::WakeUp { .. } => counts.wakeups += 1,
            Item::Job { late, .. } => {
                counts.jobs += 1;
                counts.misses += u64::from(late);
            }
            Item::Span { .. } | Item::Inject { .. } => {}
        }
    }

    /// Ends the interval at `now` and begins the next one; returns a row for each vCPU. What has not ended in `timeline` counts up to
    /// now, or up to what was seen of it if that is earlier.
    pub fn rows(&mut self, timeline: &Timeline, now: u64) -> Vec<Row> {
        for item in timeline.open() {
            // Nothing new was seen of it, so it still goes on.
            self.count(&match item {
                Item::Span { track, state, start, end } => {
                    Item::Span { track, state, start, end: end.max(now) }
                }
                other => other,
            });
        }
        let time = now.saturating_sub(self.since).max(1) as f64;
        self.since = now;
        let rows = self.names.iter().zip(&mut self.counts).map(|(name, counts)| {
            let Counts { ran, exits, wakeups, jobs, misses } = std::mem::take(counts);
            Row {
                name: name.clone(),
                share: 100.0 * ran as f64 / time,
                exits: exits as f64 * 1e9 / time,
                wakeups: wakeups as f64 * 1e9 / time,
                jobs,
                misses,
            }
        });
        rows.collect()
    }
}
