//! A task's jobs as seen from outside its guest: how late each began, how long it took, whether it missed its deadline.

use std::collections::HashMap;

use events::{JOB_BEGIN, JOB_END};

use crate::recording::{Clock, Event, Kind};

/// A job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// The VM's VMID.
    pub vmid: u16,
    /// When it should begin, began, ended, and should have ended: physical counter ticks, ns at 1 GHz.
    pub release: u64,
    /// When its first instruction was executed.
    pub begin: u64,
    /// When its last one was.
    pub end: u64,
    /// When it had to be done.
    pub deadline: u64,
}

impl Job {
    /// How late it began.
    pub fn lateness(&self) -> u64 {
        self.begin.saturating_sub(self.release)
    }

    /// Whether it ended too late.
    pub fn missed(&self) -> bool {
        self.end > self.deadline
    }
}

/// Collects jobs from events. A guest executes the mark [`JOB_BEGIN`] with the release time in x0 as the first thing of a job, and
/// [`JOB_END`] with the deadline as the last, both in ticks of its virtual counter; it has one task that does so.
#[derive(Debug, Default)]
pub struct Jobs {
    clock: Clock,
    /// Release and begin of the job that each VM is at.
    begun: HashMap<u16, (u64, u64)>,
}

impl Jobs {
    /// Takes an event; returns the job that it ends.
    pub fn observe(&mut self, event: &Event) -> Option<Job> {
        self.clock.observe(event);
        let Kind::Mark { id, guest } = event.kind else { return None };
        let (now, said) = (self.clock.time(event), guest.x0.wrapping_add(guest.offset));
        match id {
            JOB_BEGIN => {
                self.begun.insert(guest.vmid, (said, now));
                None
            }
            JOB_END => {
                let (release, begin) = self.begun.remove(&guest.vmid)?;
                Some(Job { vmid: guest.vmid, release, begin, end: now, deadline: said })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::Guest;

    fn mark(total: u64, id: u16, vmid: u16, x0: u64) -> Event {
        let guest = Guest { vmid, x0, cval: 0, offset: 500 };
        Event { cpu: 0, total, el2: 0, own: 0, kind: Kind::Mark { id, guest } }
    }

    #[test]
    fn jobs_of_two_vms_are_told_apart() {
        let mut jobs = Jobs::default();
        let clock = Event { cpu: 0, total: 0, el2: 0, own: 0, kind: Kind::Clock { ticks: 1_000 } };
        assert_eq!(jobs.observe(&clock), None);
        assert_eq!(jobs.observe(&mark(10, JOB_BEGIN, 1, 505)), None);
        assert_eq!(jobs.observe(&mark(20, JOB_BEGIN, 2, 520)), None);
        let job = jobs.observe(&mark(30, JOB_END, 2, 529)).unwrap();
        assert_eq!(job, Job { vmid: 2, release: 1_020, begin: 1_020, end: 1_030, deadline: 1_029 });
        assert!(job.missed() && job.lateness() == 0);
        let job = jobs.observe(&mark(40, JOB_END, 1, 540)).unwrap();
        assert!(!job.missed() && job.lateness() == 5);
        assert_eq!(jobs.observe(&mark(50, JOB_END, 1, 0)), None, "it has not begun");
    }
}
