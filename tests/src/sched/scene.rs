//! Machines of VMs that compete, and what was recorded of them.

use std::path::Path;

use anyhow::{Context, Result};
use machines::Machine;
use qemu::{Events, Gic, Job, Jobs, Recording, Step};
use sched::Ns;
use sched::admission::Overhead;

use super::occupancy::{Occupancy, Span};
use crate::lab::{Lab, Report, Setup};

/// Makes the counter count instructions: under `-icount` one takes 1 ns.
const CPU: &str = "cortex-a72,cntfrq=1000000000";
/// A schedule as all others.
pub const SHARE: &str = "{ weight = 256 }";
/// What EL2's paths cost on QEMU's `virt`, as admission has it.
pub const VIRT: Overhead = {
    let timing = board_virt::BOARD.timing;
    Overhead { irq_off_max: timing.irq_off_max_ns as Ns, vm_switch: timing.vm_switch_ns as Ns }
};
pub const US: u64 = 1_000;
pub const MS: u64 = 1_000 * US;

/// A VM in a machine file.
pub struct Vm {
    name: String,
    vcpus: u32,
    schedule: String,
    /// The other keys.
    rest: String,
}

impl Vm {
    /// A VM with one vCPU that does what `role` says (`tests/bench-guest/src/roles.rs`).
    pub fn new(name: impl Into<String>, role: &str) -> Self {
        let rest = format!("kernel = \"bench-guest:bench\"\nmemory = \"4MiB\"\ncmdline = \"{role}\"");
        Self { name: name.into(), vcpus: 1, schedule: SHARE.into(), rest }
    }

    /// A Linux VM.
    pub fn linux(name: &str) -> Self {
        let rest = "kernel = \"linux-guest:Image\"\ninitrd = \"linux-guest:initramfs.cpio.gz\"\n\
                    cmdline = \"console=ttyAMA0 rdinit=/init\"\nmemory = \"256MiB\"";
        Self { name: name.into(), vcpus: 1, schedule: SHARE.into(), rest: rest.into() }
    }

    /// With more vCPUs.
    pub fn vcpus(self, vcpus: u32) -> Self {
        Self { vcpus, ..self }
    }

    /// With the numbers in a file as its initial RAM disk.
    pub fn initrd(self, path: &Path) -> Result<Self> {
        let path = path.to_str().context("the path of the tests' files is not UTF-8")?;
        Ok(Self { rest: format!("{}\ninitrd = '{path}'", self.rest), ..self })
    }

    /// With another schedule than [`SHARE`].
    pub fn schedule(self, schedule: impl Into<String>) -> Self {
        Self { schedule: schedule.into(), ..self }
    }
}

/// The machine file of `vms`.
pub fn machine(lab: &Lab<'_>, name: &str, vms: &[Vm]) -> Result<Machine> {
    let mut text = "[machine]\nname = \"sched\"\n".to_owned();
    for Vm { name, vcpus, schedule, rest } in vms {
        text += &format!("[[vm]]\nname = \"{name}\"\nvcpus = {vcpus}\nschedule = {schedule}\n{rest}\n");
    }
    Ok(Machine::parse(&lab.files.join(name).with_added_extension("toml"), &text)?)
}

/// A machine, its setup and what is recorded of it.
pub struct Scene {
    setup: Setup,
    recording: Recording,
}

/// What came of it.
pub struct Seen {
    pub report: Report,
    recording: Recording,
}

impl Scene {
    /// `vms` on so many CPUs.
    pub fn new(lab: &Lab<'_>, name: &str, cpus: u32, vms: &[Vm]) -> Result<Self> {
        Self::of(lab, name, cpus, &machine(lab, name, vms)?)
    }

    /// The same of a machine that is there.
    pub fn of(lab: &Lab<'_>, name: &str, cpus: u32, machine: &Machine) -> Result<Self> {
        let file = lab.files.join(name).with_added_extension("events");
        let setup = lab.setup_of(name, machine)?.cpus(CPU, cpus).icount(true);
        Ok(Self { setup, recording: Recording::new(lab.plugin.clone(), file) })
    }

    /// Another version of the interrupt controller.
    pub fn gic(self, version: Gic) -> Self {
        Self { setup: self.setup.gic(version), ..self }
    }

    /// Another limit on the host's clock, in seconds.
    pub fn timeout(self, seconds: u64) -> Self {
        Self { setup: self.setup.timeout(seconds), ..self }
    }

    /// The consoles go over the UART: what is typed interrupts, at times that are the host's affair.
    pub fn uart(self) -> Self {
        Self { setup: self.setup.uart(), ..self }
    }

    /// Records only what guests mark.
    pub fn marks_only(mut self) -> Self {
        self.recording.entries = false;
        self
    }

    /// Runs the machine to the end of the script.
    pub fn run(self, script: Vec<Step>) -> Result<Seen> {
        let report = self.setup.record(&self.recording).run(script)?;
        Ok(Seen { report, recording: self.recording })
    }
}

impl Seen {
    /// All that was recorded.
    pub fn events(&self) -> Result<Events> {
        self.recording.read()
    }

    /// The jobs that guests marked as such, in the order of their ends.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        let (mut jobs, mut collector) = (Vec::new(), Jobs::default());
        for event in self.events()? {
            jobs.extend(collector.observe(&event?));
        }
        Ok(jobs)
    }

    /// Who had which CPU.
    pub fn spans(&self) -> Result<Vec<Span>> {
        let (mut spans, mut occupancy) = (Vec::new(), Occupancy::default());
        for event in self.events()? {
            spans.extend(occupancy.observe(&event?));
        }
        spans.extend(occupancy.rest());
        Ok(spans)
    }
}
