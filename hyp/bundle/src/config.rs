//! One VM's configuration: the types, and their reading from the VM's node.

use crate::node::Reader;
use crate::{
    Bundle, DTB_WINDOW, Digest, Error, MAX_ADJUSTABLE_PERCENT, MAX_CHANNELS, MAX_CMDLINE, MAX_NAME,
    MAX_PERIOD_NS, MAX_VCPUS, MAX_WEIGHT, MIN_BUDGET_NS, RAM_ALIGN, RAM_BASE, RAM_END, Reason,
};

/// A virtual machine as the machine file describes it. All addresses are guest physical (IPA).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmConfig<'a> {
    /// 1 to [`MAX_NAME`] of `a-z`, `0-9` and `-`; unique in the bundle.
    pub name: &'a str,
    /// 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// The guest's RAM.
    pub memory: Memory,
    /// How each vCPU is scheduled.
    pub schedule: Schedule,
    /// The most that a vCPU may ask for as its reservation while it runs, in percent of one CPU: 0 (it may not) to
    /// [`MAX_ADJUSTABLE_PERCENT`]. Only with [`Schedule::Reservation`].
    pub adjustable_percent: u32,
    /// The physical CPUs that the vCPUs may run on: bit n = CPU n; all bits set = any.
    pub affinity: u64,
    /// The guest's boot arguments: at most [`MAX_CMDLINE`] bytes, may be empty.
    pub cmdline: &'a str,
    /// The channels to other VMs, each of which has the same name there: at most [`MAX_CHANNELS`].
    pub channels: Names<'a>,
    /// What the first vCPU starts.
    pub kernel: Kernel<'a>,
    /// The initial RAM disk, if any.
    pub initrd: Option<Initrd<'a>>,
    /// Where the guest's device tree goes, 8-byte aligned; [`DTB_WINDOW`] bytes from here are free for it.
    pub dtb_load: u64,
}

/// Names of 1 to [`MAX_NAME`] of `a-z`, `0-9` and `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names<'a>(&'a str);

impl<'a> Names<'a> {
    /// The names, in their order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        self.0.split_terminator('\0')
    }

    fn read(vm: &Reader<'a>, property: &'static str) -> Result<Self, Error<'a>> {
        let text = core::str::from_utf8(vm.get(property).unwrap_or_default()).ok();
        let names = text.filter(|text| text.is_empty() || text.ends_with('\0')).map(Self);
        names.filter(|names| names.iter().all(is_name)).ok_or(vm.error(property, Reason::BadType))
    }
}

/// A VM's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// First address, a multiple of [`RAM_ALIGN`].
    pub base: u64,
    /// In bytes, a multiple of [`RAM_ALIGN`], not 0.
    pub size: u64,
    /// The RAM is to lie at the same physical addresses.
    pub identity: bool,
}

/// How a VM's vCPUs get CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// A share of what reservations leave.
    Share {
        /// Relative to other VMs' weights, 1 to [`MAX_WEIGHT`].
        weight: u32,
        /// An upper limit in percent of one CPU, at most 100 a vCPU; 0 = none.
        cap_percent: u32,
    },
    /// Each vCPU gets `budget_ns` in every `period_ns`, within `deadline_ns` of the period's start.
    /// `MIN_BUDGET_NS ≤ budget_ns ≤ deadline_ns ≤ period_ns ≤ MAX_PERIOD_NS`.
    Reservation {
        /// In nanoseconds.
        budget_ns: u64,
        /// In nanoseconds.
        period_ns: u64,
        /// In nanoseconds.
        deadline_ns: u64,
    },
    /// Each vCPU has a physical CPU of its own.
    Exclusive,
}

/// Bytes in the bundle. They are within it; whether they are the right ones, the SHA-256 tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// From the beginning of the bundle, in bytes.
    pub offset: u64,
    /// In bytes, not 0.
    pub size: u64,
    /// The SHA-256 of the bytes.
    pub sha256: &'a [u8; 32],
}

/// The program that a VM starts, flat: to be copied to `load` and entered at `entry` with the MMU off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel<'a> {
    /// Its bytes.
    pub image: Image<'a>,
    /// Where the bytes go, 8-byte aligned.
    pub load: u64,
    /// The first instruction, 4-byte aligned.
    pub entry: u64,
    /// The bytes that it occupies from `load` on, at least the image's size: the rest is zero (its .bss).
    pub mem_size: u64,
}

/// A VM's initial RAM disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initrd<'a> {
    /// Its bytes.
    pub image: Image<'a>,
    /// Where the bytes go, 8-byte aligned.
    pub load: u64,
}

/// Reads and checks the VM of node `vm`.
pub(crate) fn read<'a>(bundle: &Bundle<'a>, vm: &Reader<'a>) -> Result<VmConfig<'a>, Error<'a>> {
    if !is_name(vm.name) {
        return Err(vm.error("", Reason::BadName));
    }
    let (kernel, kernel_node) = bundle.image(vm, "kernel")?;
    let initrd = vm.get("initrd").map(|_| bundle.image(vm, "initrd")).transpose()?;
    let mut digest = Digest::default();
    vm.digest(&mut digest);
    kernel_node.digest_image(&mut digest)?;
    if let Some((_, initrd_node)) = &initrd {
        initrd_node.digest_image(&mut digest)?;
    }
    if digest.finish() != *vm.sha256()? {
        return Err(vm.error("hash-1", Reason::Corrupt));
    }

    let vcpus = vm.u32("vcpus")?;
    in_range(vm, "vcpus", vcpus.into(), 1, MAX_VCPUS.into())?;
    let schedule = schedule(vm, vcpus)?;
    let affinity = vm.u64("affinity")?;
    if affinity == 0 || (schedule == Schedule::Exclusive && affinity.count_ones() < vcpus) {
        return Err(vm.error("affinity", Reason::OutOfRange));
    }
    let adjustable_percent = vm.u32("adjustable-percent")?;
    let adjustable =
        if matches!(schedule, Schedule::Reservation { .. }) { MAX_ADJUSTABLE_PERCENT } else { 0 };
    in_range(vm, "adjustable-percent", adjustable_percent.into(), 0, adjustable.into())?;
    let cmdline = vm.str("cmdline")?;
    in_range(vm, "cmdline", cmdline.len() as u64, 0, MAX_CMDLINE as u64)?;

    let channels = Names::read(vm, "channels")?;
    in_range(vm, "channels", channels.iter().count() as u64, 0, MAX_CHANNELS as u64)?;

    let config = VmConfig {
        name: vm.name,
        vcpus,
        memory: memory(vm)?,
        schedule,
        adjustable_percent,
        affinity,
        cmdline,
        channels,
        kernel: Kernel {
            image: kernel,
            load: vm.u64("kernel-load")?,
            entry: vm.u64("kernel-entry")?,
            mem_size: vm.u64("kernel-mem-size")?,
        },
        initrd: match initrd {
            Some((image, _)) => Some(Initrd { image, load: vm.u64("initrd-load")? }),
            None => None,
        },
        dtb_load: vm.u64("dtb-load")?,
    };
    vm.refuse_others(bundle.fdt.data())?;
    placement(vm, &config)?;
    Ok(config)
}

/// Whether `name` may be a VM's: 1 to [`MAX_NAME`] of `a-z`, `0-9` and `-`.
pub fn is_name(name: &str) -> bool {
    let ok = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(ok)
}

fn in_range<'a>(vm: &Reader<'a>, property: &'a str, value: u64, min: u64, max: u64) -> Result<(), Error<'a>> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(vm.error(property, Reason::OutOfRange)) }
}

fn aligned<'a>(vm: &Reader<'a>, property: &'a str, value: u64, to: u64) -> Result<(), Error<'a>> {
    if value.is_multiple_of(to) { Ok(()) } else { Err(vm.error(property, Reason::Misaligned)) }
}

fn memory<'a>(vm: &Reader<'a>) -> Result<Memory, Error<'a>> {
    let memory = Memory {
        base: vm.u64("memory-base")?,
        size: vm.u64("memory-size")?,
        identity: vm.flag("memory-identity")?,
    };
    aligned(vm, "memory-base", memory.base, RAM_ALIGN)?;
    aligned(vm, "memory-size", memory.size, RAM_ALIGN)?;
    in_range(vm, "memory-base", memory.base, RAM_BASE, RAM_END - RAM_ALIGN)?;
    in_range(vm, "memory-size", memory.size, RAM_ALIGN, RAM_END - memory.base)?;
    Ok(memory)
}

fn schedule<'a>(vm: &Reader<'a>, vcpus: u32) -> Result<Schedule, Error<'a>> {
    match vm.str("schedule")? {
        "share" => {
            let (weight, cap_percent) = (vm.u32("weight")?, vm.u32("cap-percent")?);
            in_range(vm, "weight", weight.into(), 1, MAX_WEIGHT.into())?;
            in_range(vm, "cap-percent", cap_percent.into(), 0, u64::from(vcpus) * 100)?;
            Ok(Schedule::Share { weight, cap_percent })
        }
        "reservation" => {
            let (budget_ns, period_ns) = (vm.u64("budget-ns")?, vm.u64("period-ns")?);
            let deadline_ns = vm.u64("deadline-ns")?;
            in_range(vm, "period-ns", period_ns, MIN_BUDGET_NS, MAX_PERIOD_NS)?;
            in_range(vm, "deadline-ns", deadline_ns, MIN_BUDGET_NS, period_ns)?;
            in_range(vm, "budget-ns", budget_ns, MIN_BUDGET_NS, deadline_ns)?;
            Ok(Schedule::Reservation { budget_ns, period_ns, deadline_ns })
        }
        "exclusive" => Ok(Schedule::Exclusive),
        _ => Err(vm.error("schedule", Reason::OutOfRange)),
    }
}

/// Checks that kernel, initrd and device tree lie in the RAM, aligned, and not in one another's place.
fn placement<'a>(vm: &Reader<'a>, config: &VmConfig<'a>) -> Result<(), Error<'a>> {
    let Kernel { image, load, entry, mem_size } = config.kernel;
    if mem_size < image.size {
        return Err(vm.error("kernel-mem-size", Reason::OutOfRange));
    }
    aligned(vm, "kernel-entry", entry, 4)?;
    if !load.checked_add(mem_size).is_some_and(|end| (load..end).contains(&entry)) {
        return Err(vm.error("kernel-entry", Reason::OutOfRange));
    }
    let initrd = config.initrd.map(|initrd| ("initrd-load", initrd.load, initrd.image.size));
    let parts =
        [Some(("kernel-load", load, mem_size)), Some(("dtb-load", config.dtb_load, DTB_WINDOW)), initrd];
    let ram_end = config.memory.base.saturating_add(config.memory.size);
    for (index, (property, start, size)) in
        parts.iter().enumerate().filter_map(|(i, part)| part.map(|p| (i, p)))
    {
        aligned(vm, property, start, 8)?;
        let end = start.checked_add(size).filter(|&end| start >= config.memory.base && end <= ram_end);
        let end = end.ok_or(vm.error(property, Reason::OutsideRam))?;
        let mut earlier = parts.iter().take(index).flatten();
        if earlier.any(|&(_, other, size)| start < other.saturating_add(size) && other < end) {
            return Err(vm.error(property, Reason::Overlap));
        }
    }
    Ok(())
}
