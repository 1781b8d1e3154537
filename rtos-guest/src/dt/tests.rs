//! Device trees like those of QEMU's `virt`.

use vm_fdt::FdtWriter;

use super::*;

fn tree(build: impl FnOnce(&mut FdtWriter)) -> Vec<u8> {
    let mut fdt = FdtWriter::new().unwrap();
    let root = fdt.begin_node("").unwrap();
    fdt.property_u32("#address-cells", 2).unwrap();
    fdt.property_u32("#size-cells", 2).unwrap();
    build(&mut fdt);
    fdt.end_node(root).unwrap();
    fdt.finish().unwrap()
}

fn node(fdt: &mut FdtWriter, name: &str, compatible: &[&str], reg: &[u64], interrupts: &[u32]) {
    let node = fdt.begin_node(name).unwrap();
    fdt.property_string_list("compatible", compatible.iter().map(|s| (*s).into()).collect()).unwrap();
    fdt.property_array_u64("reg", reg).unwrap();
    fdt.property_array_u32("interrupts", interrupts).unwrap();
    fdt.end_node(node).unwrap();
}

fn timer(fdt: &mut FdtWriter) {
    let interrupts = [1, 13, 0x104, 1, 14, 0x104, 1, 11, 0x104, 1, 10, 0x104];
    node(fdt, "timer", &["arm,armv8-timer", "arm,armv7-timer"], &[], &interrupts);
}

fn parse(dtb: &[u8]) -> Result<Platform, Missing> {
    Platform::from_fdt(Fdt::new(dtb).unwrap())
}

#[test]
fn gicv3_uart_and_conduit() {
    let dtb = tree(|fdt| {
        let psci = fdt.begin_node("psci").unwrap();
        fdt.property_string("compatible", "arm,psci-0.2").unwrap();
        fdt.property_string("method", "hvc").unwrap();
        fdt.end_node(psci).unwrap();
        timer(fdt);
        node(
            fdt,
            "intc@8000000",
            &["arm,gic-v3"],
            &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000],
            &[1, 9, 4],
        );
        node(fdt, "pl011@9000000", &["arm,pl011", "arm,primecell"], &[0x900_0000, 0x1000], &[0, 1, 4]);
    });
    let region = |base, size| Region { base, size };
    assert_eq!(
        parse(&dtb),
        Ok(Platform {
            gic: Gic::V3 { gicd: region(0x800_0000, 0x1_0000), gicr: region(0x80a_0000, 0xf6_0000) },
            timer_intid: 27,
            uart: Some(Uart { registers: region(0x900_0000, 0x1000), intid: 33 }),
            conduit: Some(Conduit::Hvc),
        })
    );
}

#[test]
fn gicv2_on_a_bus_without_uart_and_psci() {
    let dtb = tree(|fdt| {
        timer(fdt);
        let soc = fdt.begin_node("soc").unwrap();
        fdt.property_u32("#address-cells", 2).unwrap();
        fdt.property_u32("#size-cells", 2).unwrap();
        node(fdt, "intc", &["arm,gic-400"], &[0x800_0000, 0x1_0000, 0x801_0000, 0x2000], &[]);
        fdt.end_node(soc).unwrap();
    });
    let platform = parse(&dtb).unwrap();
    assert!(matches!(platform.gic, Gic::V2 { gicc: Region { base: 0x801_0000, size: 0x2000 }, .. }));
    assert_eq!((platform.uart, platform.conduit), (None, None));
}

#[test]
fn disabled_nodes_do_not_count_and_what_is_missing_is_named() {
    let dtb = tree(|fdt| {
        timer(fdt);
        let gic = fdt.begin_node("intc").unwrap();
        fdt.property_string("compatible", "arm,gic-v3").unwrap();
        fdt.property_string("status", "disabled").unwrap();
        fdt.end_node(gic).unwrap();
    });
    assert_eq!(parse(&dtb), Err(Missing("interrupt controller")));
    let dtb =
        tree(|fdt| node(fdt, "intc", &["arm,gic-v3"], &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000], &[]));
    assert_eq!(parse(&dtb), Err(Missing("timer")));
    let dtb = tree(|fdt| {
        timer(fdt);
        node(fdt, "intc", &["arm,gic-v3"], &[0x800_0000, 0x1_0000], &[]);
    });
    assert_eq!(parse(&dtb), Err(Missing("registers")));
    let dtb = tree(|fdt| {
        node(fdt, "timer", &["arm,armv8-timer"], &[], &[1, 13, 4, 1, 14, 4, 1, 99, 4]);
        node(fdt, "intc", &["arm,gic-v3"], &[0x800_0000, 0x1_0000, 0x80a_0000, 0xf6_0000], &[]);
    });
    assert_eq!(parse(&dtb), Err(Missing("interrupts")));
}
