//! The processor-demand criterion for one CPU under earliest deadline first, decided by quick processor-demand analysis
//! (QPA; F. Zhang and A. Burns, "Schedulability Analysis for Real-Time Systems with EDF Scheduling", IEEE Transactions on
//! Computers 58(9), 2009), with a blocking term.
//!
//! With `demand(t)` = the time of all jobs that can both be released and be due in an interval of length `t`, all
//! deadlines hold if and only if `blocking + demand(t) ≤ t` for every `t` from the shortest deadline on. Beyond a horizon
//! that follows from the utilisation this is sure. QPA goes down from there: where the demand is less than `t`, all
//! lengths between the two are fine too.

use super::Utilisation;
use crate::ids::Ns;

/// A reservation as a CPU sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task {
    /// Budget and switches.
    pub(super) cost: Ns,
    /// Not 0, at most [`super::MAX_PERIOD`].
    pub(super) period: Ns,
    /// Not 0, at most `period`.
    pub(super) deadline: Ns,
}

/// What a test finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// All deadlines hold.
    Fits,
    /// Some deadline can be missed.
    Misses,
    /// The steps do not suffice to say.
    GaveUp,
}

/// Lengths and demands up to this do not overflow: a demand is at most a length and one job of each vCPU.
const MAX_LENGTH: Ns = 1 << 62;

/// Whether all deadlines of `tasks` hold when each can be delayed by `blocking`.
pub(super) fn test(tasks: &[Task], blocking: Ns, steps: u32) -> Verdict {
    let Some(shortest) = tasks.iter().map(|task| task.deadline).min() else { return Verdict::Fits };
    if tasks.iter().any(|task| task.cost > task.deadline) {
        return Verdict::Misses;
    }
    let used: u64 = tasks.iter().map(|task| Utilisation::of(task.cost, task.period).0).sum();
    let spare = match Utilisation::FULL.0.checked_sub(used) {
        Some(spare @ 1..) => spare,
        _ => return Verdict::Misses,
    };
    let implicit = tasks.iter().all(|task| task.deadline == task.period);
    if implicit && Utilisation::of(blocking, shortest).0 <= spare {
        return Verdict::Fits;
    }

    // demand(t) ≤ Σ cost / period × (t + period - deadline), a line of slope `used`: where it meets t is the horizon.
    let offset = |task: &Task| {
        let part = (task.period - task.deadline) * Utilisation::of(task.cost, task.period).0;
        part.div_ceil(Utilisation::FULL.0)
    };
    let offset = blocking.saturating_add(tasks.iter().map(offset).sum());
    let rest = (offset % spare * Utilisation::FULL.0).div_ceil(spare);
    let horizon = (offset / spare).saturating_mul(Utilisation::FULL.0).saturating_add(rest);
    if horizon > MAX_LENGTH {
        return Verdict::GaveUp;
    }
    let mut length = last_deadline(tasks, horizon + 1);
    for _ in 0..steps {
        let needed = blocking + demand(tasks, length);
        if needed <= shortest {
            return Verdict::Fits;
        }
        if needed > length {
            return Verdict::Misses;
        }
        length = if needed < length { needed } else { last_deadline(tasks, length) };
    }
    Verdict::GaveUp
}

/// The time of all jobs that are released and due within `length`.
fn demand(tasks: &[Task], length: Ns) -> Ns {
    let jobs = |task: &Task| match length.checked_sub(task.deadline) {
        Some(rest) => (rest / task.period + 1) * task.cost,
        None => 0,
    };
    tasks.iter().map(jobs).sum()
}

/// The latest deadline before `length` when all tasks start at 0, or 0.
fn last_deadline(tasks: &[Task], length: Ns) -> Ns {
    let last = |task: &Task| {
        let rest = length.checked_sub(task.deadline)?.checked_sub(1)?;
        Some(task.deadline + rest / task.period * task.period)
    };
    tasks.iter().filter_map(last).max().unwrap_or(0)
}
