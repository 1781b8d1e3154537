//! What the kernel wants to know from the device tree (Devicetree Specification v0.4): interrupt controller, timer,
//! UART, and how to call the firmware or hypervisor.

use abi::channel;
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Its first address.
    pub base: usize,
    /// Its length in bytes.
    pub size: usize,
}

/// The interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2.
    V2 {
        /// The distributor.
        gicd: Region,
        /// The CPU interface.
        gicc: Region,
    },
    /// GICv3; its CPU interface are system registers.
    V3 {
        /// The distributor.
        gicd: Region,
        /// The redistributors of all CPUs.
        gicr: Region,
    },
}

/// How PSCI and other SMCCC calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By HVC.
    Hvc,
    /// By SMC.
    Smc,
}

/// A PL011.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Its registers.
    pub registers: Region,
    /// Its interrupt's GIC number.
    pub intid: u32,
}

/// The machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The interrupt controller.
    pub gic: Gic,
    /// The virtual timer's interrupt, in GIC numbering.
    pub timer_intid: u32,
    /// The first PL011.
    pub uart: Option<Uart>,
    /// From the PSCI node.
    pub conduit: Option<Conduit>,
}

/// An end of a channel to another VM ([`abi::channel`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Channel<'a> {
    /// What the machine file calls it.
    pub name: &'a str,
    /// Its page.
    pub page: Region,
    /// The bell's GIC number.
    pub intid: u32,
    /// The hypervisor's number for it.
    pub number: u32,
    /// Which of its two ends this is, 0 or 1.
    pub end: usize,
}

/// What is missing in a device tree, or not as its binding says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(pub &'static str);

impl Platform {
    /// Reads a device tree.
    ///
    /// # Errors
    /// [`Missing`] if it has no GICv2 or GICv3, or no architected timer.
    pub fn from_fdt(fdt: Fdt<'_>) -> Result<Self, Missing> {
        let root = fdt.root();
        let find = |names: &[&str]| find_compatible(root, names);
        let gic = if let Some(node) = find(&["arm,gic-v3"]) {
            Gic::V3 { gicd: region(node, 0)?, gicr: region(node, 1)? }
        } else {
            let node = find(&["arm,cortex-a15-gic", "arm,gic-400"]).ok_or(Missing("interrupt controller"))?;
            Gic::V2 { gicd: region(node, 0)?, gicc: region(node, 1)? }
        };
        // The timer's interrupts are: secure physical, physical, virtual, hypervisor (arm,arch_timer binding).
        let timer = find(&["arm,armv8-timer", "arm,armv7-timer"]).ok_or(Missing("timer"))?;
        let uart = find(&["arm,pl011"])
            .map(|node| Ok(Uart { registers: region(node, 0)?, intid: interrupt(node, 0)? }))
            .transpose()?;
        let method =
            find(&["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]).and_then(|node| node.property("method"));
        let conduit = match method.map(|p| p.value_as::<&str>()) {
            Some(Ok("hvc")) => Some(Conduit::Hvc),
            Some(Ok("smc")) => Some(Conduit::Smc),
            _ => None,
        };
        Ok(Self { gic, timer_intid: interrupt(timer, 2)?, uart, conduit })
    }
}

/// The ends of channels that the device tree describes; nodes that are not as their binding says are left out.
pub fn channels(fdt: Fdt<'_>) -> impl Iterator<Item = Channel<'_>> {
    let ends = fdt.root().children().filter(|node| is_enabled(node, &[channel::COMPATIBLE]));
    ends.filter_map(|node| {
        let page = region(node, 0).ok().filter(|page| page.size == channel::PAGE_SIZE)?;
        Some(Channel {
            name: node.property("label")?.value_as().ok()?,
            page,
            intid: interrupt(node, 0).ok()?,
            number: node.property(channel::NUMBER)?.value_as().ok()?,
            end: node.property(channel::END)?.value_as::<u32>().ok().filter(|&end| end < 2)? as usize,
        })
    })
}

/// Whether the node is enabled and compatible with one of `names`.
fn is_enabled(node: &FdtNode<'_>, names: &[&str]) -> bool {
    node.property("status").is_none_or(|p| p.value_as::<&str>().is_ok_and(|s| s == "okay"))
        && node.compatible().is_some_and(|mut list| list.any(|name| names.contains(&name)))
}

/// The first enabled node, at the root or one level of buses below, that is compatible with one of `names`.
fn find_compatible<'a>(root: FdtNode<'a>, names: &[&str]) -> Option<FdtNode<'a>> {
    root.children()
        .find(|node| is_enabled(node, names))
        .or_else(|| root.children().find_map(|bus| bus.children().find(|node| is_enabled(node, names))))
}

/// The `index`-th range of the node's registers.
fn region(node: FdtNode<'_>, index: usize) -> Result<Region, Missing> {
    let region = || {
        let reg = node.reg().ok()??.nth(index)?;
        let base = usize::try_from(reg.address::<u64>().ok()?).ok()?;
        let size = usize::try_from(reg.size::<u64>().ok()?).ok()?;
        base.checked_add(size)?;
        Some(Region { base, size })
    };
    region().ok_or(Missing("registers"))
}

/// The GIC's number for the node's `index`-th interrupt (arm,gic binding: type, number, flags).
fn interrupt(node: FdtNode<'_>, index: usize) -> Result<u32, Missing> {
    let intid = || {
        let property = node.property("interrupts")?;
        match property.value().as_chunks::<4>().0.get(3 * index..3 * index + 3)? {
            [kind, number, _] => match (u32::from_be_bytes(*kind), u32::from_be_bytes(*number)) {
                (0, spi @ 0..988) => Some(32 + spi),
                (1, ppi @ 0..16) => Some(16 + ppi),
                _ => None,
            },
            _ => None,
        }
    };
    intid().ok_or(Missing("interrupts"))
}

#[cfg(test)]
mod tests;
