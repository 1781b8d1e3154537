//! The machine, as its device tree describes it.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};

/// The most CPUs that take part.
pub const MAX_CPUS: usize = 8;

/// The interrupt controller's registers.
#[derive(Clone, Copy)]
pub enum Gic {
    V2 { gicd: usize, gicc: usize },
    V3 { gicd: usize, gicr: usize },
}

/// The machine.
pub struct Platform {
    pub bootargs: &'static str,
    /// The initial RAM disk: a list of numbers, little-endian.
    pub initrd: &'static [[u8; 8]],
    pub gic: Gic,
    /// The virtual timer's INTID.
    pub timer: u32,
    /// The bell of a channel to another VM: its INTID.
    pub bell: Option<u32>,
    /// A PL011.
    pub uart: Option<usize>,
    /// PSCI is called by SMC, not by HVC.
    pub smc: bool,
    /// MPIDR affinities; as many as there are.
    pub cpus: [u64; MAX_CPUS],
    pub cpu_count: usize,
}

impl Platform {
    /// Reads the device tree. `None` if it lacks what nothing can be done without.
    pub fn new(tree: &'static [u8]) -> Option<Self> {
        let fdt = Fdt::new(tree).ok()?;
        let root = fdt.root();
        let gic = match find(root, "arm,gic-v3") {
            Some(node) => Gic::V3 { gicd: region(node, 0)?, gicr: region(node, 1)? },
            None => {
                let node = ["arm,cortex-a15-gic", "arm,gic-400"].iter().find_map(|name| find(root, name))?;
                Gic::V2 { gicd: region(node, 0)?, gicc: region(node, 1)? }
            }
        };
        let psci = ["arm,psci-1.0", "arm,psci-0.2"].iter().find_map(|name| find(root, name));
        let mut cpus = [0; MAX_CPUS];
        let mut cpu_count = 0;
        for node in root.children().find(|node| node.name() == "cpus")?.children() {
            if node.name().starts_with("cpu@") && cpu_count < MAX_CPUS {
                let mpidr = node.property("reg").and_then(|reg| number(reg.value()))?;
                cpus[cpu_count] = mpidr;
                cpu_count += 1;
            }
        }
        // Of the timer's interrupts the third is the virtual one; each has a type, a number and flags.
        let interrupts = find(root, "arm,armv8-timer")?.property("interrupts")?;
        let timer = 16 + number(interrupts.value().get(28..32)?)? as u32;
        let chosen = root.children().find(|node| node.name() == "chosen");
        let string = |node: FdtNode<'static>, name| node.property(name)?.value_as::<&str>().ok();
        Some(Self {
            bootargs: chosen.and_then(|node| string(node, "bootargs")).unwrap_or(""),
            initrd: chosen.and_then(initrd).unwrap_or(&[]),
            gic,
            timer,
            bell: find(root, "mobivmm,channel").and_then(bell),
            uart: find(root, "arm,pl011")
                .or_else(|| find(root, "arm,sbsa-uart"))
                .and_then(|node| region(node, 0)),
            smc: psci.and_then(|node| string(node, "method")) == Some("smc"),
            cpus,
            cpu_count,
        })
    }

    /// The number behind `name=` in the boot arguments.
    pub fn argument(&self, name: &str) -> Option<u64> {
        let mut words = self.bootargs.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
    }
}

/// The first node at the root, or one level below, that is compatible with `name`.
fn find(root: FdtNode<'static>, name: &str) -> Option<FdtNode<'static>> {
    let matches =
        |node: &FdtNode<'static>| node.compatible().is_some_and(|mut list| list.any(|at| at == name));
    root.children().find(matches).or_else(|| root.children().find_map(|bus| bus.children().find(matches)))
}

/// The INTID of the node's SPI.
fn bell(node: FdtNode<'_>) -> Option<u32> {
    Some(32 + number(node.property("interrupts")?.value().get(4..8)?)? as u32)
}

/// The base of the node's registers number `n`.
fn region(node: FdtNode<'_>, n: usize) -> Option<usize> {
    usize::try_from(node.reg().ok()??.nth(n)?.address::<u64>().ok()?).ok()
}

/// What the boot loader has put into memory as the initial RAM disk.
fn initrd(chosen: FdtNode<'static>) -> Option<&'static [[u8; 8]]> {
    let [start, end] =
        ["linux,initrd-start", "linux,initrd-end"].map(|name| number(chosen.property(name)?.value()));
    let (start, end) = (start? as usize, end? as usize);
    // SAFETY: the boot protocol: it is there, and nobody writes to it.
    let bytes = unsafe { core::slice::from_raw_parts(start as *const u8, end.checked_sub(start)?) };
    Some(bytes.as_chunks().0)
}

/// A property of one or two cells.
fn number(bytes: &[u8]) -> Option<u64> {
    match *bytes {
        [a, b, c, d] => Some(u32::from_be_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
        _ => None,
    }
}
