//! The budget of a reservation.
//!
//! A server gives its vCPU `budget` in every `period`, and never more, whatever the vCPU does. One rule keeps it:
//! *what is used comes back a period after the wake-up at which it could first be used.* A wake-up at `t` has the deadline
//! `t + deadline`; a vCPU that has used up all waits for what comes back first, which is like a wake-up then. So it is if that
//! came back while it ran: pieces that were to wait for the end of others would come back later and later.
//!
//! So each piece of the budget is a sporadic task of its own: released at least a `period` apart, due `deadline` after. The
//! processor-demand test of admission counts exactly that, hence no vCPU can make another's deadline fail by when it
//! sleeps. (A constant-bandwidth server that keeps its deadline over a sleep is only as good as a test by density, which
//! accepts much less: see the test `sleeping_in_mid_period_harms_nobody`. With regular wake-ups both are the same.)
//! The rule is that of the deadline sporadic server (T. M. Ghazalie and T. P. Baker, "Aperiodic Servers in a Deadline
//! Scheduling Environment", Real-Time Systems 9, 1995).

use crate::admission::Reservation;
use crate::ids::Ns;

/// How many pieces of a budget can be out. A vCPU that sleeps more often gets the last ones back later, together.
const MAX_REFILLS: usize = 4;

/// The deadline of a reservation that has not begun: after all others.
pub(crate) const LAST: Ns = Ns::MAX - 1;

/// A part of the budget that has been used.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
struct Refill {
    /// When it comes back.
    at: Ns,
    amount: Ns,
}

/// A reservation at work.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Server {
    pub(crate) reservation: Reservation,
    /// Budget that can be used now. Below 0 when the vCPU could not be stopped in time, or has paid for its switches.
    left: i64,
    /// What the switch away takes, for which `left` may be below 0.
    vm_switch: Ns,
    /// Budget used since `release`, and what was used too much before.
    used: Ns,
    /// The last wake-up.
    release: Ns,
    deadline: Ns,
    refills: [Refill; MAX_REFILLS],
    refill_count: usize,
}

/// Whether a vCPU that wants to run can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Supply {
    /// With this deadline.
    Until(Ns),
    /// Not before this time.
    From(Ns),
}

impl Server {
    /// With the whole budget at hand, and time for the switch to the vCPU; that away from it may take it below 0.
    pub(crate) const fn new(reservation: Reservation, vm_switch: Ns) -> Self {
        Self {
            reservation,
            left: (reservation.budget + vm_switch) as i64,
            vm_switch,
            used: 0,
            release: 0,
            deadline: 0,
            refills: [Refill { at: 0, amount: 0 }; MAX_REFILLS],
            refill_count: 0,
        }
    }

    /// The same vCPU under another reservation: what it has used in the last period counts against the new budget, and comes back at
    /// the end of that period.
    pub(crate) fn change(&mut self, reservation: Reservation) {
        self.set_aside();
        self.left = self.left.saturating_add_unsigned(reservation.budget) - self.reservation.budget as i64;
        self.reservation = reservation;
    }

    /// It has no deadline until it [begins](Self::begin).
    pub(crate) fn defer(&mut self) {
        self.deadline = LAST;
    }

    /// Its next wake-up has a deadline.
    pub(crate) fn begin(&mut self) {
        self.deadline = 0;
    }

    /// Budget that is left, ns.
    pub(crate) fn left(&self) -> Ns {
        self.left.max(0) as Ns
    }

    /// Until when the vCPU has what it was promised at its last wake-up.
    pub(crate) fn deadline(&self) -> Ns {
        self.deadline
    }

    /// When the vCPU woke last, or got budget back.
    pub(crate) fn release(&self) -> Ns {
        self.release
    }

    /// When the first of what has been used comes back.
    pub(crate) fn replenished(&self) -> Ns {
        match self.refills[..self.refill_count].first() {
            Some(refill) => refill.at,
            None => self.release.saturating_add(self.reservation.period),
        }
    }

    /// The deadline if the vCPU were to wake at `at`.
    pub(crate) fn deadline_at(&self, at: Ns) -> Ns {
        self.deadline.max(at.saturating_add(self.reservation.deadline))
    }

    /// The vCPU wakes at `at`, or waits for budget and it is `at`. Not before it woke last: else what it uses would come back sooner, and a
    /// guest sets its timer as it likes.
    pub(crate) fn wake(&mut self, at: Ns) -> Supply {
        let at = at.max(self.release);
        self.set_aside();
        while let Some(refill) = self.refills[..self.refill_count].first().filter(|refill| refill.at <= at) {
            self.left = self.left.saturating_add_unsigned(refill.amount);
            if self.refill_count > 1 {
                self.refills.copy_within(1..self.refill_count, 0);
            }
            self.refill_count -= 1;
        }
        if self.left <= 0 {
            if self.refill_count == 0 {
                // More than a whole budget was used too much: this one goes for that.
                self.release = at;
                self.set_aside();
            }
            return Supply::From(self.refills[0].at);
        }
        self.release = at;
        self.deadline = self.deadline_at(at);
        Supply::Until(self.deadline)
    }

    /// The vCPU has run for `time`. True if that was all its budget.
    pub(crate) fn charge(&mut self, time: Ns) -> bool {
        self.left = self.left.saturating_sub_unsigned(time);
        self.used = self.used.saturating_add(time);
        self.left <= 0
    }

    /// What was used since the last wake-up comes back a period after that. What was used too much counts as used after the
    /// next one: so much less is there then. More than a whole budget is forgiven: nobody uses that but a CPU that stood still, as under a
    /// debugger or by an emulator's host, and that time was nobody's.
    fn set_aside(&mut self) {
        let overdraft =
            self.left.saturating_add_unsigned(self.vm_switch).min(0).unsigned_abs().min(self.used);
        let owed = overdraft.min(self.reservation.budget);
        self.left = self.left.saturating_add_unsigned(overdraft - owed);
        let amount = core::mem::replace(&mut self.used, owed) - overdraft;
        if amount == 0 {
            return;
        }
        let at = self.release.saturating_add(self.reservation.period);
        match self.refills.get_mut(self.refill_count) {
            Some(free) => {
                *free = Refill { at, amount };
                self.refill_count += 1;
            }
            // Later than it could be, so nobody is harmed.
            None => {
                let last = &mut self.refills[MAX_REFILLS - 1];
                *last = Refill { at: last.at.max(at), amount: last.amount.saturating_add(amount) };
            }
        }
    }
}
