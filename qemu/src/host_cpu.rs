//! Which CPU of the host a run under `-icount` gets.
//!
//! There QEMU executes all of a machine's CPUs in one thread, and its main thread moves the clock on when they are all halted (`sleep=off`).
//! It may find them so before that thread has added its last instructions to the clock, which then is ahead by them. On one
//! CPU of the host the main thread does not run in just that moment, but for a preemption: two runs are equal.

use std::io;
use std::sync::{Mutex, PoisonError};

use rustix::thread::{CpuSet, sched_getaffinity};

/// How many runs each CPU has.
static RUNS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// A CPU that a run has, until this is dropped: one of those with the fewest runs that this process may use.
#[derive(Debug)]
pub(crate) struct HostCpu(usize);

impl HostCpu {
    /// Chooses one.
    pub fn take() -> io::Result<Self> {
        let usable = sched_getaffinity(None)?;
        let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        runs.resize(CpuSet::MAX_CPU, 0);
        let cpu = (0..runs.len()).filter(|&cpu| usable.is_set(cpu)).min_by_key(|&cpu| runs[cpu]);
        let cpu = cpu.ok_or(io::ErrorKind::NotFound)?;
        runs[cpu] += 1;
        Ok(Self(cpu))
    }

    /// It alone.
    pub fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        set.set(self.0);
        set
    }
}

impl Drop for HostCpu {
    fn drop(&mut self) {
        RUNS.lock().unwrap_or_else(PoisonError::into_inner)[self.0] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_spread_over_the_cpus_that_may_be_used() {
        let usable = sched_getaffinity(None).unwrap();
        let all: Vec<_> = (0..usable.count()).map(|_| HostCpu::take().unwrap()).collect();
        let mut cpus: Vec<_> = all.iter().map(|cpu| cpu.0).collect();
        cpus.sort_unstable();
        let expected: Vec<_> = (0..CpuSet::MAX_CPU).filter(|&cpu| usable.is_set(cpu)).collect();
        assert_eq!(cpus, expected);
        let [first, ..] = &all[..] else { panic!("no CPU") };
        assert!(first.set().count() == 1 && first.set().is_set(first.0));
        // One more shares a CPU with another one; once that is gone it is the next one's.
        let more = HostCpu::take().unwrap();
        let shared = more.0;
        drop(more);
        drop(all);
        assert!(cpus.contains(&shared));
        assert!(RUNS.lock().unwrap().iter().all(|&runs| runs == 0));
    }
}
