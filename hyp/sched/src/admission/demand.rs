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
const MAX_LENGTH: u128 = 1 << 62;

/// Whether all deadlines of `tasks` hold when each can be delayed by `blocking`.
pub(super) fn test(tasks: impl Iterator<Item = Task> + Clone, blocking: Ns, steps: u32) -> Verdict {
    let Some(shortest) = tasks.clone().map(|task| task.deadline).min() else { return Verdict::Fits };
    if tasks.clone().any(|task| task.cost > task.deadline) {
        return Verdict::Misses;
    }
    let used: u64 = tasks.clone().map(|task| Utilisation::of(task.cost, task.period).0).sum();
    let spare = match Utilisation::FULL.0.checked_sub(used) {
        Some(spare @ 1..) => spare,
        _ => return Verdict::Misses,
    };
    let implicit = tasks.clone().all(|task| task.deadline == task.period);
    if implicit && Utilisation::of(blocking, shortest).0 <= spare {
        return Verdict::Fits;
    }

    // demand(t) ≤ Σ cost / period × (t + period - deadline), a line of slope `used`: where it meets t is the horizon.
    let offset = |task: Task| {
        (u128::from(task.period - task.deadline) * u128::from(task.cost)).div_ceil(task.period.into())
    };
    let offset = u128::from(blocking) + tasks.clone().map(offset).sum::<u128>();
    let horizon = (offset * u128::from(Utilisation::FULL.0)).div_ceil(spare.into());
    if horizon > MAX_LENGTH {
        return Verdict::GaveUp;
    }
    let mut length = last_deadline(tasks.clone(), horizon as u64 + 1);
    for _ in 0..steps {
        let needed = blocking + demand(tasks.clone(), length);
        if needed <= shortest {
            return Verdict::Fits;
        }
        if needed > length {
            return Verdict::Misses;
        }
        length = if needed < length { needed } else { last_deadline(tasks.clone(), length) };
    }
    Verdict::GaveUp
}

/// The time of all jobs that are released and due within `length`.
fn demand(tasks: impl Iterator<Item = Task>, length: Ns) -> Ns {
    let jobs = |task: Task| match length.checked_sub(task.deadline) {
        Some(rest) => (rest / task.period + 1) * task.cost,
        None => 0,
    };
    tasks.map(jobs).sum()
}

/// The latest deadline before `length` when all tasks start at 0, or 0.
fn last_deadline(tasks: impl Iterator<Item = Task>, length: Ns) -> Ns {
    let last = |task: Task| {
        let rest = length.checked_sub(task.deadline)?.checked_sub(1)?;
        Some(task.deadline + rest / task.period * task.period)
    };
    tasks.filter_map(last).max().unwrap_or(0)
}
