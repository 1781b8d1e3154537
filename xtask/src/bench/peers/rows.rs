//! What is compared, and with whom: the one place for that.

use anyhow::Result;
use clap::ValueEnum;
use qemu::{Event, Kind};

use crate::bench::figure::Figure;
use crate::bench::measure::{BEGIN, END, INTERRUPT};

/// A hypervisor to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// Debian's Xen.
    Xen,
    /// Debian's Linux at EL2 with KVM.
    Kvm,
}

/// A hypervisor in one of its configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contender {
    /// Which one; `None` is MobiVMM.
    pub peer: Option<Peer>,
    /// What it is called.
    pub name: &'static str,
    /// The CPU's model.
    pub cpu: &'static str,
    /// How it schedules: MobiVMM's schedule of the measured VM, `sched=` of Xen, the policy of KVM's measured thread.
    pub scheduler: &'static str,
    /// The one row that it is measured in; `None` is all.
    pub only: Option<&'static str>,
}

impl Contender {
    /// The model without its options.
    pub fn model(&self) -> &'static str {
        self.cpu.split(',').next().unwrap_or(self.cpu)
    }
}

const A72: &str = "cortex-a72";
/// Has VHE.
const N1: &str = "neoverse-n1";

const WEIGHT: &str = "{ weight = 256 }";
const RESERVATION: &str = "{ budget = \"400us\", period = \"1ms\" }";

const WAKE: &str = "wfi_wake";
const CONTENTION: &str = "contention";

const fn always(
    peer: Option<Peer>,
    name: &'static str,
    cpu: &'static str,
    scheduler: &'static str,
) -> Contender {
    Contender { peer, name, cpu, scheduler, only: None }
}

const fn only(row: &'static str, contender: Contender) -> Contender {
    Contender { only: Some(row), ..contender }
}

/// All of them; a peer's figures are divided by those of the MobiVMM before it.
pub const CONTENDERS: &[Contender] = &[
    always(None, "MobiVMM", A72, WEIGHT),
    only(CONTENTION, always(None, "MobiVMM, reservation", A72, RESERVATION)),
    always(Some(Peer::Xen), "Xen credit2", A72, "credit2"),
    only(WAKE, always(Some(Peer::Xen), "Xen credit2, vwfi=native", A72, "credit2 vwfi=native")),
    always(Some(Peer::Xen), "Xen credit", A72, "credit"),
    only(CONTENTION, always(Some(Peer::Xen), "Xen rtds", A72, "rtds")),
    always(Some(Peer::Kvm), "KVM nVHE, CFS", A72, ""),
    only(CONTENTION, always(Some(Peer::Kvm), "KVM nVHE, SCHED_FIFO", A72, ",fifo")),
    always(None, "MobiVMM", N1, WEIGHT),
    only(CONTENTION, always(None, "MobiVMM, reservation", N1, RESERVATION)),
    always(Some(Peer::Kvm), "KVM VHE, CFS", N1, ""),
    only(CONTENTION, always(Some(Peer::Kvm), "KVM VHE, SCHED_FIFO", N1, ",fifo")),
];

/// The contenders when these peers are asked for: themselves, and MobiVMM on the same CPUs.
pub fn contenders(peers: &[Peer]) -> Vec<&'static Contender> {
    let asked = |at: &Contender| at.peer.is_some_and(|peer| peers.contains(&peer));
    let beside =
        |at: &Contender| at.peer.is_none() && CONTENDERS.iter().any(|peer| asked(peer) && peer.cpu == at.cpu);
    CONTENDERS.iter().filter(|at| asked(at) || beside(at)).collect()
}

/// Where a figure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// Instructions of all CPUs at all levels, from the beginning to the end.
    ToEnd,
    /// The same, to the interrupt's vector.
    ToInterrupt,
    /// The guest's own figure, in ticks of 1 ns: how late the timer's handler was.
    Said,
}

/// A row of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it is called, on the command line too.
    pub name: &'static str,
    /// What is measured, in words.
    pub path: &'static str,
    /// What the measured guest does.
    pub role: &'static str,
    /// CPUs of the machine, and vCPUs of the measured VM.
    pub cpus: u32,
    /// Another VM computes all the time.
    pub burner: bool,
    /// How.
    pub measured: Measured,
}

/// How often each is measured.
pub const N: u64 = 1_000;

const fn row(name: &'static str, path: &'static str, role: &'static str, measured: Measured) -> Row {
    Row { name, path, role, cpus: 1, burner: false, measured }
}

/// All rows.
pub const ROWS: &[Row] = &[
    row("null_hypercall", "HVC (PSCI_VERSION) and back", "hypercall", Measured::ToEnd),
    row("mmio_gicd_read", "a trapped read of GICD_TYPER", "gicd", Measured::ToEnd),
    row("self_sgi", "an SGI to oneself, to its vector", "sgi", Measured::ToInterrupt),
    row("timer_tick", "a running guest's timer is due, to its handler", "tick", Measured::Said),
    row(
        WAKE,
        "the timer of a guest that sleeps for 1 ms is due, to its handler",
        "wfi ahead=1000000",
        Measured::Said,
    ),
    Row {
        cpus: 2,
        ..row("vipi", "SGI to a vCPU that runs on another CPU, to its vector", "ipi", Measured::ToInterrupt)
    },
    Row {
        burner: true,
        ..row(
            CONTENTION,
            "300 us of work, 700 us of sleep; the timer is due, to its handler; a burner on the same CPU",
            "task work=300000 sleep=700000",
            Measured::Said,
        )
    },
];

/// A row for a contender.
pub struct Case {
    /// The CPU's model.
    pub cpu: &'static str,
    /// CPUs of the machine.
    pub cpus: u32,
    /// The boot arguments and vCPUs of the VMs; the first is measured.
    pub vms: Vec<(String, u32)>,
    /// As [`Contender::scheduler`].
    pub scheduler: &'static str,
}

impl Row {
    /// What runs for a contender; `None` if it is not to be measured here.
    pub fn case(&self, contender: &Contender) -> Option<Case> {
        if contender.only.is_some_and(|row| row != self.name) {
            return None;
        }
        let mut vms = vec![(format!("{} n={N}", self.role), self.cpus)];
        if self.burner {
            vms.push(("burn".into(), 1));
        }
        Some(Case { cpu: contender.cpu, cpus: self.cpus, vms, scheduler: contender.scheduler })
    }
}

impl Measured {
    /// Takes the figure from a recording.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn figure(self, events: impl Iterator<Item = Result<Event>>) -> Result<Figure> {
        let (mut figure, mut begun) = (Figure::default(), None);
        let to = if self == Self::ToInterrupt { INTERRUPT } else { END };
        for event in events {
            let event = event?;
            match event.kind {
                Kind::Mark { id: BEGIN, .. } => begun = Some(event.total),
                Kind::Mark { id, guest } if id == to => {
                    let value = |begun| if self == Self::Said { guest.x0 } else { event.total - begun };
                    figure.extend(begun.take().map(value));
                }
                _ => {}
            }
        }
        Ok(figure)
    }
}

#[cfg(test)]
mod tests {
    use qemu::Guest;

    use super::*;

    #[test]
    fn every_peer_has_mobivmm_on_the_same_cpu_before_it() {
        for peers in [&[Peer::Xen][..], &[Peer::Kvm], &[Peer::Xen, Peer::Kvm]] {
            for row in ROWS {
                let mut base = None;
                for contender in contenders(peers).into_iter().filter(|at| row.case(at).is_some()) {
                    match contender.peer {
                        None => base = Some(contender.cpu),
                        Some(_) => assert_eq!(base, Some(contender.cpu), "{} {}", row.name, contender.name),
                    }
                }
            }
        }
    }

    #[test]
    fn only_cpus_of_the_peers_asked_for_are_measured() {
        assert!(contenders(&[Peer::Xen]).iter().all(|at| at.cpu == A72 && at.peer != Some(Peer::Kvm)));
        assert!(contenders(&[Peer::Kvm]).iter().any(|at| at.model() == "neoverse-n1" && at.peer.is_none()));
    }

    #[test]
    fn a_burner_is_where_contention_is() {
        let row = ROWS.iter().find(|row| row.name == CONTENTION).unwrap();
        let vms = row.case(&CONTENDERS[0]).unwrap().vms;
        assert_eq!(vms, [("task work=300000 sleep=700000 n=1000".into(), 1), ("burn".into(), 1)]);
        assert!(ROWS.iter().all(|row| row.burner == (row.name == CONTENTION)));
    }

    #[test]
    fn a_figure_is_from_the_beginning_to_what_ends_it() {
        let mark = |total, id, x0| {
            let guest = Guest { vmid: 1, x0, cval: 0, offset: 0 };
            Ok(Event { cpu: 0, total, el2: 0, own: 0, kind: Kind::Mark { id, guest } })
        };
        // The first interrupt belongs to nothing; the second measurement has none.
        let events = || {
            [
                (5, INTERRUPT, 9),
                (10, BEGIN, 0),
                (17, INTERRUPT, 0),
                (30, END, 4),
                (40, BEGIN, 0),
                (49, END, 6),
            ]
            .map(|(total, id, x0)| mark(total, id, x0))
            .into_iter()
        };
        let values = |measured: Measured| measured.figure(events()).unwrap().histogram().collect::<Vec<_>>();
        assert_eq!(values(Measured::ToEnd), [(9, 1), (20, 1)]);
        assert_eq!(values(Measured::ToInterrupt), [(7, 1)]);
        assert_eq!(values(Measured::Said), [(4, 1), (6, 1)]);
    }
}
