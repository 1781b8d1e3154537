//! How vCPUs compete for CPUs.

use crate::admission::Reservation;
use crate::ids::{CpuId, CpuSet, VmId};

/// The largest [`Share::weight`].
pub const MAX_WEIGHT: u32 = 65_535;
/// How many different affinities the VMs with a share can have.
pub const MAX_AFFINITIES: usize = 4;

/// How a vCPU competes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Schedule {
    /// A part of its VM's share in what reservations leave.
    Shared(VmId),
    /// CPU time that is guaranteed, on the CPU that admission has chosen.
    Reserved {
        /// How much, and when.
        reservation: Reservation,
        /// Where.
        cpu: CpuId,
    },
    /// This CPU for itself: nobody else runs there.
    Exclusive(CpuId),
}

/// What a VM's vCPUs get together of what reservations leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    /// Relative to other VMs' weights: 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// An upper limit, in percent of one CPU. 0: none.
    pub cap: u32,
    /// Where the vCPUs may run.
    pub affinity: CpuSet,
}

impl Share {
    /// The weight as a rate at which virtual time advances: with so many more bits that what water-filling finds is exact enough.
    pub(crate) const fn rate(self) -> u32 {
        self.weight << 12
    }
}

/// Why a schedule is refused. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScheduleError {
    /// The number is not below [`MAX_VCPUS`](crate::MAX_VCPUS) or [`MAX_VMS`](crate::MAX_VMS).
    OutOfRange,
    /// There is a vCPU with this number.
    Exists,
    /// There is no vCPU with this number.
    Unknown,
    /// None of its CPUs is online, or they belong to others.
    NoCpu,
    /// The reservation, the weight or the cap is out of range.
    Malformed,
    /// The VM has no share yet.
    NoShare,
    /// The VMs with a share have [`MAX_AFFINITIES`] different affinities already.
    TooManyAffinities,
}
