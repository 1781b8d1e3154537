use dtoolkit::fdt::Fdt;
use dtoolkit::{Node as _, Property as _};
use vgic::Version;

use super::*;
use crate::testing::config;

const A72: u64 = 0x410f_d083;

fn cells(fdt: &Fdt<'_>, path: &str, name: &str) -> Vec<u32> {
    bytes(fdt, path, name).chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
}

fn bytes(fdt: &Fdt<'_>, path: &str, name: &str) -> Vec<u8> {
    let node = fdt.find_node(path).unwrap_or_else(|| panic!("{path}"));
    let property = node.properties().find(|property| property.name() == name);
    let value: &[u8] = property.unwrap_or_else(|| panic!("{path} {name}")).value_as().unwrap();
    value.to_vec()
}

fn text(fdt: &Fdt<'_>, path: &str, name: &str) -> String {
    String::from_utf8(bytes(fdt, path, name)).unwrap()
}

#[test]
fn a_gicv3_machine() {
    let chosen = Chosen { bootargs: "console=ttyAMA0", initrd: Some(0x4800_0000..0x4812_3456) };
    let blob = build(&config(18, Version::V3), A72, &chosen);
    let fdt = &Fdt::new(&blob).unwrap();
    assert_eq!(text(fdt, "/", "compatible"), "linux,dummy-virt\0");
    assert_eq!(text(fdt, "/chosen", "bootargs"), "console=ttyAMA0\0");
    assert_eq!(text(fdt, "/chosen", "stdout-path"), "/pl011@9000000\0");
    assert_eq!(cells(fdt, "/chosen", "linux,initrd-start"), [0, 0x4800_0000]);
    assert_eq!(cells(fdt, "/chosen", "linux,initrd-end"), [0, 0x4812_3456]);
    assert_eq!(cells(fdt, "/memory@40000000", "reg"), [0, 0x4000_0000, 0, 0x100_0000]);
    assert_eq!(cells(fdt, "/cpus/cpu@101", "reg"), [0x101]);
    assert_eq!(text(fdt, "/cpus/cpu@101", "compatible"), "arm,cortex-a72\0arm,armv8\0");
    assert_eq!(text(fdt, "/cpus/cpu@0", "enable-method"), "psci\0");
    assert_eq!(text(fdt, "/psci", "method"), "hvc\0");
    assert_eq!(cells(fdt, "/timer", "interrupts"), [1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
    assert_eq!(text(fdt, "/intc@8000000", "compatible"), "arm,gic-v3\0");
    let reg = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x080a_0000, 0, 18 * 0x2_0000];
    assert_eq!(cells(fdt, "/intc@8000000", "reg"), reg);
    assert_eq!(cells(fdt, "/pl011@9000000", "interrupts"), [0, 1, 4]);
    assert_eq!(cells(fdt, "/pl011@9000000", "clocks"), [2, 2]);
    assert_eq!(cells(fdt, "/apb-pclk", "phandle"), [2]);
    assert_eq!(cells(fdt, "/", "interrupt-parent"), cells(fdt, "/intc@8000000", "phandle"));
    assert_eq!(fdt.find_node("/cpus").unwrap().children().count(), 18);
}

#[test]
fn a_gicv2_machine() {
    let blob = build(&config(2, Version::V2), 0x0010_0000, &Chosen::default());
    let fdt = &Fdt::new(&blob).unwrap();
    assert_eq!(text(fdt, "/intc@8000000", "compatible"), "arm,cortex-a15-gic\0");
    let reg = [0, 0x0800_0000, 0, 0x1_0000, 0, 0x0801_0000, 0, 0x2000];
    assert_eq!(cells(fdt, "/intc@8000000", "reg"), reg);
    assert_eq!(cells(fdt, "/timer", "interrupts")[..3], [1, 13, 0x304]);
    assert_eq!(text(fdt, "/cpus/cpu@1", "compatible"), "arm,armv8\0");
    let chosen = fdt.find_node("/chosen").unwrap();
    assert_eq!(
        chosen.properties().map(|property| String::from(property.name())).collect::<Vec<_>>(),
        ["stdout-path"]
    );
}

#[test]
fn the_same_machine_has_the_same_tree() {
    let build = || build(&config(4, Version::V3), A72, &Chosen::default());
    assert_eq!(build(), build());
}

#[test]
fn channels_are_devices() {
    let channel = |name: &str, end| Channel { name: name.into(), end };
    let channels = vec![channel("samples", 0), channel("commands", 1)];
    let config = Config { channels, ..config(1, Version::V3) };
    let blob = build(&config, A72, &Chosen::default());
    let fdt = &Fdt::new(&blob).unwrap();
    assert_eq!(text(fdt, "/channel@b000000", "label"), "samples\0");
    assert_eq!(text(fdt, "/channel@b001000", "compatible"), "mobivmm,channel\0");
    assert_eq!(cells(fdt, "/channel@b001000", "reg"), [0, 0x0b00_1000, 0, 0x1000]);
    assert_eq!(cells(fdt, "/channel@b001000", "interrupts"), [0, 65, 1]);
    assert_eq!(cells(fdt, "/channel@b001000", "mobivmm,channel"), [1]);
    assert_eq!(cells(fdt, "/channel@b000000", "mobivmm,end"), [0]);
    assert_eq!(cells(fdt, "/channel@b001000", "mobivmm,end"), [1]);
}
