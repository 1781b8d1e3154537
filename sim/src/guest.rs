//! What runs on a vCPU: the workloads of the machine file as programs that use CPU time, sleep, and are interrupted.

use machines::{Task, Workload};
use rand::{Rng, RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use sched::Ns;

/// The most interrupts of a burst, and the time between two of them.
const BURST: u32 = 16;
const BURST_GAP: Ns = 20_000;

/// What a guest does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It runs for so long, unless [`Guest::timer`] is earlier.
    Run(Ns),
    /// It waits for its timer, if that is set, or a device interrupt.
    Sleep(Option<Ns>),
}

/// A job that was released: who can be late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Job {
    /// The task's index in its VM.
    pub task: usize,
    /// When it was released, in nanoseconds.
    pub released: Ns,
    /// When it was done, in nanoseconds; none if it was not by the end.
    pub finished: Option<Ns>,
}

/// A program on a vCPU.
#[derive(Debug)]
pub(crate) struct Guest {
    rng: XorShiftRng,
    program: Program,
    /// The jobs so far, in the order of their release.
    pub(crate) jobs: Vec<Job>,
}

#[derive(Debug)]
enum Program {
    Busy,
    Tasks(Vec<Running>),
    Dodger { work: Ns, period: Ns },
    Bursty { work: Ns, period: Ns, next: Ns, left: u32, owed: Ns },
}

/// A task and its jobs.
#[derive(Debug)]
struct Running {
    task: Task,
    next_release: Ns,
    /// The jobs that are not done, the oldest first: index and work left.
    pending: std::collections::VecDeque<(usize, Ns)>,
}

impl Guest {
    /// The program `workload` of a vCPU whose random numbers follow from `seed`.
    pub(crate) fn new(workload: &Workload, seed: u64) -> Self {
        let mut rng = XorShiftRng::seed_from_u64(seed);
        let program = match *workload {
            Workload::Busy => Program::Busy,
            Workload::Tasks(ref tasks) => {
                let start = |task: &Task| {
                    // By then what it used when it was started has come back.
                    let phase = rng.random_range(task.period_ns..2 * task.period_ns);
                    let next_release = task.offset_ns.unwrap_or(phase);
                    Running { task: task.clone(), next_release, pending: [].into() }
                };
                Program::Tasks(tasks.iter().map(start).collect())
            }
            Workload::Dodger { work_ns, period_ns } => Program::Dodger { work: work_ns, period: period_ns },
            Workload::Bursty { work_ns, period_ns } => {
                let next = rng.random_range(0..2 * period_ns);
                Program::Bursty {
                    work: work_ns,
                    period: period_ns,
                    next,
                    left: rng.random_range(1..=BURST),
                    owed: 0,
                }
            }
        };
        Self { rng, program, jobs: Vec::new() }
    }

    /// What it does at `now`, if it may run.
    pub(crate) fn next(&mut self, now: Ns) -> Step {
        match &mut self.program {
            Program::Busy => Step::Run(Ns::MAX),
            Program::Dodger { work, period } => match now % *period {
                phase if phase < *work => Step::Run(Ns::MAX),
                phase => Step::Sleep(Some(now - phase + *period)),
            },
            Program::Bursty { owed: 0, .. } => Step::Sleep(None),
            Program::Bursty { owed, .. } => Step::Run(*owed),
            Program::Tasks(tasks) => {
                for (index, running) in tasks.iter_mut().enumerate() {
                    running.release(index, now, &mut self.rng, &mut self.jobs);
                }
                match most_urgent(tasks) {
                    Some(Running { pending, .. }) => Step::Run(pending.front().map_or(0, |(_, left)| *left)),
                    None => Step::Sleep(tasks.iter().map(|running| running.next_release).min()),
                }
            }
        }
    }

    /// The time at which its timer interrupts what it runs now.
    pub(crate) fn timer(&mut self, now: Ns) -> Option<Ns> {
        match &mut self.program {
            Program::Busy | Program::Bursty { .. } => None,
            Program::Dodger { work, period } => Some(now - now % *period + *work),
            Program::Tasks(tasks) => {
                let priority = most_urgent(tasks)?.task.priority;
                let urgent = tasks.iter().filter(|running| running.task.priority > priority);
                urgent.map(|running| running.next_release).min()
            }
        }
    }

    /// It had the CPU for `work` up to `now`.
    pub(crate) fn ran(&mut self, now: Ns, work: Ns) {
        match &mut self.program {
            Program::Busy | Program::Dodger { .. } => {}
            Program::Bursty { owed, .. } => *owed -= work,
            Program::Tasks(tasks) => {
                let Some(Running { pending, .. }) = most_urgent(tasks) else { return };
                let Some((job, left)) = pending.front_mut() else { return };
                *left -= work;
                if *left == 0 {
                    self.jobs[*job].finished = Some(now);
                    pending.pop_front();
                }
            }
        }
    }

    /// When its device interrupts next.
    pub(crate) fn device(&self) -> Option<Ns> {
        match self.program {
            Program::Bursty { next, .. } => Some(next),
            _ => None,
        }
    }

    /// Its device interrupts now.
    pub(crate) fn interrupted(&mut self) {
        if let Program::Bursty { work, period, next, left, owed } = &mut self.program {
            *owed += *work;
            *left -= 1;
            *next += if *left > 0 { BURST_GAP } else { self.rng.random_range(1..=2 * *period) };
            if *left == 0 {
                *left = self.rng.random_range(1..=BURST);
            }
        }
    }

    /// The jobs that were late by `now`, and how many could have been.
    pub(crate) fn misses(&self, now: Ns) -> (usize, usize) {
        let Program::Tasks(tasks) = &self.program else { return (0, 0) };
        let due = |job: &Job| job.released + tasks[job.task].task.deadline_ns;
        let judged = self.jobs.iter().filter(|job| job.finished.is_some() || due(job) <= now);
        let late = judged.clone().filter(|job| job.finished.is_none_or(|at| at > due(job)));
        (late.count(), judged.count())
    }
}

impl Running {
    /// Releases what is due.
    fn release(&mut self, index: usize, now: Ns, rng: &mut impl Rng, jobs: &mut Vec<Job>) {
        while self.next_release <= now {
            self.pending.push_back((jobs.len(), self.task.wcet_ns));
            jobs.push(Job { task: index, released: self.next_release, finished: None });
            let more = if self.task.sporadic { rng.random_range(0..=self.task.period_ns) } else { 0 };
            self.next_release += self.task.period_ns + more;
        }
    }
}

/// The task that runs: of those of the highest priority that have a job, the first.
fn most_urgent(tasks: &mut [Running]) -> Option<&mut Running> {
    let ready = tasks.iter_mut().filter(|running| !running.pending.is_empty());
    ready.min_by_key(|running| std::cmp::Reverse(running.task.priority))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(wcet_ns: Ns, period_ns: Ns, priority: u64) -> Task {
        Task { wcet_ns, period_ns, deadline_ns: period_ns, priority, offset_ns: Some(0), sporadic: false }
    }

    #[test]
    fn a_more_urgent_task_interrupts_a_less_urgent_one() {
        let mut guest = Guest::new(&Workload::Tasks(vec![task(50, 100, 1), task(10, 40, 2)]), 0);
        assert_eq!((guest.next(0), guest.timer(0)), (Step::Run(10), None));
        guest.ran(10, 10);
        assert_eq!((guest.next(10), guest.timer(10)), (Step::Run(50), Some(40)));
        guest.ran(40, 30);
        assert_eq!(guest.next(40), Step::Run(10));
        guest.ran(50, 10);
        guest.next(50);
        guest.ran(70, 20);
        assert_eq!(guest.next(70), Step::Sleep(Some(80)));
        let done: Vec<_> = guest.jobs.iter().map(|job| (job.task, job.released, job.finished)).collect();
        assert_eq!(done, [(0, 0, Some(70)), (1, 0, Some(10)), (1, 40, Some(50))]);
        assert_eq!(guest.misses(70), (0, 3));
    }

    #[test]
    fn late_jobs_are_counted_whether_done_or_not() {
        let mut guest = Guest::new(&Workload::Tasks(vec![task(30, 40, 1)]), 0);
        guest.next(0);
        guest.ran(50, 30);
        guest.next(100);
        assert_eq!(guest.misses(100), (2, 2));
    }

    #[test]
    fn a_dodger_sleeps_across_ticks() {
        let mut guest = Guest::new(&Workload::Dodger { work_ns: 90, period_ns: 100 }, 0);
        assert_eq!((guest.next(130), guest.timer(130)), (Step::Run(Ns::MAX), Some(190)));
        assert_eq!(guest.next(190), Step::Sleep(Some(200)));
    }

    #[test]
    fn interrupts_bring_work() {
        let mut guest = Guest::new(&Workload::Bursty { work_ns: 7, period_ns: 1000 }, 3);
        assert_eq!(guest.next(0), Step::Sleep(None));
        let first = guest.device().unwrap();
        guest.interrupted();
        guest.interrupted();
        assert_eq!(guest.next(first), Step::Run(14));
        guest.ran(first + 14, 14);
        assert_eq!(guest.next(first + 14), Step::Sleep(None));
        assert!(guest.device().unwrap() > first);
    }
}
