//! The machine as its device tree describes it (Devicetree Specification v0.4, and the bindings named below).
//!
//! [`Platform::discover`] reads any bytes without panicking or allocating: a malformed tree, or one that lacks what EL2
//! cannot do without, is an [`Error`].

mod tree;

use core::ops::Range;

use dtoolkit::Node;
use dtoolkit::fdt::{Fdt, FdtNode};
use heapless::Vec;

use crate::MAX_CPUS;
use tree::{Located, bytes, cell, interrupt, is_available, nth_cell, number, ranges, string, strings, walk};

/// Ranges of memory that are used; further ones are ignored.
pub const MAX_MEMORY: usize = 8;
/// Reserved ranges that a tree may have.
pub const MAX_RESERVED: usize = 32;
/// Redistributor regions of a GICv3 that a tree may have.
pub const MAX_GICR: usize = 4;
const MAX_CLOCKS: usize = 8;
const MAX_UARTS: usize = 8;

/// Why a device tree does not describe a machine that EL2 can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Not a well-formed flattened device tree.
    Malformed,
    /// No enabled CPU.
    NoCpus,
    /// No memory range that is not empty.
    NoMemory,
    /// More than [`MAX_RESERVED`] reserved ranges.
    TooManyReserved,
    /// Neither a GICv2 nor a GICv3.
    NoGic,
    /// The GIC's node lacks registers, a maintenance interrupt or a translatable address: no virtualization extensions.
    IncompleteGic,
    /// No `arm,armv8-timer` with the EL2 timer's interrupt.
    NoTimer,
}

/// Physical addresses of a device's registers.
pub type Registers = Range<u64>;

/// The machine. Strings are the tree's.
#[derive(Clone, Debug)]
pub struct Platform<'d> {
    /// The root node's `model`, or nothing.
    pub model: &'d str,
    /// CPUs in the tree's order, which gives them their indices.
    pub cpus: Vec<Cpu, MAX_CPUS>,
    /// RAM, as the tree has it.
    pub memory: Vec<Range<u64>, MAX_MEMORY>,
    /// Parts of memory that others use.
    pub reserved: Vec<Reserved, MAX_RESERVED>,
    /// `/chosen/linux,initrd-start` and `-end`.
    pub initrd: Option<Range<u64>>,
    /// `/chosen/bootargs`, or nothing.
    pub bootargs: &'d str,
    /// The interrupt controller.
    pub gic: Gic,
    /// The console: what `/chosen/stdout-path` names if that is a PL011, else the first PL011 that is enabled.
    pub uart: Option<Uart>,
    /// The per-CPU timers' interrupts.
    pub timers: Timers,
    /// PSCI 0.2 or later.
    pub psci: Option<Conduit>,
    /// The BCM2835 power manager.
    pub bcm2835_pm: Option<Registers>,
    compatible: &'d [u8],
}

/// A CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// MPIDR_EL1's affinity fields.
    pub mpidr: u64,
    /// How it is started.
    pub enable: EnableMethod,
}

/// How a secondary CPU is started (Devicetree Specification v0.4, section 3.8.1, and `arm/cpus.yaml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableMethod {
    /// PSCI CPU_ON.
    Psci,
    /// By writing the entry address to `release_addr`, where the CPU polls for it.
    SpinTable {
        /// `cpu-release-addr`.
        release_addr: u64,
    },
    /// Not told, or not in a way that is known here: of use only as the CPU that runs already.
    None,
}

/// A range that is not free memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Where.
    pub range: Range<u64>,
    /// Must not be mapped at all, since an access by speculation may do harm (`no-map`).
    pub no_map: bool,
}

/// The interrupt controller, with the virtualization extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv2 (`arm/gic.yaml`).
    V2 {
        /// Distributor.
        gicd: Registers,
        /// CPU interface.
        gicc: Registers,
        /// Virtual interface control.
        gich: Registers,
        /// Virtual CPU interface.
        gicv: Registers,
        /// INTID of the maintenance interrupt.
        maintenance: u32,
    },
    /// GICv3 or GICv4 (`arm,gic-v3.yaml`).
    V3 {
        /// Distributor.
        gicd: Registers,
        /// Redistributor regions.
        gicr: Vec<Registers, MAX_GICR>,
        /// INTID of the maintenance interrupt.
        maintenance: u32,
    },
}

/// A PL011 (`serial/pl011.yaml`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Its registers.
    pub registers: Registers,
    /// Its interrupt, if it has one that goes to the GIC.
    pub intid: Option<u32>,
    /// The frequency of UARTCLK in Hz, if the tree tells it as a fixed clock.
    pub clock_hz: Option<u32>,
}

/// INTIDs of the generic timer (`timer/arm,arch_timer.yaml`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// The EL1 physical timer, CNTP.
    pub physical: u32,
    /// The EL1 virtual timer, CNTV.
    pub virtual_: u32,
    /// The EL2 physical timer, CNTHP.
    pub hypervisor: u32,
}

/// The instruction that calls PSCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// SMC.
    Smc,
    /// HVC: firmware takes us for a guest.
    Hvc,
}

/// The size of the device tree that begins with `header` (at least eight bytes of it), if it is one.
pub fn total_size(header: &[u8]) -> Option<usize> {
    let word = |at| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    (word(0)? == 0xd00d_feed).then_some(word(4)? as usize)
}

impl<'d> Platform<'d> {
    /// Reads a device tree. `dtb` may be longer than the tree.
    pub fn discover(dtb: &'d [u8]) -> Result<Self, Error> {
        let blob = total_size(dtb).and_then(|size| dtb.get(..size)).ok_or(Error::Malformed)?;
        let fdt = Fdt::new(blob).map_err(|_| Error::Malformed)?;
        let mut found = Found::default();
        walk(fdt, &mut |at| found.visit(at));

        let root = fdt.root();
        let chosen_string = |name| found.chosen.and_then(|node| string(node, name)).unwrap_or("");
        let uart = found.console(fdt, chosen_string("stdout-path"));
        let gic = found.gic.as_ref().ok_or(Error::NoGic)?;
        let timer = |n| found.timer.as_ref().and_then(|timer| timer.intid(gic, n)).ok_or(Error::NoTimer);

        Ok(Self {
            model: string(root, "model").unwrap_or(""),
            cpus: cpus(found.cpus)?,
            memory: if found.memory.is_empty() { Err(Error::NoMemory) } else { Ok(found.memory.clone()) }?,
            reserved: reserved(fdt, found.reserved_memory)?,
            initrd: found.chosen.and_then(|node| {
                let range = number(node, "linux,initrd-start")?..number(node, "linux,initrd-end")?;
                (!range.is_empty()).then_some(range)
            }),
            bootargs: chosen_string("bootargs"),
            uart: uart.map(|uart| Uart {
                registers: uart.registers.clone(),
                intid: uart.interrupts.intid(gic, 0),
                clock_hz: found
                    .clocks
                    .iter()
                    .find(|(clock, _)| Some(*clock) == uart.clock)
                    .map(|(_, hz)| *hz),
            }),
            // Order of the binding: secure physical, physical, virtual, hypervisor.
            timers: Timers { physical: timer(1)?, virtual_: timer(2)?, hypervisor: timer(3)? },
            psci: found.psci,
            bcm2835_pm: found.bcm2835_pm.clone(),
            gic: gic.describe()?,
            compatible: bytes(root, "compatible"),
        })
    }

    /// The root node's `compatible` strings, most specific first.
    pub fn compatible(&self) -> impl Iterator<Item = &'d str> {
        strings(self.compatible)
    }

    /// What EL2 must map as device memory to use everything in here.
    pub fn devices(&self) -> impl Iterator<Item = Registers> + '_ {
        let (fixed, gicr) = match &self.gic {
            Gic::V2 { gicd, gicc, gich, gicv, .. } => {
                ([Some(gicd), Some(gicc), Some(gich), Some(gicv)], &[][..])
            }
            Gic::V3 { gicd, gicr, .. } => ([Some(gicd), None, None, None], &gicr[..]),
        };
        let others = self.uart.iter().map(|uart| &uart.registers).chain(&self.bcm2835_pm);
        fixed.into_iter().flatten().chain(gicr).chain(others).cloned()
    }
}

/// What one walk over the tree collects.
#[derive(Default)]
struct Found<'d> {
    chosen: Option<FdtNode<'d>>,
    aliases: Option<FdtNode<'d>>,
    cpus: Option<FdtNode<'d>>,
    reserved_memory: Option<FdtNode<'d>>,
    memory: Vec<Range<u64>, MAX_MEMORY>,
    gic: Option<FoundGic<'d>>,
    timer: Option<Interrupts<'d>>,
    uarts: Vec<FoundUart<'d>, MAX_UARTS>,
    psci: Option<Conduit>,
    bcm2835_pm: Option<Registers>,
    /// Fixed clocks by phandle.
    clocks: Vec<(u32, u32), MAX_CLOCKS>,
}

/// Interrupts of a node, before the interrupt controller is known.
struct Interrupts<'d> {
    parent: Option<u32>,
    specifiers: &'d [u8],
}

struct FoundGic<'d> {
    v3: bool,
    phandle: Option<u32>,
    interrupt_cells: u32,
    redistributors: usize,
    registers: Vec<Registers, { MAX_GICR + 4 }>,
    maintenance: &'d [u8],
}

struct FoundUart<'d> {
    /// The node's name, as a place in the tree.
    name: &'d str,
    registers: Registers,
    interrupts: Interrupts<'d>,
    clock: Option<u32>,
}

impl<'d> Found<'d> {
    fn visit(&mut self, at: &Located<'_, 'd>) {
        if !at.available {
            return;
        }
        let node = at.node;
        if at.is_top_level() {
            match node.name_without_address() {
                "chosen" => self.chosen = Some(node),
                "aliases" => self.aliases = Some(node),
                "cpus" => self.cpus = Some(node),
                "reserved-memory" => self.reserved_memory = Some(node),
                "memory" => self.memory.extend(ranges(node).take(MAX_MEMORY - self.memory.len())),
                _ => {}
            }
        }
        for name in strings(at.compatible) {
            match name {
                "arm,gic-v3" => self.gic = Some(FoundGic::new(at, true)),
                "arm,gic-400" | "arm,cortex-a15-gic" | "arm,cortex-a7-gic" => {
                    self.gic = Some(FoundGic::new(at, false))
                }
                "arm,armv8-timer" => self.timer = Some(Interrupts::new(at)),
                "arm,pl011" => self.visit_uart(at),
                "arm,psci-0.2" | "arm,psci-1.0" => {
                    self.psci = match string(node, "method") {
                        Some("smc") => Some(Conduit::Smc),
                        Some("hvc") => Some(Conduit::Hvc),
                        _ => None,
                    }
                }
                "brcm,bcm2835-pm" | "brcm,bcm2711-pm" => self.bcm2835_pm = at.registers().next(),
                "fixed-clock" => {
                    if let (Some(phandle), Some(hz)) = (cell(node, "phandle"), cell(node, "clock-frequency"))
                    {
                        // A UART whose clock did not fit keeps the rate that firmware set.
                        let _ = self.clocks.push((phandle, hz));
                    }
                }
                _ => continue,
            }
            return;
        }
    }

    fn visit_uart(&mut self, at: &Located<'_, 'd>) {
        if let Some(registers) = at.registers().next() {
            // One that did not fit cannot be the console.
            let _ = self.uarts.push(FoundUart {
                name: at.node.name(),
                registers,
                interrupts: Interrupts::new(at),
                clock: nth_cell(bytes(at.node, "clocks"), 0),
            });
        }
    }

    /// The UART that `stdout` (a path or an alias, and options behind a colon) names, else the first.
    fn console(&self, fdt: Fdt<'d>, stdout: &str) -> Option<&FoundUart<'d>> {
        let (first, others) = self.uarts.split_first()?;
        if others.is_empty() {
            return Some(first); // The usual case, without the look-up, which is slow.
        }
        let name = stdout.split(':').next()?;
        let path =
            if name.starts_with('/') { Some(name) } else { self.aliases.and_then(|node| string(node, name)) };
        let node = path.and_then(|path| fdt.find_node(path));
        let named =
            node.and_then(|node| self.uarts.iter().find(|uart| core::ptr::eq(uart.name, node.name())));
        named.or(Some(first))
    }
}

impl<'d> Interrupts<'d> {
    fn new(at: &Located<'_, 'd>) -> Self {
        Self { parent: at.interrupt_parent(), specifiers: bytes(at.node, "interrupts") }
    }

    /// The INTID of interrupt `n`, if it goes to the GIC.
    fn intid(&self, gic: &FoundGic<'_>, n: usize) -> Option<u32> {
        (self.parent == gic.phandle).then(|| interrupt(self.specifiers, gic.interrupt_cells, n)).flatten()
    }
}

impl<'d> FoundGic<'d> {
    fn new(at: &Located<'_, 'd>, v3: bool) -> Self {
        Self {
            v3,
            phandle: cell(at.node, "phandle"),
            interrupt_cells: cell(at.node, "#interrupt-cells").unwrap_or(3),
            redistributors: cell(at.node, "#redistributor-regions").unwrap_or(1) as usize,
            registers: at.registers().take(MAX_GICR + 4).collect(),
            maintenance: bytes(at.node, "interrupts"),
        }
    }

    fn describe(&self) -> Result<Gic, Error> {
        let maintenance = interrupt(self.maintenance, self.interrupt_cells, 0).ok_or(Error::IncompleteGic)?;
        let (first, rest) = self.registers.split_first().ok_or(Error::IncompleteGic)?;
        let gicd = first.clone();
        if self.v3 {
            let gicr = rest.get(..self.redistributors).ok_or(Error::IncompleteGic)?;
            let gicr = Vec::from_slice(gicr).map_err(|_| Error::IncompleteGic)?;
            return Ok(Gic::V3 { gicd, gicr, maintenance });
        }
        match rest {
            [gicc, gich, gicv, ..] => {
                Ok(Gic::V2 { gicd, gicc: gicc.clone(), gich: gich.clone(), gicv: gicv.clone(), maintenance })
            }
            _ => Err(Error::IncompleteGic),
        }
    }
}

fn cpus(parent: Option<FdtNode<'_>>) -> Result<Vec<Cpu, MAX_CPUS>, Error> {
    let parent = parent.ok_or(Error::NoCpus)?;
    let cpu = |node: FdtNode<'_>| {
        let reg = bytes(node, "reg");
        let (high, low) = (nth_cell(reg, 0)?, nth_cell(reg, 1));
        let mpidr = low.map_or(u64::from(high), |low| u64::from(high) << 32 | u64::from(low));
        let enable = match string(node, "enable-method").or(string(parent, "enable-method")) {
            Some("psci") => EnableMethod::Psci,
            Some("spin-table") => EnableMethod::SpinTable { release_addr: number(node, "cpu-release-addr")? },
            _ => EnableMethod::None,
        };
        Some(Cpu { mpidr, enable })
    };
    let nodes = parent.children().filter(|node| node.name_without_address() == "cpu" && is_available(*node));
    let cpus: Vec<Cpu, MAX_CPUS> = nodes.filter_map(cpu).take(MAX_CPUS).collect();
    if cpus.is_empty() { Err(Error::NoCpus) } else { Ok(cpus) }
}

/// The memory reservation block, then `/reserved-memory`, whose bus is the root's (its `ranges` must be empty).
fn reserved(fdt: Fdt<'_>, node: Option<FdtNode<'_>>) -> Result<Vec<Reserved, MAX_RESERVED>, Error> {
    let mut reserved = Vec::new();
    let mut add = |range: Range<u64>, no_map| {
        if range.is_empty() {
            Ok(())
        } else {
            reserved.push(Reserved { range, no_map }).map_err(|_| Error::TooManyReserved)
        }
    };
    for entry in fdt.memory_reservations() {
        add(entry.address()..entry.address().saturating_add(entry.size()), false)?;
    }
    for node in node.iter().flat_map(|parent| parent.children()) {
        if is_available(node) {
            for range in ranges(node) {
                add(range, node.property("no-map").is_some())?;
            }
        }
    }
    Ok(reserved)
}

#[cfg(test)]
mod tests;
