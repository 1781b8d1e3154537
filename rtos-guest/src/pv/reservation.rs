//! The CPU time that the machine file reserves for this VM.

use core::cell::Cell;

use abi::smccc::{JOB_DONE, JOB_DONE_WAIT, RESERVATION_GET, RESERVATION_LEFT, RESERVATION_SET};
use critical_section::Mutex;

use super::{Error, call};
use crate::time::{self, Duration, Instant};

/// So much CPU time in every period, within the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The CPU time.
    pub budget: Duration,
    /// How often.
    pub period: Duration,
    /// Since the period's start: the budget is had by then.
    pub deadline: Duration,
}

/// What is left of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The CPU time.
    pub budget: Duration,
    /// When there is a whole budget again.
    pub replenished: Instant,
}

/// The reservation.
///
/// # Errors
/// [`Error::NotSupported`] if there is none.
pub fn get() -> Result<Reservation, Error> {
    let [budget, period, deadline, ..] = call(RESERVATION_GET, [0; 3])?.map(Duration::from_ticks);
    Ok(Reservation { budget, period, deadline })
}

/// What is left of it in this period.
///
/// # Errors
/// [`Error::NotSupported`] if there is no reservation.
pub fn left() -> Result<Left, Error> {
    let [budget, replenished, ..] = call(RESERVATION_LEFT, [0; 3])?;
    Ok(Left { budget: Duration::from_ticks(budget), replenished: time::clock().instant(replenished) })
}

/// Asks for another reservation, which holds from the next period on.
///
/// # Errors
/// Why there is none ([`Error`]). The old one goes on then.
pub fn request(wanted: Reservation) -> Result<(), Error> {
    let Reservation { budget, period, deadline } = wanted;
    call(RESERVATION_SET, [budget, period, deadline].map(|duration| duration.as_ticks())).map(drop)
}

/// When the next job is released, if this one has ended and the hypervisor has not been told.
static NEXT_RELEASE: Mutex<Cell<Option<Instant>>> = Mutex::new(Cell::new(None));

/// Says that the work of this period is done and the next is released at `release`. The hypervisor is told as soon as no
/// task has anything left to do: then the rest of the budget is of no use here. If several tasks say so, the earliest
/// release counts. Without a reservation nothing happens.
pub fn job_done(release: Instant) {
    critical_section::with(|cs| {
        let next = NEXT_RELEASE.borrow(cs);
        let other = next.get().filter(|&other| other > time::now());
        next.set(Some(other.map_or(release, |other| other.min(release))));
    });
}

/// Tells the hypervisor that the job is done, if that is so, and waits for an interrupt. False if there was nothing to be
/// told, or nobody: the caller waits.
pub(crate) fn end_job() -> bool {
    // Nobody gets in between with a later release. The wait ends by an interrupt all the same.
    critical_section::with(|cs| {
        let Some(release) = NEXT_RELEASE.borrow(cs).take() else { return false };
        call(JOB_DONE, [time::clock().ticks(release), JOB_DONE_WAIT, 0]).is_ok()
    })
}
