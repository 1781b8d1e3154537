//! What is measured, what is promised of it, and in which scenarios: the one place for that.

use qemu::Gic;

use super::figure::Figure;
use super::measure::{self, Measure};
use super::measured;
use super::scenario::{Guest, Scenario};
use super::spans::Part;

/// A row of the promises.
#[derive(Clone, Copy)]
pub struct Row {
    /// What it is called, on the command line and in reports.
    pub name: &'static str,
    /// What is counted.
    pub unit: Unit,
    /// What it must not exceed.
    pub promise: u64,
    /// What is measured, in words.
    pub path: &'static str,
    /// What is done to measure it, so many times.
    pub scenarios: fn(u64) -> Vec<Scenario>,
    /// Events in a scenario: few enough for every change, and all of them.
    pub n: [u64; 2],
    /// What is taken from the recordings.
    pub measure: Measure,
    /// The guest says with its marks what it does: in the mmio scenarios the register's address, plus 1 to 3 for a write of what was read,
    /// of all ones, of zeros, and from bit 40 on what was done before (the guest's `STRAINS`).
    pub names_worst: bool,
    /// What the scenarios' figures come to.
    pub total: fn(&[(&'static str, Figure)]) -> Figure,
    /// What is proposed in the promise's place.
    pub proposal: Option<Proposal>,
    /// Rows that contain this one's path by their nature, so that they may notice a delay there.
    pub part_of: &'static [&'static str],
}

/// What most rows have in common.
const ROW: Row = Row {
    name: "",
    unit: Unit::El2,
    promise: 0,
    path: "",
    scenarios: |_| Vec::new(),
    n: [1_000, 10_000],
    measure: Measure::Spans(measure::to_end, Part::All),
    names_worst: false,
    total: measured::together,
    proposal: None,
    part_of: &[],
};

/// Another number, where the design has been changed as far as it goes and the promise can't be met.
#[derive(Clone, Copy, Debug)]
pub struct Proposal {
    /// What the figure does not exceed: more than the promise.
    pub number: u64,
    /// Why, in one line.
    pub reason: &'static str,
    /// The heading of the section of docs/performance.md that has the evidence.
    pub section: &'static str,
}

/// What becomes of a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is kept.
    Kept,
    /// It is not, but what is proposed in its place would be.
    Proposed,
    /// Neither is.
    Broken,
}

impl Row {
    /// What a figure of this row makes of the promise.
    pub fn state(&self, max: u64) -> State {
        match max {
            _ if max <= self.promise => State::Kept,
            _ if max <= self.limit() => State::Proposed,
            _ => State::Broken,
        }
    }

    /// Whether it is about instructions, which can be shown by function.
    pub fn has_profile(&self) -> bool {
        matches!(self.measure, Measure::Spans(..))
    }

    /// What a figure must not exceed: what is promised, or proposed in its place.
    pub fn limit(&self) -> u64 {
        self.proposal.map_or(self.promise, |proposal| proposal.number)
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Instructions executed at EL2.
    El2,
    /// Virtual time, in ns; an instruction takes 1 ns.
    Elapsed,
    /// How often a sleeping CPU woke up.
    WakeUps,
    /// Memory.
    KiB,
    /// Instructions that come on top, of a million.
    Overhead,
}

impl Unit {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::El2 => "el2 instructions",
            Self::Elapsed => "virtual ns",
            Self::WakeUps => "wake-ups",
            Self::KiB => "KiB",
            Self::Overhead => "ppm of instructions",
        }
    }
}

/// A reservation for a task of little work that comes every 100 us.
const RESERVATION: &str = "{ budget = \"30us\", period = \"100us\" }";

/// When 64 vCPUs have come up on one CPU, ns.
const ALL_UP: u64 = 100_000_000;

/// A scenario on both interrupt controllers.
fn both(v3: &'static str, v2: &'static str, role: &str, n: u64) -> Vec<Scenario> {
    [(v3, Gic::V3), (v2, Gic::V2)]
        .map(|(name, gic)| Scenario { gic, ..Scenario::alone(name, role, n) })
        .into()
}

/// The same, and exits of this kind in a random mix of exits (`tests/bench-guest/src/roles.rs`).
fn mixed(mut scenarios: Vec<Scenario>, name: &'static str, kind: u64, n: u64) -> Vec<Scenario> {
    scenarios.push(Scenario { only: Some(kind), ..Scenario::alone(name, "random", n) });
    scenarios
}

/// A vCPU with a reservation that shares its only CPU with loads.
fn reserved(name: &'static str, n: u64, loads: &[(&str, u32)]) -> Scenario {
    let mut scenario = Scenario::alone(name, "latency period=100000", n);
    scenario.vms[0].2 = RESERVATION;
    scenario.marks_only = true;
    loads.iter().fold(scenario, |scenario, (role, vcpus)| scenario.beside(role, *vcpus))
}

/// Four VMs on four CPUs, of which one does something.
fn four_vms(name: &'static str, role: &str) -> Scenario {
    let scenario = Scenario { cpus: 4, ..Scenario::alone(name, role, 1) };
    (0..3).fold(scenario, |scenario, _| scenario.beside("idle", 2))
}

fn storms(n: u64) -> Vec<Scenario> {
    vec![
        reserved("rt-burner", n, &[("burn", 2)]),
        reserved("rt-timers", n, &[("timers", 2)]),
        reserved("rt-hypercalls", n, &[("hypercalls", 2)]),
        reserved("rt-sgis", n, &[("sgis", 2)]),
        reserved("rt-everything", n, &[("everything", 2), ("everything", 2), ("everything", 2)]),
    ]
}

/// All rows.
pub const ROWS: &[Row] = &[
    Row {
        name: "null_hypercall",
        promise: 90,
        path: "HVC (PSCI_VERSION) to the guest's next instruction; with the mitigation of Spectre-BHB",
        scenarios: |n| mixed(both("hypercall", "hypercall-gicv2", "hypercall", n), "hypercall-mixed", 0, n),
        ..ROW
    },
    Row {
        name: "null_hypercall_unmitigated",
        promise: 60,
        path: "the same on a CPU that needs no mitigation (Cortex-A53)",
        scenarios: |n| {
            let a53 = Scenario { cpu: "cortex-a53", ..Scenario::alone("hypercall-a53", "hypercall", n) };
            vec![a53]
        },
        ..ROW
    },
    Row {
        name: "timer_tick",
        promise: 150,
        path: "a running guest's timer is due, to its vector",
        scenarios: |n| mixed(both("tick", "tick-gicv2", "tick", n), "tick-mixed", 3, n),
        measure: Measure::Spans(measure::to_interrupt, Part::All),
        ..ROW
    },
    Row {
        name: "mmio_gicd_read",
        promise: 150,
        path: "a trapped read of GICD_TYPER",
        proposal: Some(Proposal {
            number: 225,
            reason: "84 are what any trap costs that may touch any register; decoding, the lock and the register are the rest",
            section: "Where a read of the distributor goes",
        }),
        scenarios: |n| mixed(both("gicd", "gicd-gicv2", "gicd", n), "gicd-mixed", 1, n),
        ..ROW
    },
    Row {
        name: "mmio_worst",
        promise: 1_000,
        path: "the worst access to an emulated register, also with all interrupts pending",
        proposal: Some(Proposal {
            number: 3_810,
            reason: "with all interrupts pending and four active a write may take six steps, and EL2 looks for interrupts between them",
            section: "Where the worst access to a register goes",
        }),
        scenarios: |n| mixed(both("mmio", "mmio-gicv2", "mmio", n), "mmio-mixed", 2, 1_000),
        n: [1, 1],
        names_worst: true,
        ..ROW
    },
    Row {
        name: "vm_notify",
        promise: 300,
        path: "HVC (CHANNEL_NOTIFY) to the caller's next instruction: by then the interrupt is pending in a VM that waits for this CPU",
        scenarios: |n| {
            let notify = |mut scenario: Scenario| {
                scenario.channel = true;
                scenario.beside("bells", 1)
            };
            both("notify", "notify-gicv2", "notify", n).into_iter().map(notify).collect()
        },
        ..ROW
    },
    Row {
        name: "vipi",
        promise: 300,
        path: "SGI to a vCPU that runs on another CPU, to its vector; both CPUs",
        proposal: Some(Proposal {
            number: 525,
            reason: "two exits are 147, the trapped register 119; the rest is to find the target, tell its CPU, and list the SGI there",
            section: "Where an SGI to another CPU goes",
        }),
        scenarios: |n| {
            let mut scenarios = both("ipi", "ipi-gicv2", "ipi", n);
            for scenario in &mut scenarios {
                (scenario.cpus, scenario.vms[0].1) = (2, 2);
            }
            scenarios
        },
        measure: Measure::Spans(measure::to_interrupt, Part::All),
        ..ROW
    },
    Row {
        name: "wfi_wake",
        promise: 350,
        path: "the timer of a vCPU in WFI is due, to its vector; still loaded",
        proposal: Some(Proposal {
            number: 565,
            reason: "an interrupt, a decision that chooses nothing, and what a guest is entered with: nothing is moved or looked for",
            section: "Where a wake-up goes",
        }),
        scenarios: |n| mixed(both("wfi", "wfi-gicv2", "wfi", n), "wfi-mixed", 4, n),
        measure: Measure::Spans(measure::from_wait_to_interrupt, Part::All),
        ..ROW
    },
    Row {
        name: "wfi_wake_switched",
        promise: 600,
        path: "the same, another VM's registers are loaded",
        proposal: Some(Proposal {
            number: 2_050,
            reason: "a decision and a switch, for which 800 are promised themselves, and two timers' interrupts",
            section: "Where a wake-up that switches goes",
        }),
        part_of: &["irq_off_max", "rt_latency"],
        scenarios: |n| vec![Scenario::alone("wfi-switched", "wfi", n).beside("timers", 1)],
        measure: Measure::Spans(measure::from_wait_to_interrupt, Part::All),
        ..ROW
    },
    Row {
        name: "vm_switch",
        promise: 550,
        path: "from one VM to another; without the decision",
        proposal: Some(Proposal {
            number: 1_070,
            reason: "309 only move registers; two vGICs, the WFI and the run loop are the rest",
            section: "Where a VM switch goes",
        }),
        part_of: &["irq_off_max", "rt_latency"],
        scenarios: |n| vec![Scenario::alone("switch", "wfi", n).beside("burn", 1)],
        n: [100, 1_000],
        measure: Measure::Spans(measure::switches, Part::Rest),
        ..ROW
    },
    Row {
        name: "pick_next",
        promise: 250,
        path: "what the scheduler does at one exit of a guest or a work item, with 64 vCPUs, while they come up and when they are queued",
        proposal: Some(Proposal {
            number: 870,
            reason: "charging, a timer, a wake-up, nine VMs' turns, a slice and statistics: none is more than a quarter",
            section: "Where a decision goes",
        }),
        scenarios: |n| {
            let beside_63 = |name, role: &str| {
                let queue = Scenario::alone(name, role, n);
                (0..7).fold(queue, |scenario, _| scenario.beside("burn", 8)).beside("burn", 7)
            };
            vec![beside_63("pick", "wfi"), beside_63("pick-queued", &format!("wfi from={ALL_UP}"))]
        },
        n: [2, 20],
        measure: Measure::Spans(measure::visits, Part::Scheduler),
        ..ROW
    },
    Row {
        name: "irq_off_max",
        promise: 1_000,
        path: "the longest section with interrupts masked, also where all interrupts of a guest are pending",
        scenarios: |n| {
            let mixed = Scenario::alone("mixed", "latency period=100000", n);
            let mixed = mixed.beside("everything", 2).beside("everything", 2).beside("everything", 2);
            [vec![mixed], both("mmio", "mmio-gicv2", "mmio", 1)].concat()
        },
        n: [200, 2_000],
        measure: Measure::Spans(measure::masked, Part::All),
        ..ROW
    },
    Row {
        name: "rt_latency",
        unit: Unit::Elapsed,
        promise: 2_300,
        path: "a reserved vCPU's timer is due, to its vector; one CPU shared with storms",
        scenarios: storms,
        n: [10_000, 1_000_000],
        measure: Measure::Spans(measure::latency, Part::All),
        ..ROW
    },
    Row {
        name: "idle_wakeups",
        unit: Unit::WakeUps,
        promise: 0,
        path: "wake-ups of any CPU in 10 s in which all guests sleep",
        scenarios: |_| vec![four_vms("idle", "pause")],
        n: [1, 1],
        measure: Measure::Other(measure::wake_ups),
        ..ROW
    },
    Row {
        name: "boot",
        unit: Unit::Elapsed,
        promise: 2_500_000,
        path: "reset to the first instruction of a bare guest of 32 MiB with an image of 20 KiB",
        scenarios: |n| {
            vec![Scenario { memory: "32MiB", guest: Guest::Bare, ..Scenario::alone("boot", "", n) }]
        },
        n: [1, 1],
        measure: Measure::Spans(measure::first_instruction, Part::All),
        proposal: Some(Proposal {
            number: 3_150_000,
            reason: "clearing, cleaning and hashing alone are 2.37 M: a line cleared has to be cleaned for a guest without caches",
            section: "Where booting goes",
        }),
        ..ROW
    },
    Row {
        name: "linux_boot",
        unit: Unit::Overhead,
        promise: 20_000,
        path: "Linux to its first program with a PL011 as its console, beside the same at EL1 without EL2",
        scenarios: |_| {
            [("linux-alone", Guest::LinuxAlone), ("linux", Guest::Linux)]
                .map(|(name, guest)| Scenario::linux(name, guest))
                .into()
        },
        n: [1, 1],
        measure: Measure::Other(measure::arrival),
        total: measured::overhead,
        ..ROW
    },
    Row {
        name: "footprint",
        unit: Unit::KiB,
        promise: 2_048,
        path: "memory of EL2 with 4 CPUs and 4 VMs",
        scenarios: |_| vec![four_vms("footprint", "hypercall")],
        n: [1, 1],
        measure: Measure::Other(measure::footprint),
        ..ROW
    },
];
