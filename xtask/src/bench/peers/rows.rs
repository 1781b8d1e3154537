//! What is compared, and with whom: the one place for that.

use clap::ValueEnum;
use qemu::{Events, Kind};

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
    /// It differs from the one before in how VMs that share a CPU are scheduled, and in nothing else.
    pub contention_only: bool,
}

const A72: &str = "cortex-a72";
/// Has VHE. Emulated as specified, pointer authentication takes most of the host's time.
const MAX: &str = "max,pauth-impdef=on";

const fn contender(
    peer: Option<Peer>,
    name: &'static str,
    cpu: &'static str,
    scheduler: &'static str,
    contention_only: bool,
) -> Contender {
    Contender { peer, name, cpu, scheduler, contention_only }
}

/// All of them; a peer's figures are divided by those of the MobiVMM before it.
pub const CONTENDERS: &[Contender] = &[
    contender(None, "MobiVMM", A72, "{ weight = 256 }", false),
    contender(None, "MobiVMM, reservation", A72, "{ budget = \"400us\", period = \"1ms\" }", true),
    contender(Some(Peer::Xen), "Xen credit2", A72, "credit2", false),
    contender(Some(Peer::Xen), "Xen credit", A72, "credit", false),
    contender(Some(Peer::Kvm), "KVM nVHE, CFS", A72, "", false),
    contender(Some(Peer::Kvm), "KVM nVHE, SCHED_FIFO", A72, ",fifo", true),
    contender(None, "MobiVMM", MAX, "{ weight = 256 }", false),
    contender(None, "MobiVMM, reservation", MAX, "{ budget = \"400us\", period = \"1ms\" }", true),
    contender(Some(Peer::Kvm), "KVM VHE, CFS", MAX, "", false),
    contender(Some(Peer::Kvm), "KVM VHE, SCHED_FIFO", MAX, ",fifo", true),
];

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
    /// The boot arguments of the measured guest.
    pub role: &'static str,
    /// CPUs of the machine, and vCPUs of the measured VM.
    pub cpus: u32,
    /// Another VM computes all the time.
    pub burner: bool,
    /// How.
    pub measured: Measured,
}

const fn row(name: &'static str, path: &'static str, role: &'static str, measured: Measured) -> Row {
    Row { name, path, role, cpus: 1, burner: false, measured }
}

/// All rows.
pub const ROWS: &[Row] = &[
    row("null_hypercall", "HVC (PSCI_VERSION) and back", "hypercall n=1000", Measured::ToEnd),
    row("mmio_gicd_read", "a trapped read of GICD_TYPER", "gicd n=1000", Measured::ToEnd),
    row("self_sgi", "an SGI to oneself, to its vector", "sgi n=1000", Measured::ToInterrupt),
    row("timer_tick", "a running guest's timer is due, to its handler", "tick n=1000", Measured::Said),
    row(
        "wfi_wake",
        "the timer of a guest in WFI is due, to its handler",
        "wfi n=1000 ahead=1000000",
        Measured::Said,
    ),
    Row {
        cpus: 2,
        ..row(
            "vipi",
            "SGI to a vCPU that runs on another CPU, to its vector",
            "ipi n=1000",
            Measured::ToInterrupt,
        )
    },
    Row {
        burner: true,
        ..row(
            "contention",
            "300 us of work, 700 us of sleep; the timer is due, to its handler; a burner on the same CPU",
            "task n=200 work=300000 sleep=700000",
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
    pub vms: Vec<(&'static str, u32)>,
    /// As [`Contender::scheduler`].
    pub scheduler: &'static str,
}

impl Row {
    /// What runs for a contender; `None` if it is not to be measured here.
    pub fn case(&self, contender: &Contender) -> Option<Case> {
        if contender.contention_only && !self.burner {
            return None;
        }
        let mut vms = vec![(self.role, self.cpus)];
        if self.burner {
            vms.push(("burn", 1));
        }
        Some(Case { cpu: contender.cpu, cpus: self.cpus, vms, scheduler: contender.scheduler })
    }
}

impl Measured {
    /// Takes the figure from a recording.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn figure(self, events: Events) -> anyhow::Result<Figure> {
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
