//! The address map: what lies where in a guest's intermediate physical address space (DESIGN.md, section 7).

use alloc::vec::Vec;
use core::ops::Range;

use vgic::{Effects, Sgi, Version, Vgic};

use crate::console;
use crate::handle::{Context, Host};

/// GICv2 and GICv3 distributor.
pub const GICD: Range<u64> = 0x0800_0000..0x0801_0000;
/// GICv2 CPU interface: GICV is mapped here.
pub const GICC: Range<u64> = 0x0801_0000..0x0801_2000;
/// GICC_DIR's page: not mapped while the deactivation register traps.
const GICC_DIR: Range<u64> = 0x0801_1000..0x0801_2000;
/// GICv3 redistributors, from here.
pub const GICR_BASE: u64 = 0x080A_0000;
/// The page of stolen-time records (Arm DEN 0057A), which the hypervisor writes and the guest may read.
pub const STOLEN_TIME: Range<u64> = 0x090A_0000..0x090A_1000;
/// The PL011.
pub const UART: Range<u64> = 0x0900_0000..0x0900_1000;
/// The PL011's interrupt, SPI 1.
pub const UART_INTID: u16 = 33;
/// The most channels of a VM.
pub const MAX_CHANNELS: usize = 8;
/// The channels' pages start here. QEMU's `virt` has nothing there.
const CHANNELS: u64 = 0x0B00_0000;
/// The first channel's bell, SPI 64.
const CHANNEL_INTID: u16 = 96;
/// RAM starts here.
pub const RAM_BASE: u64 = 0x4000_0000;

/// What answers at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Stage 2 maps it: RAM, or a device's page that is passed through.
    Memory,
    /// An emulated device.
    Device(Device),
}

/// The emulated devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The distributor.
    Gicd,
    /// The redistributors.
    Gicr,
    /// The page of GICC_DIR.
    GiccDir,
    /// The PL011.
    Uart,
}

/// A range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Intermediate physical addresses.
    pub range: Range<u64>,
    /// What is there.
    pub target: Target,
}

/// Two regions overlap, or one is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMap {
    /// The region that does not fit.
    pub region: Range<u64>,
}

/// All regions of a VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressMap {
    /// Ascending, disjoint.
    regions: Vec<Region>,
}

impl AddressMap {
    /// The platform's devices, `memory` and what is passed through.
    pub(crate) fn new(
        version: vgic::Version,
        vcpus: usize,
        memory: impl Iterator<Item = Range<u64>>,
    ) -> Result<Self, BadMap> {
        let device = |range, device| Region { range, target: Target::Device(device) };
        let memory_at = |range| Region { range, target: Target::Memory };
        let mut regions = Vec::new();
        let mut add = |region: Region| {
            let at = regions.partition_point(|other: &Region| other.range.start <= region.range.start);
            regions.insert(at, region);
        };
        add(device(GICD, Device::Gicd));
        add(device(UART, Device::Uart));
        add(memory_at(STOLEN_TIME));
        match version {
            vgic::Version::V2 => {
                add(memory_at(GICC.start..GICC_DIR.start));
                add(device(GICC_DIR, Device::GiccDir));
            }
            vgic::Version::V3 => add(device(gicr(vcpus), Device::Gicr)),
        }
        memory.map(memory_at).for_each(add);
        let mut end = 0;
        for region in &regions {
            if region.range.is_empty() || region.range.start < end {
                return Err(BadMap { region: region.range.clone() });
            }
            end = region.range.end;
        }
        Ok(Self { regions })
    }

    /// The region of an address. There are few, and the devices come first.
    #[inline]
    pub fn find(&self, ipa: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.range.contains(&ipa))
    }

    /// Whether `ipa` is in memory.
    pub fn is_memory(&self, ipa: u64) -> bool {
        self.find(ipa).is_some_and(|region| region.target == Target::Memory)
    }
}

/// Where the page of a VM's `n`-th channel is.
pub fn channel_page(n: usize) -> Range<u64> {
    const SIZE: u64 = abi::channel::PAGE_SIZE as u64;
    let start = CHANNELS + n as u64 * SIZE;
    start..start + SIZE
}

/// The bell of a VM's `n`-th channel.
pub fn channel_intid(n: usize) -> u16 {
    CHANNEL_INTID + n as u16
}

/// Where the redistributors of so many vCPUs are.
pub fn gicr(vcpus: usize) -> Range<u64> {
    GICR_BASE..GICR_BASE + vcpus as u64 * vgic::GICR_STRIDE
}

/// A guest's read of `size` (1, 2, 4 or 8) bytes at `offset` in a device. What does not exist reads as zero.
#[inline(never)]
pub(crate) fn read(cx: &Context<'_, impl Host>, device: Device, offset: u64, size: u8) -> u64 {
    match device {
        Device::Uart => console::read(cx.vm, offset, cx.host),
        Device::GiccDir => 0,
        Device::Gicd => read_gicd(cx, offset, size),
        Device::Gicr => read_gic(cx, owner(offset), offset, |gic| gic.gicr_read(offset, size.into())),
    }
}

/// A guest's write. What does not exist is ignored.
#[inline(never)]
pub(crate) fn write(cx: &Context<'_, impl Host>, device: Device, offset: u64, size: u8, value: u64) {
    match device {
        Device::Uart => console::write(cx.vm, offset, value, cx.host),
        Device::GiccDir if offset == 0 => write_gic(cx, None, |gic| gic.dir(cx.vcpu, value as u32)),
        Device::GiccDir => {}
        Device::Gicd => write_gicd(cx, offset, size, value),
        Device::Gicr => {
            write_gic(cx, Some(owner(offset)), |gic| gic.gicr_write(offset, size.into(), value));
        }
    }
}

/// Whose redistributor it is.
fn owner(offset: u64) -> usize {
    (offset / vgic::GICR_STRIDE) as usize
}

/// A read of the distributor.
#[inline(always)]
pub(crate) fn read_gicd(cx: &Context<'_, impl Host>, offset: u64, size: u8) -> u64 {
    read_gic(cx, cx.vcpu, offset, |gic| gic.gicd_read(cx.vcpu, offset, size.into()))
}

/// A write of the distributor.
#[inline(always)]
pub(crate) fn write_gicd(cx: &Context<'_, impl Host>, offset: u64, size: u8, value: u64) {
    if offset == vgic::SGIR && size == 4 && cx.vm.config.gic.version == Version::V2 {
        return cx.vm.send(cx.host, Sgi::from_sgir(value, cx.vcpu, cx.vm.vcpus.len()));
    }
    let concerns_sgis = vgic::listed_word(offset) == Some(0);
    let write = |gic: &mut Vgic| gic.gicd_write(cx.vcpu, offset, size.into(), value);
    write_gic(cx, concerns_sgis.then_some(cx.vcpu), write);
}

/// A read of the vGIC's register at `offset`, of `owner` if it is one of a vCPU's, with a look first at what the hardware holds and what is
/// on its way if the register shows that.
#[inline(always)]
fn read_gic(cx: &Context<'_, impl Host>, owner: usize, offset: u64, read: impl FnOnce(&Vgic) -> u64) -> u64 {
    if let Some(word) = vgic::listed_word(offset) {
        observe(cx, owner, word);
    }
    read(&cx.vm.gic.lock())
}

#[inline(never)]
fn observe(cx: &Context<'_, impl Host>, owner: usize, word: usize) {
    let mut gic = cx.vm.gic.lock();
    cx.vm.absorb(owner, &mut gic);
    let effects = cx.host.observe(&mut gic, cx.vcpu, word);
    drop(gic);
    cx.vm.pay(cx.host, effects);
}

/// A write of a register of the vGIC, which concerns the SGIs of `owner`, if any.
#[inline(always)]
fn write_gic(cx: &Context<'_, impl Host>, owner: Option<usize>, write: impl FnOnce(&mut Vgic) -> Effects) {
    let mut gic = cx.vm.gic.lock();
    if let Some(owner) = owner {
        cx.vm.absorb(owner, &mut gic);
    }
    let effects = write(&mut gic);
    drop(gic);
    cx.vm.pay(cx.host, effects);
}

#[cfg(test)]
mod tests;
