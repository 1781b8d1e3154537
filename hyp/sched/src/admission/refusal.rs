//! Why somebody is not admitted, in words.

use super::{CAPACITY, Demand, Overhead, Reservation, Utilisation};
use crate::ids::{CpuSet, MAX_CPUS, MAX_VCPUS, Ns};
use core::fmt::{self, Display, Formatter};

/// What is promised on one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuLoad {
    /// The sum of the reservations, without EL2's own costs.
    pub reserved: Utilisation,
    /// It belongs to one vCPU.
    pub exclusive: bool,
}

/// Why a set of requests is refused. Prints as reason and sums; who was refused is for the caller to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The index of the request that found no place first.
    pub request: usize,
    /// Why.
    pub reason: Reason,
    /// The CPUs that there are.
    pub(super) online: CpuSet,
    pub(super) exclusive: CpuSet,
    /// What is reserved on each CPU, in billionths: less than one, so that it needs no more bits.
    pub(super) reserved: [u32; MAX_CPUS],
}

/// The kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The vCPU's number is not below [`MAX_VCPUS`].
    OutOfRange,
    /// The vCPU is in the book.
    Exists,
    /// None of the CPUs on which it may run is online.
    NoCpu,
    /// The reservation is not valid.
    Malformed,
    /// Over capacity: not even an empty CPU could hold this reservation.
    Alone {
        /// The reservation.
        reservation: Reservation,
        /// What EL2 needs beside it.
        overhead: Overhead,
    },
    /// Over capacity: some CPUs are asked for more than they have.
    OverCapacity {
        /// These CPUs; who asks for them may run on no others.
        cpus: CpuSet,
        /// Reservations, in sum.
        reserved: Utilisation,
        /// How many exclusive CPUs.
        exclusive: u64,
        /// How many vCPUs with a share.
        shares: u64,
    },
    /// The sums suffice, but whoever goes where, some CPU cannot keep its deadlines.
    NoPartition {
        /// What found no place first.
        demand: Demand,
    },
    /// There may be a partition: [`super::Limits`] ended the search.
    GaveUp {
        /// What found no place first.
        demand: Demand,
    },
}

impl Refusal {
    /// What was promised on the CPUs when the request was refused, its companions that had a place included.
    pub fn loads(&self) -> impl Iterator<Item = (usize, CpuLoad)> {
        self.online.iter().map(|cpu| {
            let reserved = Utilisation(self.reserved[usize::from(cpu.0)].into());
            (usize::from(cpu.0), CpuLoad { reserved, exclusive: self.exclusive.contains(cpu) })
        })
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reason)?;
        for (index, (cpu, load)) in self.loads().enumerate() {
            write!(f, "{} CPU {cpu} {load}", if index == 0 { ";" } else { "," })?;
        }
        write!(f, ", of {CAPACITY} that can be reserved")
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange => write!(f, "a machine has at most {MAX_VCPUS} vCPUs"),
            Self::Exists => write!(f, "it has been admitted before"),
            Self::NoCpu => write!(f, "none of the CPUs on which it may run is online"),
            Self::Malformed => write!(f, "a reservation has 0 < budget ≤ deadline ≤ period ≤ 10s"),
            Self::Alone { reservation, overhead } => {
                let Overhead { irq_off_max, vm_switch } = *overhead;
                let (switches, masked) = (Time(vm_switch.saturating_mul(2)), Time(irq_off_max));
                write!(f, "over capacity: not even an empty CPU has {reservation}, ")?;
                write!(f, "{switches} for the switches of a job and {masked} with interrupts masked")
            }
            Self::OverCapacity { cpus, reserved, exclusive, shares } => {
                write!(f, "over capacity: {} asked for {reserved} reserved", Cpus(*cpus))?;
                if *exclusive > 0 {
                    write!(f, ", {exclusive} exclusive")?;
                }
                if *shares > 0 {
                    write!(f, ", {shares} shared")?;
                }
                Ok(())
            }
            Self::NoPartition { demand } => {
                write!(f, "no partition found: {demand} fits nowhere, however the others are placed")
            }
            Self::GaveUp { demand } => {
                write!(f, "no partition found: gave up the search for a place for {demand}")
            }
        }
    }
}

impl Display for CpuLoad {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.exclusive { write!(f, "exclusive") } else { write!(f, "{}", self.reserved) }
    }
}

impl Display for Demand {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share => write!(f, "a share"),
            Self::Reserved(reservation) => write!(f, "{reservation}"),
            Self::Exclusive => write!(f, "an exclusive CPU"),
        }
    }
}

impl Display for Reservation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} in every {}", Time(self.budget), Time(self.period))?;
        if self.deadline != self.period {
            write!(f, " by {}", Time(self.deadline))?;
        }
        write!(f, " ({})", self.utilisation())
    }
}

impl Display for Utilisation {
    /// In percent, rounded up to two digits behind the point.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let hundredths = self.0.div_ceil(100_000);
        write!(f, "{}.{:02} %", hundredths / 100, hundredths % 100)
    }
}

/// A time in the largest unit that is exact.
struct Time(Ns);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const UNITS: [(Ns, &str); 3] = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us")];
        let (size, name) =
            UNITS.into_iter().find(|(size, _)| self.0.is_multiple_of(*size)).unwrap_or((1, "ns"));
        write!(f, "{}{name}", self.0 / size)
    }
}

/// A set of CPUs as the subject of a sentence.
struct Cpus(CpuSet);

impl Display for Cpus {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = self.0.iter().count();
        for (index, cpu) in self.0.iter().enumerate() {
            write!(f, "{}{}", if index == 0 { "CPU " } else { "," }, cpu.0)?;
        }
        write!(f, "{}", if count == 1 { " is" } else { " are" })
    }
}
