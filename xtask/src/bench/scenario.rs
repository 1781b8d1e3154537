//! A machine of bench guests, and how it is run and recorded.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::iter;
use std::num::NonZero;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use linux_guest::{Entry, pack};
use machines::Machine;
use qemu::{Board, Config, Event, Events, Gic, HYPERVISOR, Kind, Recording, Run, Step, Steps};

use super::measure::DONE;
use super::peers::tree::Tree;
use crate::build::{Builder, Hypervisor};

/// How long a run may take on the host's clock.
const TIMEOUT: Duration = Duration::from_secs(3 * 3_600);
/// How many rounds of runs it may take until two are equal: a pair, then one at a time, beside which the host is quieter.
const ROUNDS: u32 = 7;
/// Linux' command line.
const LINUX: &str = "console=ttyAMA0 rdinit=/arrived";
/// What [`LINUX`] has on a machine of its own, MiB.
const LINUX_MEMORY: u32 = 256;
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
    /// What runs in the first VM.
    pub guest: Guest,
    /// The first two VMs have a channel between them.
    pub channel: bool,
    /// Only what the guest began with a mark of this value counts.
    pub only: Option<u64>,
    /// Leave entries to EL2 out of the recording: there are too many.
    pub marks_only: bool,
}

/// A measured guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guest {
    /// The bench guest.
    Bench,
    /// A guest of 20 KiB that does nothing.
    Bare,
    /// Linux, up to its first program.
    Linux,
    /// The same at EL1 of a machine without EL2: there is no MobiVMM.
    LinuxAlone,
}

/// A schedule with equal shares.
pub const SHARE: &str = "{ weight = 256 }";

impl Scenario {
    /// One VM with one vCPU on one CPU.
    pub fn alone(name: &'static str, role: &str, n: u64) -> Self {
        let vms = vec![(format!("{role} n={n}"), 1, SHARE)];
        Self {
            name,
            cpus: 1,
            cpu: "cortex-a72",
            gic: Gic::V3,
            vms,
            memory: "4MiB",
            guest: Guest::Bench,
            channel: false,
            only: None,
            marks_only: false,
        }
    }

    /// Linux on one CPU, up to its first program.
    pub fn linux(name: &'static str, guest: Guest) -> Self {
        let vms = vec![(LINUX.into(), 1, SHARE)];
        Self { vms, guest, memory: "256MiB", ..Self::alone(name, "", 0) }
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
            let images = match self.guest {
                Guest::Linux if n == 0 => "kernel = \"linux-guest:Image\"\ninitrd = \"bench:initramfs\"",
                Guest::Bare if n == 0 => "kernel = \"bench-guest:bare\"",
                _ => "kernel = \"bench-guest:bench\"",
            };
            text += &format!(
                "[[vm]]\nname = \"{name}\"\n{images}\ncmdline = \"{role}\"\nvcpus = {vcpus}\n\
                 memory = \"{}\"\nschedule = {schedule}\n",
                self.memory
            );
        }
        if self.channel {
            text += &format!("[[channel]]\nname = \"bell\"\nbetween = [\"{BENCH}\", \"load-1\"]\n");
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
    /// As [`Scenario::only`].
    pub only: Option<u64>,
}

impl Taken {
    /// The recorded events.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn events(&self) -> Result<Events> {
        self.recording.read()
    }

    /// Removes the recording.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(self) -> Result<()> {
        let file = &self.recording.file;
        fs::remove_file(file).with_context(|| file.display().to_string())
    }
}

/// Runs scenarios.
#[derive(Clone)]
pub struct Stage {
    builder: Builder,
    hypervisor: Hypervisor,
    guest: PathBuf,
    bare: PathBuf,
    /// Linux' initial RAM disk with a first program that marks that it is there.
    initramfs: PathBuf,
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
        let [guest, bare] = ["bench", "bare"].map(|name| builder.artefact("bench-guest", name));
        let (guest, bare) = (guest?, bare?);
        let plugin = builder.plugin()?;
        let files = hypervisor.image.with_file_name("bench-runs");
        fs::create_dir_all(&files).with_context(|| files.display().to_string())?;
        let initramfs = files.join("arrived.cpio");
        let arrived = builder.artefact("kvm-runner", "arrived")?;
        let program = fs::read(&arrived).with_context(|| arrived.display().to_string())?;
        let [console, usual] = ["dev/console", "arrived"];
        let device = Entry::CharDevice(0o600, 5, 1);
        let directory = ("dev", Entry::Directory(0o755));
        // Linux takes several archives one after the other (Documentation/driver-api/early-userspace/buffer-format.rst).
        let mut archives = pack([directory, (console, device), (usual, Entry::File(0o755, &program))])?;
        archives.resize(archives.len().next_multiple_of(512), 0);
        let rest = &builder.tools().initramfs;
        archives.extend(fs::read(rest).with_context(|| rest.display().to_string())?);
        fs::write(&initramfs, archives).with_context(|| initramfs.display().to_string())?;
        Ok(Self { builder, hypervisor, guest, bare, initramfs, plugin, files })
    }

    /// The same with an EL2 program that is built with this feature, away from the usual one, which stays.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn planted(&self, feature: &str) -> Result<Self> {
        let place = self.files.join("planted");
        let target =
            self.hypervisor.image.ancestors().nth(3).context("the EL2 program is in no target directory")?;
        // The libraries are the usual ones.
        let libraries = format!("build.build-dir={target:?}");
        let arguments = [
            OsStr::new("--features"),
            feature.as_ref(),
            "--target-dir".as_ref(),
            place.as_os_str(),
            "--config".as_ref(),
            libraries.as_ref(),
        ];
        Ok(Self { hypervisor: self.builder.hypervisor_with(&arguments)?, ..self.clone() })
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
    pub fn run(&self, scenario: &Scenario, steps: Steps) -> Result<Taken> {
        self.record(scenario, steps, 0)
    }

    /// Runs each scenario once, as many at a time as there are CPUs.
    ///
    /// # Errors
    /// A run failed.
    pub fn run_each(&self, scenarios: &[Scenario], steps: Steps) -> Result<Vec<Taken>> {
        let left = Mutex::new(scenarios.iter().enumerate());
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work = || {
            let runs = iter::from_fn(next).map(|(n, scenario)| Ok((n, self.run(scenario, steps)?)));
            runs.collect::<Result<Vec<_>>>()
        };
        let workers = thread::available_parallelism().map_or(1, NonZero::get);
        let mut all = thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let join =
                |worker: ScopedJoinHandle<'_, _>| worker.join().unwrap_or_else(|panic| resume_unwind(panic));
            workers.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?
        .into_iter()
        .flatten()
        .collect::<Vec<_>>();
        all.sort_unstable_by_key(|(n, _)| *n);
        Ok(all.into_iter().map(|(_, taken)| taken).collect())
    }

    /// Runs a scenario twice at once. Where QEMU got the time wrong in one of the two, it takes more runs, until two are equal.
    ///
    /// # Errors
    /// A run failed, another one went another way, or there are no two equal ones.
    pub fn run_twice(&self, scenario: &Scenario, steps: Steps) -> Result<Taken> {
        let same = |one: &Taken, other: &Taken| match compare(one.events()?, other.events()?)? {
            Comparison::Equal => Ok(true),
            Comparison::Clock => Ok(false),
            // Without EL2 nobody is seen to read the counter.
            Comparison::Different if scenario.guest == Guest::LinuxAlone => Ok(false),
            Comparison::Different => bail!("{}: a second run was not equal to the first", scenario.name),
        };
        let mut runs = repeat(scenario.name, |copy| self.record(scenario, steps, copy), same)?;
        let agreed = runs.agreed.with_context(|| format!("{}: no two runs were equal", scenario.name))?;
        let taken = runs.all.swap_remove(agreed);
        runs.all.into_iter().try_for_each(Taken::remove)?;
        Ok(taken)
    }

    fn record(&self, scenario: &Scenario, steps: Steps, copy: u32) -> Result<Taken> {
        let beside = self.files.join(format!("{}-{copy}", scenario.name));
        let machine = scenario.machine()?;
        let alone = scenario.guest == Guest::LinuxAlone;
        let mut recording = Recording::new(self.plugin.clone(), beside.with_extension("events"));
        (recording.entries, recording.steps) = (!scenario.marks_only, steps);
        let mut config = Config {
            program: self.builder.tools().qemu.clone().into(),
            board: Board::Virt {
                gic: scenario.gic,
                cpu: format!("{},{COUNTER}", scenario.cpu),
                cpus: scenario.cpus,
                memory_mib: if alone { LINUX_MEMORY } else { 1024 },
            },
            icount: true,
            image: self.hypervisor.image.clone(),
            bundle: None,
            bootargs: Vec::new(),
            extra: recording.arguments().into(),
        };
        if alone {
            // The machine that the VM has, in QEMU's place: QEMU's own has more devices.
            let arguments = ("bootargs", LINUX);
            let memory = u64::from(LINUX_MEMORY) << 20;
            let tree = Tree { cpus: scenario.cpus, memory, conduit: "hvc", arguments, guests: &[] };
            let blob = beside.with_extension("dtb");
            fs::write(&blob, tree.blob()?).with_context(|| blob.display().to_string())?;
            config.extra.extend(["-machine", "virtualization=off", "-dtb"].map(OsString::from));
            config.extra.push(blob.into());
            config.image = self.builder.tools().kernel.clone();
            config.bundle = Some(self.initramfs.clone());
            config.bootargs = vec![LINUX.into()];
        } else {
            let bundle = beside.with_extension("itb");
            let artefact = |package: &str, file: &str| match package {
                "bench" => Ok(self.initramfs.clone()),
                "bench-guest" => Ok(if file == "bare" { self.bare.clone() } else { self.guest.clone() }),
                _ => self.builder.artefact(package, file),
            };
            fs::write(&bundle, machine.compile(&artefact)?).with_context(|| bundle.display().to_string())?;
            config.bundle = Some(bundle);
        }
        let vms = if alone { Vec::new() } else { machine.vms.iter().map(|vm| vm.name.clone()).collect() };
        let mut run = Run::new(config, vms).timeout(TIMEOUT);
        let console = if alone { HYPERVISOR } else { BENCH };
        run = run.script([Step::until(console, "^(done|FAIL).*$")?]);
        let run = if alone { run.plain() } else { run };
        let outcome = run.execute()?.success().with_context(|| format!("scenario {}", scenario.name))?;
        Ok(Taken { recording, log: outcome.console(HYPERVISOR).to_owned(), only: scenario.only })
    }
}

/// What came of repeated runs.
pub struct Runs<T> {
    /// All of them.
    pub all: Vec<T>,
    /// One that is equal to another one; `None` if there are no two.
    pub agreed: Option<usize>,
}

/// Makes two runs at once, and one more by itself as long as no two are the `same`, up to a limit. `run` gets the run's number.
///
/// # Errors
/// Those of `run` and of `same`.
pub fn repeat<T: Send>(
    name: &str,
    run: impl Fn(u32) -> Result<T> + Sync,
    same: impl Fn(&T, &T) -> Result<bool>,
) -> Result<Runs<T>> {
    let mut all: Vec<T> = Vec::new();
    for round in 0..ROUNDS {
        if round > 0 {
            eprintln!("{name}: time passed otherwise in a second run: once more");
        }
        let copies = if round == 0 { 0..2 } else { round + 1..round + 2 };
        let runs: Vec<_> = thread::scope(|scope| {
            let run = &run;
            let runs: Vec<_> = copies.map(|copy| scope.spawn(move || run(copy))).collect();
            runs.into_iter().map(|run| run.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        for run in runs {
            let run = run?;
            for (earlier, other) in all.iter().enumerate() {
                if same(other, &run)? {
                    all.push(run);
                    return Ok(Runs { all, agreed: Some(earlier) });
                }
            }
            all.push(run);
        }
    }
    Ok(Runs { all, agreed: None })
}

/// How two recordings compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Equal,
    /// They are equal up to a reading of the counter after the machine was idle, which QEMU let take more time in one of the two.
    ///
    /// QEMU's main thread, which passes idle time at once (`sleep=off`), can move the clock to the next timer before the instructions that
    /// the halted CPU has executed last are in the clock, so that they come on top of it; rarely, since both threads share a CPU.
    /// No program can do that: it executes other instructions before it finds another time.
    Clock,
    Different,
}

/// Compares two recordings up to the end of what was measured. When they are killed after that is the host's affair.
fn compare(
    mut a: impl Iterator<Item = Result<Event>>,
    mut b: impl Iterator<Item = Result<Event>>,
) -> Result<Comparison> {
    loop {
        match (a.next().transpose()?, b.next().transpose()?) {
            (Some(a), Some(b)) if a != b => {
                let after_idle = |event: Event| Event { kind: Kind::Clock { ticks: 0 }, ..event };
                let clocks = [a, b].iter().all(|at| matches!(at.kind, Kind::Clock { .. }));
                let same = clocks && after_idle(a) == after_idle(b);
                return Ok(if same { Comparison::Clock } else { Comparison::Different });
            }
            (Some(Event { kind: Kind::Mark { id: DONE, .. }, .. }), Some(_)) => return Ok(Comparison::Equal),
            (Some(_), Some(_)) => {}
            _ => return Ok(Comparison::Different),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qemu::Guest;

    fn events(kinds: &[(u64, Kind)]) -> impl Iterator<Item = Result<Event>> {
        kinds.iter().map(|&(total, kind)| Ok(Event { cpu: 0, total, el2: 0, own: 0, kind }))
    }

    fn done(x0: u64) -> Kind {
        Kind::Mark { id: DONE, guest: Guest { vmid: 1, x0, cval: 0, offset: 0 } }
    }

    fn clock(ticks: u64) -> Kind {
        Kind::Clock { ticks }
    }

    #[test]
    fn runs_are_repeated_until_two_are_equal() {
        // The number of a run, and what it finds.
        let runs = |found: &'static [u32]| {
            repeat("test", |n| Ok((n, found[n as usize])), |a, b| Ok(a.1 == b.1)).unwrap()
        };
        let good = runs(&[7, 7]);
        assert_eq!((good.all.len(), good.agreed), (2, Some(0)));
        let disturbed = runs(&[8, 7, 7, 6]);
        assert_eq!((disturbed.all.len(), disturbed.agreed), (3, Some(1)));
        let never = runs(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!((never.all.len(), never.agreed), (8, None));
        assert!(repeat("test", Ok, |_, _| bail!("another way")).is_err());
    }

    #[test]
    fn only_what_comes_after_the_end_may_differ() {
        let one = [(1, Kind::Wait), (2, done(0)), (3, Kind::Wait)];
        let compare = |other: &[(u64, Kind)]| compare(events(&one), events(other)).unwrap();
        assert_eq!(compare(&[(1, Kind::Wait), (2, done(0))]), Comparison::Equal);
        assert_eq!(compare(&[(2, Kind::Wait), (2, done(0))]), Comparison::Different);
        assert_eq!(compare(&[(1, Kind::Wait), (2, done(1))]), Comparison::Different);
        assert_eq!(compare(&[(1, Kind::Wait)]), Comparison::Different);
    }

    #[test]
    fn another_time_is_the_emulators_only_after_the_same_instructions() {
        let one = [(1, clock(100)), (9, done(0))];
        let compare = |other: &[(u64, Kind)]| compare(events(&one), events(other)).unwrap();
        assert_eq!(compare(&[(1, clock(101)), (8, done(7))]), Comparison::Clock);
        assert_eq!(compare(&[(2, clock(101)), (9, done(0))]), Comparison::Different);
        assert_eq!(compare(&[(1, Kind::Wait), (9, done(0))]), Comparison::Different);
    }
}
