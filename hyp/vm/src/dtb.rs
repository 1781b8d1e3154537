//! The guest's device tree: the platform of QEMU's `virt` machine, as far as a VM has it (DESIGN.md, section 7).
//!
//! Bindings: the Devicetree Specification 0.4, and in Linux `arm/cpus`, `arm/psci`, `timer/arm,arch_timer`,
//! `interrupt-controller/arm,gic` and `arm,gic-v3`, `serial/pl011`.

mod writer;

use alloc::{format, string::String, vec::Vec};
use core::ops::Range;

use crate::bus;
use crate::vm::{Channel, Config};
use writer::Writer;

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
pub fn build(config: &Config, midr: u64, chosen: &Chosen<'_>) -> Vec<u8> {
    let mut fdt = Writer::default();
    fdt.begin("");
    fdt.strings("compatible", &["linux,dummy-virt"]);
    fdt.strings("model", &["MobiVMM virtual machine"]);
    fdt.cells("#address-cells", &[2]);
    fdt.cells("#size-cells", &[2]);
    fdt.cells("interrupt-parent", &[GIC]);
    write_chosen(&mut fdt, chosen);
    write_memory(&mut fdt, &config.ram);
    write_cpus(&mut fdt, config.gic.vcpus, midr);
    write_firmware(&mut fdt);
    write_timer(&mut fdt, &config.gic);
    write_gic(&mut fdt, &config.gic);
    write_uart(&mut fdt);
    write_channels(&mut fdt, &config.channels);
    fdt.end();
    fdt.finish()
}

fn write_chosen(fdt: &mut Writer, chosen: &Chosen<'_>) {
    let uart = format!("/{}", uart());
    fdt.begin("chosen");
    if !chosen.bootargs.is_empty() {
        fdt.strings("bootargs", &[chosen.bootargs]);
    }
    fdt.strings("stdout-path", &[&uart]);
    if let Some(initrd) = &chosen.initrd {
        fdt.cells("linux,initrd-start", &pair(initrd.start));
        fdt.cells("linux,initrd-end", &pair(initrd.end));
    }
    fdt.end();
    fdt.begin("aliases");
    fdt.strings("serial0", &[&uart]);
    fdt.end();
}

fn write_memory(fdt: &mut Writer, ram: &Range<u64>) {
    fdt.begin(&format!("memory@{:x}", ram.start));
    fdt.strings("device_type", &["memory"]);
    fdt.cells("reg", reg(ram).as_flattened());
    fdt.end();
}

fn write_cpus(fdt: &mut Writer, vcpus: usize, midr: u64) {
    fdt.begin("cpus");
    fdt.cells("#address-cells", &[1]);
    fdt.cells("#size-cells", &[0]);
    for affinity in (0..vcpus).map(vgic::affinity) {
        fdt.begin(&format!("cpu@{affinity:x}"));
        fdt.strings("device_type", &["cpu"]);
        match cpu_name(midr) {
            Some(name) => fdt.strings("compatible", &[name, "arm,armv8"]),
            None => fdt.strings("compatible", &["arm,armv8"]),
        }
        fdt.cells("reg", &[affinity]);
        fdt.strings("enable-method", &["psci"]);
        fdt.end();
    }
    fdt.end();
}

/// The CPU's name, from MIDR_EL1's implementer (0x41: Arm) and part number.
fn cpu_name(midr: u64) -> Option<&'static str> {
    match (midr >> 24 & 0xff, midr >> 4 & 0xfff) {
        (0x41, 0xd03) => Some("arm,cortex-a53"),
        (0x41, 0xd04) => Some("arm,cortex-a35"),
        (0x41, 0xd05) => Some("arm,cortex-a55"),
        (0x41, 0xd07) => Some("arm,cortex-a57"),
        (0x41, 0xd08) => Some("arm,cortex-a72"),
        (0x41, 0xd0b) => Some("arm,cortex-a76"),
        (0x41, 0xd0c) => Some("arm,neoverse-n1"),
        _ => None,
    }
}

fn write_firmware(fdt: &mut Writer) {
    fdt.begin("psci");
    fdt.strings("compatible", &["arm,psci-1.0", "arm,psci-0.2"]);
    fdt.strings("method", &["hvc"]);
    fdt.end();
    fdt.begin("hypervisor");
    fdt.strings("compatible", &["mobivmm"]);
    fdt.end();
}

/// Secure and non-secure physical, virtual and hypervisor timer: PPIs 13, 14, 11 and 10.
fn write_timer(fdt: &mut Writer, gic: &vgic::Config) {
    // GICv2's binding wants the set of CPUs that a PPI goes to in the flags.
    let cpus = match gic.version {
        vgic::Version::V2 => (1 << gic.vcpus) - 1,
        vgic::Version::V3 => 0,
    };
    let interrupts = [13, 14, 11, 10].map(|ppi| [GIC_PPI, ppi, cpus << 8 | LEVEL_HIGH]);
    fdt.begin("timer");
    fdt.strings("compatible", &["arm,armv8-timer", "arm,armv7-timer"]);
    fdt.cells("interrupts", interrupts.as_flattened());
    fdt.cells("always-on", &[]);
    fdt.end();
}

fn write_gic(fdt: &mut Writer, gic: &vgic::Config) {
    let (compatible, second) = match gic.version {
        vgic::Version::V2 => ("arm,cortex-a15-gic", bus::GICC),
        vgic::Version::V3 => ("arm,gic-v3", bus::gicr(gic.vcpus)),
    };
    fdt.begin(&format!("intc@{:x}", bus::GICD.start));
    fdt.strings("compatible", &[compatible]);
    fdt.cells("interrupt-controller", &[]);
    fdt.cells("#interrupt-cells", &[3]);
    fdt.cells("#address-cells", &[0]);
    fdt.cells("reg", [reg(&bus::GICD), reg(&second)].as_flattened().as_flattened());
    fdt.cells("phandle", &[GIC]);
    fdt.end();
}

fn write_uart(fdt: &mut Writer) {
    fdt.begin("apb-pclk");
    fdt.strings("compatible", &["fixed-clock"]);
    fdt.cells("#clock-cells", &[0]);
    fdt.cells("clock-frequency", &[UART_HZ]);
    fdt.strings("clock-output-names", &["clk24mhz"]);
    fdt.cells("phandle", &[CLOCK]);
    fdt.end();
    fdt.begin(&uart());
    fdt.strings("compatible", &["arm,pl011", "arm,primecell"]);
    fdt.cells("reg", reg(&bus::UART).as_flattened());
    fdt.cells("interrupts", &[GIC_SPI, u32::from(bus::UART_INTID) - 32, LEVEL_HIGH]);
    fdt.cells("clocks", &[CLOCK, CLOCK]);
    fdt.strings("clock-names", &["uartclk", "apb_pclk"]);
    fdt.end();
}

/// The binding is [`abi::channel`]'s.
fn write_channels(fdt: &mut Writer, channels: &[Channel]) {
    for (number, channel) in channels.iter().enumerate() {
        let page = bus::channel_page(number);
        let spi = u32::from(bus::channel_intid(number)) - 32;
        fdt.begin(&format!("channel@{:x}", page.start));
        fdt.strings("compatible", &[abi::channel::COMPATIBLE]);
        fdt.cells("reg", reg(&page).as_flattened());
        fdt.cells("interrupts", &[GIC_SPI, spi, EDGE_RISING]);
        fdt.strings("label", &[&channel.name]);
        fdt.cells(abi::channel::NUMBER, &[number as u32]);
        fdt.cells(abi::channel::END, &[channel.end]);
        fdt.end();
    }
}

fn uart() -> String {
    format!("pl011@{:x}", bus::UART.start)
}

/// Address and size, as two cells each.
fn reg(range: &Range<u64>) -> [[u32; 2]; 2] {
    [pair(range.start), pair(range.end - range.start)]
}

fn pair(value: u64) -> [u32; 2] {
    [(value >> 32) as u32, value as u32]
}

#[cfg(test)]
mod tests;
