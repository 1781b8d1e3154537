//! Whether the tasks of an RTOS meet their deadlines on what its reservation is sure to supply.
//!
//! While its vCPU wants to run, a reservation of `budget` in every `period` by `deadline` supplies in any interval of length
//! `t` at least
//!
//! ```text
//! sbf(t)  = n budget + min(budget, r)    where blackout = period + deadline - budget, t - blackout = n period + r
//! lsbf(t) = (t - blackout) budget / period                                             (both 0 up to the blackout)
//! ```
//! Each piece of the budget that was used before the interval comes back a `period` after the wake-up at which it could be
//! used, hence at most a `period` into the interval, and is served within `deadline` from then; at worst all pieces end
//! there, one after the other, and so on in each `period`. (A periodic server, which is served in one piece, has a blackout
//! shorter by another `budget`: A. Easwaran, M. Anand and I. Lee, "Compositional Analysis Framework using EDP Resource
//! Models", RTSS 2007. An RTOS whose tasks sleep in between uses its budget in pieces.) `lsbf` is the line below `sbf`.
//!
//! With fixed priorities a task has its longest response when all more urgent ones are released with it: the least `t`
//! for which the supply is what it and they need within `t`.

use machines::Task;
use sched::Ns;
use sched::admission::Reservation;

/// What a reservation supplies.
#[derive(Clone, Copy, Debug)]
pub struct Supply(Reservation);

/// What can be promised of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Response {
    /// A bound of its response time by `sbf`; none if it can miss its deadline.
    pub bound: Option<Ns>,
    /// The same by `lsbf`: simpler to check by hand, and never smaller.
    pub linear: Option<Ns>,
}

impl Supply {
    /// The supply of a valid reservation.
    pub const fn new(reservation: Reservation) -> Self {
        Self(reservation)
    }

    /// The longest time without any supply.
    pub const fn blackout(self) -> Ns {
        self.0.period + self.0.deadline - self.0.budget
    }

    /// `sbf`: the least supply in any interval of this length.
    pub const fn within(self, length: Ns) -> Ns {
        let Reservation { budget, period, .. } = self.0;
        let rest = length.saturating_sub(self.blackout());
        let part = rest % period;
        rest / period * budget + if part < budget { part } else { budget }
    }

    /// The least length in which `work` is sure to be supplied: the inverse of `sbf`.
    pub const fn time_for(self, work: Ns) -> Ns {
        let Reservation { budget, period, .. } = self.0;
        let full = work.saturating_sub(1) / budget;
        self.blackout() + full * period + (work - full * budget)
    }

    /// The same by `lsbf`.
    const fn linear_time_for(self, work: Ns) -> Ns {
        self.blackout() + (work * self.0.period).div_ceil(self.0.budget)
    }

    /// The response times of tasks that share this supply by fixed priority, in their order. Among equals each can come
    /// first.
    pub fn responses(self, tasks: &[Task]) -> Vec<Response> {
        let Reservation { budget, period, deadline } = self.0;
        if let [Task { wcet_ns, period_ns, deadline_ns, .. }] = *tasks
            && wcet_ns <= budget
            && period_ns >= period
        {
            // Each job finds a whole budget: its release is where the reservation's period starts.
            let bound = (deadline <= deadline_ns).then_some(deadline);
            return vec![Response { bound, linear: bound }];
        }
        let response = |index| Response {
            bound: response(tasks, index, |work| self.time_for(work)),
            linear: response(tasks, index, |work| self.linear_time_for(work)),
        };
        (0..tasks.len()).map(response).collect()
    }
}

/// The response time of the task `index` where `time_for` is the inverse of the supply.
fn response(tasks: &[Task], index: usize, time_for: impl Fn(Ns) -> Ns) -> Option<Ns> {
    let task = &tasks[index];
    let others = tasks.iter().enumerate();
    let urgent: Vec<_> =
        others.filter(|&(other, t)| other != index && t.priority >= task.priority).map(|(_, t)| t).collect();
    let mut time = time_for(task.wcet_ns);
    while time <= task.deadline_ns {
        let interference: Ns =
            urgent.iter().map(|other| time.div_ceil(other.period_ns) * other.wcet_ns).sum();
        let next = time_for(task.wcet_ns + interference);
        if next == time {
            return Some(time);
        }
        time = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Ns = 1_000_000;

    fn task(wcet_ns: Ns, period_ns: Ns, priority: u64) -> Task {
        Task { wcet_ns, period_ns, deadline_ns: period_ns, priority, offset_ns: None, sporadic: false }
    }

    #[test]
    fn nothing_for_the_blackout_and_then_the_budget_in_every_period() {
        let supply = Supply::new(Reservation { budget: 2, period: 5, deadline: 4 });
        let least: Vec<_> = (0..=15).map(|t| supply.within(t)).collect();
        assert_eq!(least, [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 4, 4]);
    }

    #[test]
    fn two_tasks_by_hand() {
        // A blackout of 16 ms.
        let supply = Supply::new(Reservation { budget: 4 * MS, period: 10 * MS, deadline: 10 * MS });
        let tasks = [task(MS, 20 * MS, 2), task(5 * MS, 60 * MS, 1), task(8 * MS, 49 * MS, 0)];
        let bounds: Vec<_> = supply.responses(&tasks).iter().map(|r| r.bound.map(|b| b / MS)).collect();
        // 1 after the blackout; 5 + 2 × 1 = 7 in 16 + 10 + 3; 8 + 5 + 3 × 1 = 16 in 16 + 3 × 10 + 4: too late.
        assert_eq!(bounds, [Some(17), Some(29), None]);
    }

    #[test]
    fn a_task_alone_is_served_from_its_release_on() {
        let supply = Supply::new(Reservation { budget: 250, period: 1000, deadline: 800 });
        assert_eq!(supply.responses(&[task(200, 1000, 0)])[0].bound, Some(800));
        // More than one budget's work is not.
        assert_eq!(supply.responses(&[task(251, 1000, 0)])[0].bound, None);
        assert_eq!(supply.responses(&[task(251, 9000, 0)])[0].bound, Some(1550 + 1000 + 1));
    }

    proptest! {
        #[test]
        fn the_inverse_is_the_least_time(
            (period, deadline, budget) in (1_u64..50).prop_flat_map(|p| (Just(p), 1..=p))
                .prop_flat_map(|(p, d)| (Just(p), Just(d), 1..=d)),
            work in 1_u64..200,
        ) {
            let supply = Supply::new(Reservation { budget, period, deadline });
            let time = supply.time_for(work);
            prop_assert!(supply.within(time) >= work && supply.within(time - 1) < work);
            prop_assert!(supply.linear_time_for(work) >= time);
        }
    }
}
