//! A machine of bench guests, and how it is run and recorded.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use machines::Machine;
use qemu::{Board, Config, Event, Events, Gic, HYPERVISOR, Kind, Recording, Run, Step};

use super::measure::DONE;
use crate::build::{Builder, Hypervisor};

/// How long a run may take on the host's clock.
const TIMEOUT: Duration = Duration::from_secs(3600);
/// The VM that is measured.
const BENCH: &str = "bench";
/// Makes the counter count instructions: under `-icount shift=0` one takes 1 ns.
pub const COUNTER: &str = "cntfrq=1000000000";

/// A machine: the bench guest in a VM, and loads beside it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it is called.
    pub name: &'static str,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Their model.
    pub cpu: &'static str,
    /// Its interrupt controller.
    pub gic: Gic,
    /// The boot arguments, vCPUs and schedules of the VMs; the first is measured.
    pub vms: Vec<(String, u32, &'static str)>,
    /// The memory of each VM.
    pub memory: &'static str,
    /// Leave entries to EL2 out of the recording: there are too many.
    pub marks_only: bool,
}

/// A schedule with equal shares.
pub const SHARE: &str = "{ weight = 256 }";

impl Scenario {
    /// One VM with one vCPU on one CPU.
    pub fn alone(name: &'static str, role: &str, n: u64) -> Self {
        let vms = vec![(format!("{role} n={n}"), 1, SHARE)];
        Self { name, cpus: 1, cpu: "cortex-a72", gic: Gic::V3, vms, memory: "4MiB", marks_only: false }
    }

    /// A load in a VM of its own.
    pub fn beside(mut self, role: &str, vcpus: u32) -> Self {
        self.vms.push((role.into(), vcpus, SHARE));
        self
    }

    fn machine(&self) -> Result<Machine> {
        let mut text = "[machine]\nname = \"bench\"\n".to_owned();
        for (n, (role, vcpus, schedule)) in self.vms.iter().enumerate() {
            let name = if n == 0 { BENCH.into() } else { format!("load-{n}") };
            text += &format!(
                "[[vm]]\nname = \"{name}\"\nkernel = \"bench-guest:bench\"\ncmdline = \"{role}\"\nvcpus = {vcpus}\n\
                 memory = \"{}\"\nschedule = {schedule}\n",
                self.memory
            );
        }
        Ok(Machine::parse(Path::new("bench.toml"), &text)?)
    }
}

/// What a run left.
pub struct Taken {
    /// What the plugin recorded.
    pub recording: Recording,
    /// The hypervisor's log.
    pub log: String,
}

impl Taken {
    /// The recorded events.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn events(&self) -> Result<Events> {
        self.recording.read()
    }
}

/// Runs scenarios.
pub struct Stage {
    builder: Builder,
    hypervisor: Hypervisor,
    guest: PathBuf,
    plugin: PathBuf,
    files: PathBuf,
}

impl Stage {
    /// Builds what the scenarios need.
    ///
    /// # Errors
    /// Something cannot be built.
    pub fn new(builder: Builder) -> Result<Self> {
        let hypervisor = builder.hypervisor()?;
        let guest = builder.artefact("bench-guest", "bench")?;
        let plugin = builder.plugin()?;
        let files = hypervisor.image.with_file_name("bench-runs");
        fs::create_dir_all(&files).with_context(|| files.display().to_string())?;
        Ok(Self { builder, hypervisor, guest, plugin, files })
    }

    /// The EL2 program.
    pub fn hypervisor(&self) -> &Hypervisor {
        &self.hypervisor
    }

    /// The bench guest's ELF file.
    pub fn guest(&self) -> &Path {
        &self.guest
    }

    /// The QEMU plugin.
    pub fn plugin(&self) -> &Path {
        &self.plugin
    }

    /// What it was built with.
    pub fn builder(&self) -> &Builder {
        &self.builder
    }

    /// Where runs leave their files.
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Runs a scenario; returns the recording.
    ///
    /// # Errors
    /// The run failed.
    pub fn run(&self, scenario: &Scenario, steps: bool) -> Result<Taken> {
        self.record(scenario, steps, 0)
    }

    /// Runs a scenario twice at once.
    ///
    /// # Errors
    /// A run failed, or the second differs from the first.
    pub fn run_twice(&self, scenario: &Scenario, steps: bool) -> Result<Taken> {
        let (first, second) = thread::scope(|scope| {
            let second = scope.spawn(|| self.record(scenario, steps, 1));
            (self.record(scenario, steps, 0), second.join())
        });
        let (first, second) = (first?, second.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        let second = second.recording;
        let same = equal(first.events()?, second.read()?)?;
        ensure!(same, "{}: a second run was not equal to the first", scenario.name);
        fs::remove_file(&second.file).with_context(|| second.file.display().to_string())?;
        Ok(first)
    }

    fn record(&self, scenario: &Scenario, steps: bool, copy: u32) -> Result<Taken> {
        let beside = self.files.join(format!("{}-{copy}", scenario.name));
        let machine = scenario.machine()?;
        let bundle = beside.with_extension("itb");
        fs::write(&bundle, machine.compile(&|_, _| Ok(self.guest.clone()))?)
            .with_context(|| bundle.display().to_string())?;
        let mut recording = Recording::new(self.plugin.clone(), beside.with_extension("events"));
        (recording.entries, recording.steps) = (!scenario.marks_only, steps);
        let config = Config {
            program: self.builder.tools().qemu.clone().into(),
            board: Board::Virt {
                gic: scenario.gic,
                cpu: format!("{},{COUNTER}", scenario.cpu),
                cpus: scenario.cpus,
                memory_mib: 1024,
            },
            icount: true,
            image: self.hypervisor.image.clone(),
            bundle: Some(bundle),
            bootargs: Vec::new(),
            extra: recording.arguments().into(),
        };
        let outcome = Run::new(config, machine.vms.iter().map(|vm| vm.name.as_str()))
            .script([Step::until(BENCH, "^(done|FAIL).*$")?])
            .timeout(TIMEOUT)
            .execute()?
            .success()
            .with_context(|| format!("scenario {}", scenario.name))?;
        Ok(Taken { recording, log: outcome.console(HYPERVISOR).to_owned() })
    }
}

/// Whether two runs went the same way up to the end of what was measured. When they are killed after that is the host's affair.
fn equal(mut a: Events, mut b: Events) -> Result<bool> {
    loop {
        match (a.next().transpose()?, b.next().transpose()?) {
            (Some(a), Some(b)) if a != b => return Ok(false),
            (Some(Event { kind: Kind::Mark { id: DONE, .. }, .. }), _) => return Ok(true),
            (Some(_), Some(_)) => {}
            _ => return Ok(false),
        }
    }
}
