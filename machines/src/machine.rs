//! A machine: what the machine file says, checked as far as it can be without its images.

use crate::fields::{Field, Fields, Source};
use crate::{Error, Workload, schema};
use bundle::{
    MAX_ADJUSTABLE_PERCENT, MAX_CHANNELS, MAX_CMDLINE, MAX_PERIOD_NS, MAX_VCPUS, MAX_VMS, MAX_WEIGHT,
    MIN_BUDGET_NS, Memory, RAM_ALIGN, RAM_BASE, RAM_END, Schedule,
};
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// The weight of a VM that names none.
const DEFAULT_WEIGHT: u32 = 256;
/// What the runner calls the hypervisor's own console lines.
const RESERVED_NAME: &str = "mobivmm";

/// A machine file, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The machine's name.
    pub name: String,
    /// Its VMs, in the order of the file.
    pub vms: Vec<Vm>,
    /// Its channels, in the order of the file.
    pub channels: Vec<Channel>,
    /// The file that it was read from.
    pub file: PathBuf,
}

/// A page that two VMs share, and a bell for each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    /// Unique among the machine's channels.
    pub name: String,
    /// The names of the VMs.
    pub between: [String; 2],
}

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vm {
    /// Unique in the machine; the name of its console.
    pub name: String,
    /// What its first vCPU starts.
    pub kernel: Kernel,
    /// Its initial RAM disk.
    pub initrd: Option<Input>,
    /// Its boot arguments.
    pub cmdline: String,
    /// How many vCPUs it has.
    pub vcpus: u32,
    /// Its RAM.
    pub memory: Memory,
    /// How each vCPU is scheduled.
    pub schedule: Schedule,
    /// The most that a vCPU with a reservation may ask for at run time, in percent of one CPU.
    pub adjustable_percent: u32,
    /// The physical CPUs that the vCPUs may run on: bit n = CPU n; all bits set = any.
    pub affinity: u64,
    /// What each vCPU does in the simulator.
    pub workload: Workload,
    /// The line of `memory`.
    pub(crate) memory_line: usize,
    /// The line of `schedule`, or the VM's if there is none.
    pub(crate) schedule_line: usize,
}

/// What a VM starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The file.
    pub input: Input,
    /// For an image without a header: its load address and its entry.
    pub raw: Option<(u64, u64)>,
}

/// A file that goes into the bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it comes from.
    pub origin: Origin,
    /// As the machine file writes it.
    pub(crate) written: String,
    /// The key and the line that name it.
    pub(crate) key: String,
    pub(crate) line: usize,
}

/// Where a file of the bundle comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file; it exists.
    Path(PathBuf),
    /// Something that the project builds: `crate:file`.
    Artefact {
        /// The crate that builds it.
        package: String,
        /// The file's name.
        file: String,
    },
}

impl Machine {
    /// Reads and checks a machine file.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file).map_err(|error| Error {
            file: file.to_owned(),
            line: 0,
            key: String::new(),
            reason: format!("cannot be read: {error}; give the path of a machine file"),
        })?;
        Self::parse(file, &text)
    }

    /// Checks the text of a machine file; `file` is its name in errors, and paths in it are relative to its directory.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        let source = Source { file, text };
        let document = DeTable::parse(text).map_err(|error| source.syntax_error(&error))?;
        let root = Fields::new(source, &schema::ROOT, String::new(), 0..0, document.get_ref())?;
        let machine = root.required("machine")?.table(&schema::MACHINE)?;
        let name = vm_name(&machine.required("name")?)?;
        let tables = root.required("vm")?;
        let elements = tables.array("[[vm]] for each VM")?;
        let mut vms: Vec<Vm> = Vec::new();
        for (index, element) in elements.iter().enumerate() {
            let field = tables.element(element, vm_key(element.get_ref(), index));
            if index >= MAX_VMS {
                return Err(field.error(format!("more than {MAX_VMS} VMs: remove some")));
            }
            let vm = field.table(&schema::VM)?;
            let name_field = vm.required("name")?;
            let name = vm_name(&name_field)?;
            if vms.iter().any(|other| other.name == name) {
                return Err(name_field.error("an earlier VM has this name: choose another"));
            }
            vms.push(Vm::read(&vm, name, file)?);
            refuse_overlap(&vms, &vm.required("memory")?)?;
        }
        if vms.is_empty() {
            return Err(tables.error("the machine has no VM: add a [[vm]] table"));
        }
        let channels = read_channels(&root, &vms)?;
        Ok(Self { name, vms, channels, file: file.to_owned() })
    }

    /// The built-in artefacts that the machine needs: package and file, in the order of the file, some maybe twice.
    pub fn artefacts(&self) -> impl Iterator<Item = (&str, &str)> {
        let inputs = self.vms.iter().flat_map(|vm| [Some(&vm.kernel.input), vm.initrd.as_ref()]);
        inputs.flatten().filter_map(|input| match &input.origin {
            Origin::Artefact { package, file } => Some((package.as_str(), file.as_str())),
            Origin::Path(_) => None,
        })
    }
}

impl Vm {
    fn read(vm: &Fields<'_>, name: String, file: &Path) -> Result<Self, Error> {
        let max_vcpus = u64::from(MAX_VCPUS);
        let vcpus = vm.get("vcpus").map_or(Ok(1), |field| field.integer(1..=max_vcpus))? as u32;
        let (schedule, adjustable_percent, affinity) = match vm.get("schedule") {
            Some(field) => read_schedule(&field, vcpus)?,
            None => (Schedule::Share { weight: DEFAULT_WEIGHT, cap_percent: 0 }, 0, u64::MAX),
        };
        let workload = match vm.get("workload") {
            Some(field) => Workload::read(&field, &schedule)?,
            None => Workload::usual(&schedule),
        };
        let memory = vm.required("memory")?;
        Ok(Self {
            name,
            kernel: read_kernel(&vm.required("kernel")?, file)?,
            initrd: vm.get("initrd").map(|field| Input::read(&field, file)).transpose()?,
            cmdline: vm.get("cmdline").map_or(Ok(String::new()), |field| cmdline(&field))?,
            vcpus,
            memory: read_memory(&memory)?,
            schedule,
            adjustable_percent,
            affinity,
            workload,
            memory_line: memory.line(),
            schedule_line: vm.get("schedule").map_or(vm.line(), |field| field.line()),
        })
    }
}

impl Input {
    fn read(field: &Field<'_>, machine_file: &Path) -> Result<Self, Error> {
        let written = field.string()?;
        let origin = match written.split_once(':') {
            Some((package, file)) if is_word(package) && !file.contains(['/', '\\']) && !file.is_empty() => {
                Origin::Artefact { package: package.to_owned(), file: file.to_owned() }
            }
            _ => {
                let path = machine_file.parent().unwrap_or(Path::new("")).join(written);
                if !path.is_file() {
                    let path = path.display();
                    let hint =
                        "name an existing file, relative to the machine file, or an artefact `crate:file`";
                    return Err(field.error(format!("no such file: {path}: {hint}")));
                }
                Origin::Path(path)
            }
        };
        Ok(Self { origin, written: written.to_owned(), key: field.key().to_owned(), line: field.line() })
    }
}

fn read_channels(root: &Fields<'_>, vms: &[Vm]) -> Result<Vec<Channel>, Error> {
    let mut channels: Vec<Channel> = Vec::new();
    let Some(tables) = root.get("channel") else { return Ok(channels) };
    for (index, element) in tables.array("[[channel]] for each channel")?.iter().enumerate() {
        let table = tables.element(element, format!("channel[{index}]")).table(&schema::CHANNEL)?;
        let name_field = table.required("name")?;
        let name = vm_name(&name_field)?;
        if channels.iter().any(|other| other.name == name) {
            return Err(name_field.error("an earlier channel has this name: choose another"));
        }
        let field = table.required("between")?;
        let mut ends = Vec::new();
        for element in field.array("the names of two VMs such as [\"a\", \"b\"]")? {
            let vm = field.element(element, field.key().to_owned()).string()?;
            if !vms.iter().any(|other| other.name == vm) {
                return Err(field.error(format!("there is no VM \"{vm}\": name one of this file")));
            }
            let is_end = |other: &&Channel| other.between.iter().any(|end| end == vm);
            if channels.iter().filter(is_end).count() >= MAX_CHANNELS {
                return Err(field.error(format!("VM \"{vm}\" has {MAX_CHANNELS} channels: remove some")));
            }
            ends.push(vm.to_owned());
        }
        match <[String; 2]>::try_from(ends) {
            Ok(between) if between[0] != between[1] => channels.push(Channel { name, between }),
            _ => return Err(field.error("is not between two VMs: name two different ones")),
        }
    }
    Ok(channels)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// What the VM at `index` is called in errors: by its name if it has one.
fn vm_key(vm: &DeValue<'_>, index: usize) -> String {
    let name = vm.get("name").and_then(|name| name.get_ref().as_str()).filter(|name| bundle::is_name(name));
    name.map_or_else(|| format!("vm[{index}]"), |name| format!("vm[{name}]"))
}

fn vm_name(field: &Field<'_>) -> Result<String, Error> {
    let name = field.string()?;
    if !bundle::is_name(name) {
        return Err(field.error(format!("\"{name}\" is not a name: write 1 to 31 of a-z, 0-9 and -")));
    }
    if name == RESERVED_NAME {
        return Err(field.error("\"mobivmm\" is the hypervisor's own console: choose another name"));
    }
    Ok(name.to_owned())
}

fn cmdline(field: &Field<'_>) -> Result<String, Error> {
    let text = field.string()?;
    if text.len() > MAX_CMDLINE {
        return Err(field.error(format!("has {} bytes: shorten it to {MAX_CMDLINE}", text.len())));
    }
    if text.contains(char::is_control) {
        return Err(field.error("contains a control character: remove it"));
    }
    Ok(text.to_owned())
}

fn read_kernel(field: &Field<'_>, file: &Path) -> Result<Kernel, Error> {
    if field.is_string() {
        return Ok(Kernel { input: Input::read(field, file)?, raw: None });
    }
    let raw = field.table(&schema::KERNEL)?;
    let input = Input::read(&raw.required("raw")?, file)?;
    let load = raw.required("load")?.address(RAM_BASE..=RAM_END - 1, 8)?;
    let entry = raw.required("entry")?.address(load..=RAM_END - 1, 4)?;
    Ok(Kernel { input, raw: Some((load, entry)) })
}

fn read_memory(field: &Field<'_>) -> Result<Memory, Error> {
    let (size_field, base_field, identity_field) = if field.is_table() {
        let memory = field.table(&schema::MEMORY)?;
        (memory.required("size")?, memory.get("base"), memory.get("identity"))
    } else {
        (field.clone(), None, None)
    };
    let base = match &base_field {
        Some(base) => base.address(RAM_BASE..=RAM_END - RAM_ALIGN, RAM_ALIGN)?,
        None => RAM_BASE,
    };
    let size = size_field.size()?;
    if size == 0 || !size.is_multiple_of(RAM_ALIGN) {
        return Err(size_field.error("is not a multiple of 2MiB: round it up"));
    }
    if size > RAM_END - base {
        return Err(size_field.error("ends beyond the 40-bit guest address space: make it smaller"));
    }
    let identity = identity_field.as_ref().map_or(Ok(false), Field::boolean)?;
    match identity_field {
        Some(field) if identity && base_field.is_none() => {
            Err(field.error("identity memory lies at a physical address: give it as `base`"))
        }
        _ => Ok(Memory { base, size, identity }),
    }
}

/// Refuses the last VM if its memory and an earlier VM's are the same physical memory: both are identity mapped.
fn refuse_overlap(vms: &[Vm], field: &Field<'_>) -> Result<(), Error> {
    let Some((last, earlier)) = vms.split_last() else {
        return Ok(());
    };
    let overlaps = |a: &Memory, b: &Memory| a.base < b.base + b.size && b.base < a.base + a.size;
    let clash = earlier
        .iter()
        .find(|other| other.memory.identity && last.memory.identity && overlaps(&other.memory, &last.memory));
    match clash {
        None => Ok(()),
        Some(other) => {
            let (name, Memory { base, size, .. }) = (&other.name, other.memory);
            let end = base + size;
            Err(field.error(format!(
                "overlaps the memory of VM \"{name}\", {base:#x} to {end:#x}: move one of them"
            )))
        }
    }
}

/// The schedule, what a reservation may be changed to in percent of one CPU, and the affinity.
fn read_schedule(field: &Field<'_>, vcpus: u32) -> Result<(Schedule, u32, u64), Error> {
    const FORMS: [&[&str]; 3] =
        [&["weight", "cap"], &["budget", "period", "deadline", "adjustable"], &["exclusive"]];
    let schedule = field.table(&schema::SCHEDULE)?;
    let mut used = FORMS.iter().filter_map(|form| schedule.first_of(form));
    if let (Some(first), Some(second)) = (used.next(), used.next()) {
        let (first, second) = (first.key(), second);
        return Err(second.error(format!(
            "does not go with {first}: use weight and cap, or budget, period and deadline, or exclusive"
        )));
    }
    let form = if let Some(exclusive) = schedule.get("exclusive") {
        if !exclusive.boolean()? {
            return Err(exclusive.error("can only be true: leave it out for a share"));
        }
        Schedule::Exclusive
    } else if schedule.first_of(FORMS[1]).is_some() {
        read_reservation(&schedule)?
    } else {
        let (max_weight, max_cap) = (u64::from(MAX_WEIGHT), u64::from(vcpus) * 100);
        let weight = schedule.get("weight").map(|field| field.integer(1..=max_weight)).transpose()?;
        let cap = schedule.get("cap").map_or(Ok(0), |field| field.integer(0..=max_cap))?;
        let weight = weight.map_or(DEFAULT_WEIGHT, |weight| weight as u32);
        Schedule::Share { weight, cap_percent: cap as u32 }
    };
    let affinity = match schedule.get("affinity") {
        Some(field) => read_affinity(&field)?,
        None => u64::MAX,
    };
    if form == Schedule::Exclusive && affinity.count_ones() < vcpus {
        return Err(field.error(format!(
            "{vcpus} vCPUs with a CPU of their own each, and affinity allows {}: name more CPUs",
            affinity.count_ones()
        )));
    }
    let adjustable = schedule.get("adjustable");
    let limit = 0..=u64::from(MAX_ADJUSTABLE_PERCENT);
    let adjustable = adjustable.map_or(Ok(0), |field| field.integer(limit))?;
    Ok((form, adjustable as u32, affinity))
}

fn read_reservation(schedule: &Fields<'_>) -> Result<Schedule, Error> {
    let (budget, period) = (schedule.required("budget")?, schedule.required("period")?);
    let (budget_ns, period_ns) = (budget.duration()?, period.duration()?);
    if period_ns > MAX_PERIOD_NS {
        return Err(period.error("is longer than 10s: shorten it"));
    }
    if budget_ns < MIN_BUDGET_NS {
        return Err(budget.error("is shorter than 1us: a budget must be worth a switch"));
    }
    if budget_ns > period_ns {
        return Err(budget.error("is longer than period: no CPU has that much time"));
    }
    let deadline = schedule.get("deadline");
    let deadline_ns = deadline.as_ref().map_or(Ok(period_ns), Field::duration)?;
    match deadline {
        Some(field) if deadline_ns > period_ns => Err(field.error("is longer than period: shorten it")),
        Some(field) if deadline_ns < budget_ns => Err(field.error("is shorter than budget: lengthen it")),
        _ => Ok(Schedule::Reservation { budget_ns, period_ns, deadline_ns }),
    }
}

fn read_affinity(field: &Field<'_>) -> Result<u64, Error> {
    const EXPECTED: &str = "\"all\" or a list of CPU numbers such as [0, 2]";
    if field.is_string() {
        return match field.string()? {
            "all" => Ok(u64::MAX),
            other => Err(field.error(format!("\"{other}\" is no set of CPUs: write {EXPECTED}"))),
        };
    }
    let mut affinity = 0;
    for element in field.array(EXPECTED)? {
        affinity |= 1 << field.element(element, field.key().to_owned()).integer(0..=63)?;
    }
    if affinity == 0 { Err(field.error(format!("allows no CPU: write {EXPECTED}"))) } else { Ok(affinity) }
}
