//! What is measured, what is promised of it, and in which scenarios: the one place for that.

use qemu::Gic;

use super::measure::{self, Measure};
use super::scenario::Scenario;

/// A row of the promises.
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
    /// of all ones, of zeros.
    pub names_worst: bool,
    /// The measure needs to know each instruction.
    pub steps: bool,
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
}

impl Unit {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::El2 => "el2 instructions",
            Self::Elapsed => "virtual ns",
            Self::WakeUps => "wake-ups",
            Self::KiB => "KiB",
        }
    }
}

/// A reservation for a task of little work that comes every 100 us.
const RESERVATION: &str = "{ budget = \"30us\", period = \"100us\" }";

/// A scenario on both interrupt controllers.
fn both(v3: &'static str, v2: &'static str, role: &str, n: u64) -> Vec<Scenario> {
    [(v3, Gic::V3), (v2, Gic::V2)]
        .map(|(name, gic)| Scenario { gic, ..Scenario::alone(name, role, n) })
        .into()
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
        unit: Unit::El2,
        promise: 90,
        path: "HVC (PSCI_VERSION) to the guest's next instruction; with the mitigation of Spectre-BHB",
        scenarios: |n| both("hypercall", "hypercall-gicv2", "hypercall", n),
        n: [1_000, 10_000],
        measure: measure::to_end,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "null_hypercall_unmitigated",
        unit: Unit::El2,
        promise: 60,
        path: "the same on a CPU that needs no mitigation (Cortex-A53)",
        scenarios: |n| {
            let a53 = Scenario { cpu: "cortex-a53", ..Scenario::alone("hypercall-a53", "hypercall", n) };
            vec![a53]
        },
        n: [1_000, 10_000],
        measure: measure::to_end,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "timer_tick",
        unit: Unit::El2,
        promise: 150,
        path: "a running guest's timer is due, to its vector",
        scenarios: |n| both("tick", "tick-gicv2", "tick", n),
        n: [1_000, 10_000],
        measure: measure::to_interrupt,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "mmio_gicd_read",
        unit: Unit::El2,
        promise: 150,
        path: "a trapped read of GICD_TYPER",
        scenarios: |n| both("gicd", "gicd-gicv2", "gicd", n),
        n: [1_000, 10_000],
        measure: measure::to_end,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "mmio_worst",
        unit: Unit::El2,
        promise: 1_000,
        path: "the worst access to an emulated register",
        scenarios: |n| both("mmio", "mmio-gicv2", "mmio", n),
        n: [1, 1],
        measure: measure::to_end,
        names_worst: true,
        steps: false,
    },
    Row {
        name: "vipi",
        unit: Unit::El2,
        promise: 300,
        path: "SGI to a vCPU that runs on another CPU, to its vector; both CPUs",
        scenarios: |n| {
            let mut scenarios = both("ipi", "ipi-gicv2", "ipi", n);
            for scenario in &mut scenarios {
                (scenario.cpus, scenario.vms[0].1) = (2, 2);
            }
            scenarios
        },
        n: [1_000, 10_000],
        measure: measure::to_interrupt,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "wfi_wake",
        unit: Unit::El2,
        promise: 350,
        path: "the timer of a vCPU in WFI is due, to its vector; still loaded",
        scenarios: |n| both("wfi", "wfi-gicv2", "wfi", n),
        n: [1_000, 10_000],
        measure: measure::from_wait_to_interrupt,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "wfi_wake_switched",
        unit: Unit::El2,
        promise: 600,
        path: "the same, another VM's registers are loaded",
        scenarios: |n| vec![Scenario::alone("wfi-switched", "wfi", n).beside("timers", 1)],
        n: [1_000, 10_000],
        measure: measure::from_wait_to_interrupt,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "vm_switch",
        unit: Unit::El2,
        promise: 550,
        path: "from one VM to another; without the decision",
        scenarios: |n| vec![Scenario::alone("switch", "wfi", n).beside("burn", 1)],
        n: [100, 1_000],
        measure: measure::switch,
        names_worst: false,
        steps: true,
    },
    Row {
        name: "pick_next",
        unit: Unit::El2,
        promise: 250,
        path: "what the scheduler does at one exit, with 64 vCPUs queued",
        scenarios: |n| {
            let queue =
                (0..7).fold(Scenario::alone("pick", "wfi", n), |scenario, _| scenario.beside("burn", 8));
            vec![queue.beside("burn", 7)]
        },
        n: [2, 20],
        measure: measure::decision,
        names_worst: false,
        steps: true,
    },
    Row {
        name: "irq_off_max",
        unit: Unit::El2,
        promise: 1_000,
        path: "the longest section with interrupts masked",
        scenarios: |n| {
            let mixed = Scenario::alone("mixed", "latency period=100000", n);
            let mixed = mixed.beside("everything", 2).beside("everything", 2).beside("everything", 2);
            [vec![mixed], both("mmio", "mmio-gicv2", "mmio", 1)].concat()
        },
        n: [200, 2_000],
        measure: measure::masked,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "rt_latency",
        unit: Unit::Elapsed,
        promise: 2_300,
        path: "a reserved vCPU's timer is due, to its vector; one CPU shared with storms",
        scenarios: storms,
        n: [10_000, 1_000_000],
        measure: measure::latency,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "idle_wakeups",
        unit: Unit::WakeUps,
        promise: 0,
        path: "wake-ups of any CPU in 10 s in which all guests sleep",
        scenarios: |_| vec![four_vms("idle", "pause")],
        n: [1, 1],
        measure: measure::wake_ups,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "boot",
        unit: Unit::Elapsed,
        promise: 2_500_000,
        path: "reset to the first instruction of a bare guest of 32 MiB",
        scenarios: |n| vec![Scenario { memory: "32MiB", ..Scenario::alone("boot", "hypercall", n) }],
        n: [1, 1],
        measure: measure::first_instruction,
        names_worst: false,
        steps: false,
    },
    Row {
        name: "footprint",
        unit: Unit::KiB,
        promise: 2_048,
        path: "memory of EL2 with 4 CPUs and 4 VMs",
        scenarios: |_| vec![four_vms("footprint", "hypercall")],
        n: [1, 1],
        measure: measure::footprint,
        names_worst: false,
        steps: false,
    },
];
