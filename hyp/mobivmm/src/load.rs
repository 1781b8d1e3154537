//! The work item of a VM: from its images to the state in which it starts, and from its last exit to the end or the next start.
//!
//! Runs as the EL2 half of vCPU 0, with interrupts open: a large image is hashed while VMs that are ready run.

use alloc::vec::Vec;
use core::fmt;

use arch::cpu;
use bundle::{DTB_WINDOW, Image};
use sched::CpuId;
use sha2::{Digest as _, Sha256};
use stage2::{Fault, Ipa, Pa};
use vm::{Entry, Phase, Power, dtb};

use crate::guest::{Guest, Stage};
use crate::host::Here;
use crate::machine::{self, Machine};
use crate::{log, memory};

/// Bytes that are copied and read back with interrupts masked.
const COPY_PIECE: usize = 512;

/// Why a VM cannot start.
enum LoadError {
    /// The image's bytes are not those that the host put into the bundle.
    Hash { image: &'static str, found: [u8; 32], wanted: &'static [u8; 32] },
    /// Its RAM does not take the image.
    Memory { image: &'static str, fault: Fault },
    /// The device tree is too large for its place, or cannot be made.
    DeviceTree(vm_fdt::Error),
    /// The device tree does not fit where the bundle wants it.
    DeviceTreeSize(usize),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hash { image, found, wanted } => write!(
                f,
                "the {image} in the bundle is damaged: SHA-256 is {}, the configuration says {}; write the bundle again",
                Hex(found),
                Hex(*wanted)
            ),
            Self::Memory { image, fault } => {
                write!(f, "no RAM for the {image} at {:#x} ({:?})", fault.ipa.0, fault.reason)
            }
            Self::DeviceTree(error) => write!(f, "no device tree: {error:?}"),
            Self::DeviceTreeSize(size) => {
                write!(f, "the device tree has {size} bytes, its place {DTB_WINDOW}")
            }
        }
    }
}

/// Bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The work item of the VM with this index: what its stage asks for.
pub extern "C" fn work(index: usize) {
    let Some(machine) = machine::get() else { return };
    let Some(guest) = machine.guests.get(index) else { return };
    if guest.stage() == Stage::Stopping {
        wait_for_vcpus(guest);
        if let Err(error) = memory::end_loans(machine, guest) {
            log!("{guest}: a loan of memory does not end: {error:?}");
            return retire(machine, guest);
        }
        if guest.vm.phase() != Phase::Stopping(Power::Reset) {
            log!("{guest}: stopped; {} vCPU moves between CPUs", guest.moves());
            return retire(machine, guest);
        }
        log!("{guest}: restarts");
    }
    match load(machine, guest) {
        Ok(entry) => {
            guest.set_stage(Stage::Running);
            cpu::masked(|| {
                let here = Here::new(machine, CpuId(cpu::index() as u8));
                guest.vm.boot(entry, &here);
            });
        }
        Err(error) => {
            log!("{guest}: not started: {error}");
            retire(machine, guest);
        }
    }
}

fn retire(machine: &'static Machine, guest: &Guest) {
    if let Err(error) = memory::reclaim(machine, guest) {
        log!("{guest}: its memory stays in use: {error:?}");
    }
    guest.set_stage(Stage::Stopped);
    machine.retire();
}

/// Until no CPU has registers of the VM.
fn wait_for_vcpus(guest: &Guest) {
    for vcpu in guest.vm.vcpus.iter() {
        while cpu::masked(|| vcpu.state.try_lock().is_none()) {
            cpu::relax();
        }
    }
}

/// Brings the VM's RAM into the state in which it starts.
fn load(machine: &Machine, guest: &Guest) -> Result<Entry, LoadError> {
    let config = &guest.config;
    let fault = |image| move |fault| LoadError::Memory { image, fault };
    memory::each_piece(machine, guest, config.memory.base, config.memory.size, |memory, ipa, len| {
        memory.zero(ipa, len)
    })
    .map_err(fault("RAM"))?;
    copy(machine, guest, "kernel", &config.kernel.image, config.kernel.load)?;
    if let Some(initrd) = &config.initrd {
        copy(machine, guest, "initrd", &initrd.image, initrd.load)?;
    }
    let tree = device_tree(guest)?;
    memory::each_piece(machine, guest, config.dtb_load, tree.len() as u64, |memory, ipa, _| {
        memory.write(ipa, &tree[(ipa.0 - config.dtb_load) as usize..])
    })
    .map_err(fault("device tree"))?;
    // The guest starts with its caches off: it must find in memory what was written here (Arm ARM, "Mismatched memory
    // attributes"), and no instruction of whoever had the memory before.
    memory::each_piece(machine, guest, config.memory.base, config.memory.size, |memory, ipa, len| {
        memory.clean_to_poc(ipa, len)
    })
    .map_err(fault("RAM"))?;
    memory::with(machine, guest, |memory| memory.invalidate_icache());
    Ok(Entry { pc: config.kernel.entry, context: config.dtb_load })
}

/// Copies an image to guest RAM and checks what arrived there against its hash: what runs is what was checked.
fn copy(
    machine: &Machine,
    guest: &Guest,
    name: &'static str,
    image: &Image<'static>,
    load: u64,
) -> Result<(), LoadError> {
    let fault = |fault| LoadError::Memory { image: name, fault };
    let source = machine.ram.bundle.as_ptr() as u64 + image.offset;
    let mut hash = Sha256::new();
    let mut buffer = [0; COPY_PIECE];
    let mut done = 0;
    while done < image.size {
        let left = usize::try_from(image.size - done).unwrap_or(COPY_PIECE).min(COPY_PIECE);
        let at = Ipa(load + done);
        let len = memory::with(machine, guest, |memory| {
            let len = memory.copy_from_phys(at, Pa(source + done), left)?;
            memory.read(at, &mut buffer[..len])
        })
        .map_err(fault)?;
        hash.update(&buffer[..len]);
        done += len as u64;
    }
    let found: [u8; 32] = hash.finalize().into();
    if found == *image.sha256 {
        Ok(())
    } else {
        Err(LoadError::Hash { image: name, found, wanted: image.sha256 })
    }
}

fn device_tree(guest: &Guest) -> Result<Vec<u8>, LoadError> {
    let config = &guest.config;
    let chosen = dtb::Chosen {
        bootargs: config.cmdline,
        initrd: config.initrd.as_ref().map(|initrd| initrd.load..initrd.load + initrd.image.size),
        kaslr_seed: None,
        rng_seed: None,
    };
    let tree = dtb::build(&guest.vm.config, cpu::midr(), &chosen).map_err(LoadError::DeviceTree)?;
    if tree.len() as u64 > DTB_WINDOW { Err(LoadError::DeviceTreeSize(tree.len())) } else { Ok(tree) }
}
