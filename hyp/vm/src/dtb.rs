//! The guest's device tree: the platform of QEMU's `virt` machine, as far as a VM has it (DESIGN.md, section 7).
//!
//! Bindings: the Devicetree Specification 0.4, and in Linux `arm/cpus`, `arm/psci`, `timer/arm,arch_timer`,
//! `interrupt-controller/arm,gic` and `arm,gic-v3`, `serial/pl011`.

use alloc::{format, string::String, vec, vec::Vec};
use core::ops::Range;

use vm_fdt::{Error, FdtWriter};

use crate::bus;
use crate::vm::{Channel, Config};

const GIC: u32 = 1;
const CLOCK: u32 = 2;
/// The PL011's reference clock, as QEMU has it.
const UART_HZ: u32 = 24_000_000;
const GIC_SPI: u32 = 0;
const GIC_PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// What the device tree says beyond the VM's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen<'a> {
    /// The kernel's command line.
    pub bootargs: &'a str,
    /// Where the initial RAM disk is.
    pub initrd: Option<Range<u64>>,
}

/// Writes the device tree of a VM whose vCPUs have this MIDR_EL1. The same arguments give the same bytes. Allocates.
pub fn build(config: &Config, midr: u64, chosen: &Chosen<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "MobiVMM virtual machine")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", GIC)?;
    write_chosen(&mut fdt, chosen)?;
    write_aliases(&mut fdt)?;
    write_memory(&mut fdt, &config.ram)?;
    write_cpus(&mut fdt, config.gic.vcpus, midr)?;
    write_firmware(&mut fdt)?;
    write_timer(&mut fdt, &config.gic)?;
    write_gic(&mut fdt, &config.gic)?;
    write_uart(&mut fdt)?;
    write_channels(&mut fdt, &config.channels)?;
    fdt.end_node(root)?;
    fdt.finish()
}

fn write_chosen(fdt: &mut FdtWriter, chosen: &Chosen<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    if !chosen.bootargs.is_empty() {
        fdt.property_string("bootargs", chosen.bootargs)?;
    }
    fdt.property_string("stdout-path", &uart_path())?;
    if let Some(initrd) = &chosen.initrd {
        fdt.property_u64("linux,initrd-start", initrd.start)?;
        fdt.property_u64("linux,initrd-end", initrd.end)?;
    }
    fdt.end_node(node)
}

fn write_aliases(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("aliases")?;
    fdt.property_string("serial0", &uart_path())?;
    fdt.end_node(node)
}

fn write_memory(fdt: &mut FdtWriter, ram: &Range<u64>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("memory@{:x}", ram.start))?;
    fdt.property_string("device_type", "memory")?;
    fdt.property_array_u64("reg", &reg(ram))?;
    fdt.end_node(node)
}

fn write_cpus(fdt: &mut FdtWriter, vcpus: usize, midr: u64) -> Result<(), Error> {
    let cpus = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 1)?;
    fdt.property_u32("#size-cells", 0)?;
    for affinity in (0..vcpus).map(vgic::affinity) {
        let node = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string_list("compatible", cpu_compatible(midr))?;
        fdt.property_u32("reg", affinity)?;
        fdt.property_string("enable-method", "psci")?;
        fdt.end_node(node)?;
    }
    fdt.end_node(cpus)
}

/// The CPU's name, from MIDR_EL1's implementer (0x41: Arm) and part number.
fn cpu_compatible(midr: u64) -> Vec<String> {
    let name = match (midr >> 24 & 0xff, midr >> 4 & 0xfff) {
        (0x41, 0xd03) => Some("arm,cortex-a53"),
        (0x41, 0xd04) => Some("arm,cortex-a35"),
        (0x41, 0xd05) => Some("arm,cortex-a55"),
        (0x41, 0xd07) => Some("arm,cortex-a57"),
        (0x41, 0xd08) => Some("arm,cortex-a72"),
        (0x41, 0xd0b) => Some("arm,cortex-a76"),
        (0x41, 0xd0c) => Some("arm,neoverse-n1"),
        _ => None,
    };
    name.into_iter().chain(["arm,armv8"]).map(String::from).collect()
}

fn write_firmware(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)?;
    let node = fdt.begin_node("hypervisor")?;
    fdt.property_string("compatible", "mobivmm")?;
    fdt.end_node(node)
}

/// Secure and non-secure physical, virtual and hypervisor timer: PPIs 13, 14, 11 and 10.
fn write_timer(fdt: &mut FdtWriter, gic: &vgic::Config) -> Result<(), Error> {
    // GICv2's binding wants the set of CPUs that a PPI goes to in the flags.
    let cpus = match gic.version {
        vgic::Version::V2 => (1 << gic.vcpus) - 1,
        vgic::Version::V3 => 0,
    };
    let interrupts = [13, 14, 11, 10].map(|ppi| [GIC_PPI, ppi, cpus << 8 | LEVEL_HIGH]);
    let node = fdt.begin_node("timer")?;
    fdt.property_string_list("compatible", vec!["arm,armv8-timer".into(), "arm,armv7-timer".into()])?;
    fdt.property_array_u32("interrupts", interrupts.as_flattened())?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn write_gic(fdt: &mut FdtWriter, gic: &vgic::Config) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("intc@{:x}", bus::GICD.start))?;
    let (compatible, second) = match gic.version {
        vgic::Version::V2 => ("arm,cortex-a15-gic", bus::GICC),
        vgic::Version::V3 => ("arm,gic-v3", bus::gicr(gic.vcpus)),
    };
    fdt.property_string("compatible", compatible)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 0)?;
    fdt.property_array_u64("reg", [reg(&bus::GICD), reg(&second)].as_flattened())?;
    fdt.property_phandle(GIC)?;
    fdt.end_node(node)
}

fn write_uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let clock = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", UART_HZ)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(CLOCK)?;
    fdt.end_node(clock)?;
    let node = fdt.begin_node(uart_path().trim_start_matches('/'))?;
    fdt.property_string_list("compatible", vec!["arm,pl011".into(), "arm,primecell".into()])?;
    fdt.property_array_u64("reg", &reg(&bus::UART))?;
    fdt.property_array_u32("interrupts", &[GIC_SPI, u32::from(bus::UART_INTID) - 32, LEVEL_HIGH])?;
    fdt.property_array_u32("clocks", &[CLOCK, CLOCK])?;
    fdt.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
    fdt.end_node(node)
}

/// The binding is [`abi::channel`]'s.
fn write_channels(fdt: &mut FdtWriter, channels: &[Channel]) -> Result<(), Error> {
    for (number, channel) in channels.iter().enumerate() {
        let page = bus::channel_page(number);
        let spi = u32::from(bus::channel_intid(number)) - 32;
        let node = fdt.begin_node(&format!("channel@{:x}", page.start))?;
        fdt.property_string("compatible", abi::channel::COMPATIBLE)?;
        fdt.property_array_u64("reg", &reg(&page))?;
        fdt.property_array_u32("interrupts", &[GIC_SPI, spi, EDGE_RISING])?;
        fdt.property_string("label", &channel.name)?;
        fdt.property_u32(abi::channel::NUMBER, number as u32)?;
        fdt.property_u32(abi::channel::END, channel.end)?;
        fdt.end_node(node)?;
    }
    Ok(())
}

fn uart_path() -> String {
    format!("/pl011@{:x}", bus::UART.start)
}

/// Address and size, as two cells each.
fn reg(range: &Range<u64>) -> [u64; 2] {
    [range.start, range.end - range.start]
}

#[cfg(test)]
mod tests;
