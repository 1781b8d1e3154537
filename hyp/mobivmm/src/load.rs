//! The work item of a VM: from its images to the state in which it starts, and from its last exit to the end or the next start.
//!
//! Runs as the EL2 half of vCPU 0, with interrupts open: a large image is hashed while VMs that are ready run.

use alloc::vec::Vec;
use core::fmt;

use arch::cpu;
use bundle::{DTB_WINDOW, Image, Memory};
use hmac_sha256::Hash;
use sched::CpuId;
use stage2::{Fault, GuestMem, Ipa};
use thiserror::Error;
use vm::{Entry, Phase, Power, dtb};

use crate::guest::Guest;
use crate::host::Here;
use crate::machine::{self, Machine};
use crate::memory::Ram;
use crate::{control, log, memory};

/// Bytes that are hashed before the next look whether the VM was stopped.
const HASHED: usize = 64 * 1024;

/// Why a VM cannot start.
#[derive(Debug, Error)]
enum LoadError {
    /// It was stopped meanwhile.
    #[error("stopped")]
    Stopped,
    /// The image's bytes are not those that the host put into the bundle.
    #[error(
        "the {image} in the bundle is damaged: SHA-256 is {}, the configuration says {}; write the bundle again",
        Hex(found), Hex(*wanted)
    )]
    Hash { image: &'static str, found: [u8; 32], wanted: &'static [u8; 32] },
    /// Its RAM does not take the image.
    #[error("no RAM for the {image} at {:#x} ({:?})", fault.ipa.0, fault.reason)]
    Memory { image: &'static str, fault: Fault },
    /// The device tree does not fit where the bundle wants it.
    #[error("the device tree has {0} bytes, its place {DTB_WINDOW}")]
    DeviceTreeSize(usize),
}

/// Bytes as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The work item of the VM with this index: what its phase asks for, until its vCPUs run or it has stopped for good. What is
/// asked of the VM meanwhile changes the phase, so that the load under way ends and the next round follows it.
pub extern "C" fn work(index: usize) {
    let Some(machine) = machine::get() else { return };
    let Some(guest) = machine.guests.get(index) else { return };
    loop {
        match guest.vm.phase() {
            Phase::Loading => match load(machine, guest) {
                Ok(entry) => {
                    // The new one is made, and the old one freed, with interrupts open.
                    let Some(mut gic) = guest.vm.new_gic() else { return };
                    cpu::masked(|| {
                        let here = Here::new(machine, CpuId(cpu::index() as u8));
                        guest.reset(|vcpu| machine.scheduler.lock().stats(vcpu).waited);
                        guest.vm.boot(entry, &mut gic, &here);
                    });
                }
                Err(LoadError::Stopped) => {}
                Err(error) => {
                    log!("{guest}: not started: {error}");
                    give_up(guest);
                }
            },
            Phase::Stopping(Power::Reset) => {
                leave(machine, guest);
                if cpu::masked(|| guest.vm.settle(Power::Reset)) {
                    log!("{guest}: restarts");
                }
            }
            Phase::Stopping(Power::Off) => {
                leave(machine, guest);
                if let Err(error) = memory::reclaim(machine, guest) {
                    log!("{guest}: its memory stays in use: {error:?}");
                }
                let moves = |vcpu| machine.scheduler.lock().stats(guest.id(vcpu)).migrations;
                let moves: u64 = (0..guest.vm.vcpus.len()).map(|vcpu| cpu::masked(|| moves(vcpu))).sum();
                log!("{guest}: stopped; {moves} vCPU moves between CPUs");
                cpu::masked(|| {
                    control::release(machine, guest);
                    if guest.vm.settle(Power::Off) {
                        machine.retire();
                    }
                });
            }
            Phase::Running | Phase::Stopped => return,
        }
    }
}

/// Until no CPU has registers of the VM, and nothing of it is lent or borrowed: who borrowed from it must not see what the next start
/// puts there.
fn leave(machine: &Machine, guest: &Guest) {
    for vcpu in guest.vm.vcpus.iter() {
        while cpu::masked(|| vcpu.state.try_lock().is_none()) {
            cpu::relax();
        }
    }
    if let Err(error) = memory::end_loans(machine, guest) {
        log!("{guest}: a loan of memory does not end: {error:?}");
        give_up(guest);
    }
}

/// It is not to be started (again).
fn give_up(guest: &Guest) {
    cpu::masked(|| guest.vm.stop(Power::Off));
}

/// Brings the VM's RAM into the state in which it starts.
fn load(machine: &Machine, guest: &Guest) -> Result<Entry, LoadError> {
    let config = &guest.config;
    // The guest starts with its caches off: it must find in memory what was written here (Arm ARM D7.5.9), and no instruction of
    // whoever had the memory before.
    clear(machine, guest)?;
    copy(machine, guest, "kernel", &config.kernel.image, config.kernel.load)?;
    if let Some(initrd) = &config.initrd {
        copy(machine, guest, "initrd", &initrd.image, initrd.load)?;
    }
    write(machine, guest, "device tree", config.dtb_load, &device_tree(guest)?)?;
    memory::with(machine, guest, |memory| memory.invalidate_icache());
    Ok(Entry { pc: config.kernel.entry, context: config.dtb_load })
}

/// Whether the VM is still to be loaded.
fn go_on(guest: &Guest) -> Result<(), LoadError> {
    if guest.vm.phase() == Phase::Loading { Ok(()) } else { Err(LoadError::Stopped) }
}

/// Does something to guest RAM, with interrupts masked; unless the VM was stopped meanwhile.
fn step<R>(
    machine: &Machine,
    guest: &Guest,
    image: &'static str,
    step: impl FnOnce(&mut GuestMem<'_, &Ram>) -> Result<R, Fault>,
) -> Result<R, LoadError> {
    go_on(guest)?;
    memory::with(machine, guest, step).map_err(|fault| LoadError::Memory { image, fault })
}

/// Does something piece by piece to `len` bytes at `ipa`: `piece` gets the address and what is left and returns how far it came.
fn each_piece(
    ipa: u64,
    len: u64,
    mut piece: impl FnMut(Ipa, usize) -> Result<usize, LoadError>,
) -> Result<(), LoadError> {
    let mut done = 0;
    while done < len {
        done += piece(Ipa(ipa + done), (len - done) as usize)? as u64;
    }
    Ok(())
}

/// Clears the VM's RAM. Nobody else is there while it does not run: its lock is for finding the pieces, and interrupts stay open.
fn clear(machine: &Machine, guest: &Guest) -> Result<(), LoadError> {
    let Memory { base, size, .. } = guest.config.memory;
    each_piece(base, size, |ipa, left| {
        let (pa, len) = step(machine, guest, "RAM", |memory| memory.find(ipa, left))?;
        stage2::zero(&mut &machine.ram, &machine.dirty, pa, len);
        Ok(len)
    })
}

/// Writes bytes to guest RAM, and has memory show them.
fn write(
    machine: &Machine,
    guest: &Guest,
    name: &'static str,
    at: u64,
    bytes: &[u8],
) -> Result<(), LoadError> {
    each_piece(at, bytes.len() as u64, |ipa, _| {
        step(machine, guest, name, |memory| {
            let len = memory.write(ipa, &bytes[(ipa.0 - at) as usize..])?;
            memory.clean_to_poc(ipa, len)
        })
    })
}

/// Copies an image to guest RAM, and checks it against its hash. No guest can write to the bundle: what runs is what was checked.
fn copy(
    machine: &Machine,
    guest: &Guest,
    name: &'static str,
    image: &Image<'static>,
    load: u64,
) -> Result<(), LoadError> {
    let start = image.offset as usize;
    let bytes = machine.ram.bundle.get(start..start + image.size as usize).unwrap_or_default();
    write(machine, guest, name, load, bytes)?;
    let mut hash = Hash::new();
    for piece in bytes.chunks(HASHED) {
        go_on(guest)?;
        hash.update(piece);
    }
    let found = hash.finalize();
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
    };
    let tree = dtb::build(&guest.vm.config, cpu::midr(), &chosen);
    if tree.len() as u64 > DTB_WINDOW { Err(LoadError::DeviceTreeSize(tree.len())) } else { Ok(tree) }
}
