//! Trees as QEMU `virt` and a Raspberry Pi 4 have them, reduced to what EL2 reads, and variations of them.

use dtoolkit::fdt::Fdt;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use vm_fdt::{FdtReserveEntry, FdtWriter};

use super::*;

const GIC: u32 = 0x8005;
const CLOCK: u32 = 0x8000;

fn list(strings: &[&str]) -> Vec<u8, 128> {
    strings.iter().flat_map(|s| s.bytes().chain([0])).collect()
}

/// A node: its name, its properties and what is in it.
fn node(fdt: &mut FdtWriter, name: &str, body: impl FnOnce(&mut FdtWriter)) {
    let node = fdt.begin_node(name).unwrap();
    body(fdt);
    fdt.end_node(node).unwrap();
}

fn cells(fdt: &mut FdtWriter, name: &str, value: &[u32]) {
    fdt.property_array_u32(name, value).unwrap();
}

fn strings(fdt: &mut FdtWriter, name: &str, value: &[&str]) {
    fdt.property(name, &list(value)).unwrap();
}

struct Virt {
    gic: u32,
    cpus: u32,
    virtualization: bool,
    stdout: &'static str,
    psci_method: &'static str,
    timer_parent: u32,
}

impl Default for Virt {
    fn default() -> Self {
        let (gic, cpus, virtualization, timer_parent) = (3, 4, true, GIC);
        Self { gic, cpus, virtualization, stdout: "/pl011@9000000", psci_method: "smc", timer_parent }
    }
}

impl Virt {
    fn build(&self) -> std::vec::Vec<u8> {
        let mut fdt = FdtWriter::new().unwrap();
        node(&mut fdt, "", |fdt| {
            cells(fdt, "interrupt-parent", &[GIC]);
            strings(fdt, "model", &["linux,dummy-virt"]);
            strings(fdt, "compatible", &["linux,dummy-virt"]);
            cells(fdt, "#address-cells", &[2]);
            cells(fdt, "#size-cells", &[2]);
            node(fdt, "psci", |fdt| {
                strings(fdt, "method", &[self.psci_method]);
                strings(fdt, "compatible", &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]);
            });
            node(fdt, "memory@40000000", |fdt| cells(fdt, "reg", &[0, 0x4000_0000, 0, 0x4000_0000]));
            node(fdt, "memory@8000000000", |fdt| cells(fdt, "reg", &[0x80, 0, 1, 0]));
            // A second UART that comes first, as the secure one does with `secure=on`.
            for (name, base, spi) in [("pl011@9040000", 0x904_0000, 8), ("pl011@9000000", 0x900_0000, 1)] {
                node(fdt, name, |fdt| {
                    cells(fdt, "clocks", &[CLOCK, CLOCK]);
                    cells(fdt, "interrupts", &[0, spi, 4]);
                    cells(fdt, "reg", &[0, base, 0, 0x1000]);
                    strings(fdt, "compatible", &["arm,pl011", "arm,primecell"]);
                });
            }
            node(fdt, "intc@8000000", |fdt| self.gic(fdt));
            node(fdt, "cpus", |fdt| {
                cells(fdt, "#address-cells", &[1]);
                cells(fdt, "#size-cells", &[0]);
                node(fdt, "cpu-map", |_| {});
                for n in 0..self.cpus {
                    node(fdt, &format!("cpu@{n}"), |fdt| {
                        cells(fdt, "reg", &[n << 8]);
                        if self.cpus > 1 {
                            strings(fdt, "enable-method", &["psci"]);
                        }
                    });
                }
            });
            node(fdt, "timer", |fdt| {
                cells(fdt, "interrupt-parent", &[self.timer_parent]);
                cells(fdt, "interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4]);
                strings(fdt, "compatible", &["arm,armv8-timer", "arm,armv7-timer"]);
            });
            node(fdt, "apb-pclk", |fdt| {
                cells(fdt, "phandle", &[CLOCK]);
                cells(fdt, "clock-frequency", &[24_000_000]);
                strings(fdt, "compatible", &["fixed-clock"]);
            });
            node(fdt, "aliases", |fdt| strings(fdt, "serial0", &["/pl011@9000000"]));
            node(fdt, "chosen", |fdt| {
                cells(fdt, "linux,initrd-start", &[0x4800_0000]);
                cells(fdt, "linux,initrd-end", &[0, 0x4810_0000]);
                strings(fdt, "bootargs", &["console=mux"]);
                strings(fdt, "stdout-path", &[self.stdout]);
            });
        });
        fdt.finish().unwrap()
    }

    fn gic(&self, fdt: &mut FdtWriter) {
        cells(fdt, "phandle", &[GIC]);
        cells(fdt, "#interrupt-cells", &[3]);
        if self.virtualization {
            cells(fdt, "interrupts", &[1, 9, 4]);
        }
        if self.gic == 3 {
            strings(fdt, "compatible", &["arm,gic-v3"]);
            cells(fdt, "#redistributor-regions", &[2]);
            let gicr = [0, 0x80a_0000, 0, 0xf6_0000, 0x40, 0, 0, 0x400_0000];
            cells(fdt, "reg", &[[0, 0x800_0000, 0, 0x1_0000].as_slice(), &gicr].concat());
        } else {
            strings(fdt, "compatible", &["arm,cortex-a15-gic"]);
            let all = [0x800_0000, 0x801_0000, 0x803_0000, 0x804_0000].map(|at| [0, at, 0, 0x1_0000]);
            let count = if self.virtualization { 4 } else { 2 };
            cells(fdt, "reg", all[..count].as_flattened());
        }
    }
}

fn rpi4() -> std::vec::Vec<u8> {
    let mut fdt = FdtWriter::new_with_mem_reserv(&[FdtReserveEntry::new(0, 0x1000).unwrap()]).unwrap();
    node(&mut fdt, "", |fdt| {
        strings(fdt, "compatible", &["raspberrypi,4-model-b", "brcm,bcm2711"]);
        strings(fdt, "model", &["Raspberry Pi 4 Model B"]);
        cells(fdt, "#address-cells", &[2]);
        cells(fdt, "#size-cells", &[1]);
        cells(fdt, "interrupt-parent", &[1]);
        node(fdt, "memory@0", |fdt| {
            cells(fdt, "reg", &[0, 0, 0x3b40_0000, 0, 0x4000_0000, 0xbc00_0000, 1, 0, 0])
        });
        node(fdt, "aliases", |fdt| {
            strings(fdt, "serial0", &["/soc/serial@7e201000"]);
            strings(fdt, "serial1", &["/soc/serial@7e215040"]);
        });
        node(fdt, "chosen", |fdt| strings(fdt, "stdout-path", &["serial1:115200n8"]));
        node(fdt, "reserved-memory", |fdt| {
            cells(fdt, "#address-cells", &[2]);
            cells(fdt, "#size-cells", &[1]);
            fdt.property_null("ranges").unwrap();
            node(fdt, "linux,cma", |fdt| cells(fdt, "size", &[0x400_0000]));
            node(fdt, "secure@3f00000", |fdt| {
                cells(fdt, "reg", &[0, 0x3f0_0000, 0x10_0000]);
                fdt.property_null("no-map").unwrap();
            });
            node(fdt, "nvram@0", |fdt| {
                cells(fdt, "reg", &[0, 0x100, 0x100]);
                strings(fdt, "status", &["disabled"]);
            });
        });
        node(fdt, "soc", |fdt| {
            cells(fdt, "#address-cells", &[1]);
            cells(fdt, "#size-cells", &[1]);
            let windows = [
                [0x7e00_0000, 0, 0xfe00_0000, 0x180_0000],
                [0x7c00_0000, 0, 0xfc00_0000, 0x200_0000],
                [0x4000_0000, 0, 0xff80_0000, 0x80_0000],
            ];
            cells(fdt, "ranges", windows.as_flattened());
            node(fdt, "serial@7e215040", |fdt| {
                strings(fdt, "compatible", &["brcm,bcm2835-aux-uart"]);
                cells(fdt, "reg", &[0x7e21_5040, 0x40]);
            });
            node(fdt, "serial@7e201400", |fdt| {
                strings(fdt, "compatible", &["arm,pl011", "arm,primecell"]);
                strings(fdt, "status", &["disabled"]);
                cells(fdt, "reg", &[0x7e20_1400, 0x200]);
            });
            node(fdt, "serial@7e201000", |fdt| {
                strings(fdt, "compatible", &["arm,pl011", "arm,primecell"]);
                strings(fdt, "status", &["okay"]);
                cells(fdt, "reg", &[0x7e20_1000, 0x200]);
                cells(fdt, "interrupts", &[0, 121, 4]);
                cells(fdt, "clocks", &[7, 19, 7, 20]);
            });
            node(fdt, "watchdog@7e100000", |fdt| {
                strings(fdt, "compatible", &["brcm,bcm2711-pm", "brcm,bcm2835-pm-wdt"]);
                cells(fdt, "reg", &[0x7e10_0000, 0x114, 0x7e00_a000, 0x24]);
            });
            node(fdt, "interrupt-controller@40041000", |fdt| {
                strings(fdt, "compatible", &["arm,gic-400"]);
                cells(fdt, "#interrupt-cells", &[3]);
                cells(fdt, "phandle", &[1]);
                cells(fdt, "interrupts", &[1, 9, 0xf04]);
                let all = [
                    [0x4004_1000, 0x1000],
                    [0x4004_2000, 0x2000],
                    [0x4004_4000, 0x2000],
                    [0x4004_6000, 0x2000],
                ];
                cells(fdt, "reg", all.as_flattened());
            });
        });
        node(fdt, "timer", |fdt| {
            strings(fdt, "compatible", &["arm,armv8-timer"]);
            cells(fdt, "interrupts", &[1, 13, 0xf08, 1, 14, 0xf08, 1, 11, 0xf08, 1, 10, 0xf08]);
        });
        node(fdt, "cpus", |fdt| {
            cells(fdt, "#address-cells", &[1]);
            cells(fdt, "#size-cells", &[0]);
            strings(fdt, "enable-method", &["brcm,bcm2836-smp"]);
            for n in 0..4 {
                node(fdt, &format!("cpu@{n}"), |fdt| {
                    cells(fdt, "reg", &[n]);
                    strings(fdt, "enable-method", &["spin-table"]);
                    cells(fdt, "cpu-release-addr", &[0, 0xd8 + 8 * n]);
                });
            }
        });
    });
    fdt.finish().unwrap()
}

#[test]
fn virt_with_gicv3() {
    let blob = Virt::default().build();
    let platform = Platform::discover(&blob).unwrap();
    assert_eq!(platform.model, "linux,dummy-virt");
    assert!(platform.compatible().eq(["linux,dummy-virt"]));
    let psci = |mpidr| Cpu { mpidr, enable: EnableMethod::Psci };
    assert_eq!(platform.cpus, [psci(0), psci(0x100), psci(0x200), psci(0x300)]);
    assert_eq!(platform.memory, [0x4000_0000..0x8000_0000, 0x80_0000_0000..0x81_0000_0000]);
    assert!(platform.reserved.is_empty());
    assert_eq!(platform.initrd, Some(0x4800_0000..0x4810_0000));
    assert_eq!(platform.bootargs, "console=mux");
    let gicr = Vec::from([0x80a_0000..0x900_0000, 0x40_0000_0000..0x40_0400_0000]);
    assert_eq!(platform.gic, Gic::V3 { gicd: 0x800_0000..0x801_0000, gicr, maintenance: 25 });
    let uart = Uart { registers: 0x900_0000..0x900_1000, intid: Some(33), clock_hz: Some(24_000_000) };
    assert_eq!(platform.uart, Some(uart));
    assert_eq!(platform.timers, Timers { physical: 30, virtual_: 27, hypervisor: 26 });
    assert_eq!(platform.psci, Some(Conduit::Smc));
    assert_eq!(platform.bcm2835_pm, None);
    assert_eq!(
        platform.devices().map(|range| range.start).collect::<std::vec::Vec<_>>(),
        [0x800_0000, 0x80a_0000, 0x40_0000_0000, 0x900_0000]
    );
}

#[test]
fn virt_with_gicv2() {
    let blob = Virt { gic: 2, psci_method: "hvc", ..Virt::default() }.build();
    let platform = Platform::discover(&blob).unwrap();
    assert_eq!(
        platform.gic,
        Gic::V2 {
            gicd: 0x800_0000..0x801_0000,
            gicc: 0x801_0000..0x802_0000,
            gich: 0x803_0000..0x804_0000,
            gicv: 0x804_0000..0x805_0000,
            maintenance: 25,
        }
    );
    assert_eq!(platform.psci, Some(Conduit::Hvc));
}

#[test]
fn raspberry_pi_4() {
    let blob = rpi4();
    let platform = Platform::discover(&blob).unwrap();
    assert!(platform.compatible().eq(["raspberrypi,4-model-b", "brcm,bcm2711"]));
    let spin = |n| Cpu { mpidr: n, enable: EnableMethod::SpinTable { release_addr: 0xd8 + 8 * n } };
    assert_eq!(platform.cpus, [spin(0), spin(1), spin(2), spin(3)]);
    assert_eq!(platform.memory, [0..0x3b40_0000, 0x4000_0000..0xfc00_0000]);
    let reserved = |range, no_map| Reserved { range, no_map };
    assert_eq!(platform.reserved, [reserved(0..0x1000, false), reserved(0x3f0_0000..0x400_0000, true)]);
    assert_eq!(platform.initrd, None);
    assert_eq!(platform.bootargs, "");
    assert_eq!(
        platform.gic,
        Gic::V2 {
            gicd: 0xff84_1000..0xff84_2000,
            gicc: 0xff84_2000..0xff84_4000,
            gich: 0xff84_4000..0xff84_6000,
            gicv: 0xff84_6000..0xff84_8000,
            maintenance: 25,
        }
    );
    // stdout-path names the mini UART, and the first PL011 is disabled.
    let uart = Uart { registers: 0xfe20_1000..0xfe20_1200, intid: Some(153), clock_hz: None };
    assert_eq!(platform.uart, Some(uart));
    assert_eq!(platform.psci, None);
    assert_eq!(platform.bcm2835_pm, Some(0xfe10_0000..0xfe10_0114));
}

#[test]
fn stdout_is_a_path_or_an_alias_with_options_and_else_the_first_uart() {
    let base = |stdout| {
        let blob = Virt { stdout, ..Virt::default() }.build();
        Platform::discover(&blob).unwrap().uart.unwrap().registers.start
    };
    assert_eq!(base("/pl011@9000000:115200"), 0x900_0000);
    assert_eq!(base("/pl011@9040000"), 0x904_0000);
    assert_eq!(base("serial0:115200n8"), 0x900_0000);
    assert_eq!(base("serial7"), 0x904_0000);
    assert_eq!(base("/cpus"), 0x904_0000);
    assert_eq!(base(""), 0x904_0000);
}

#[test]
fn what_el2_cannot_do_without_is_an_error() {
    let error = |virt: Virt| Platform::discover(&virt.build()).unwrap_err();
    assert_eq!(error(Virt { cpus: 0, ..Virt::default() }), Error::NoCpus);
    assert_eq!(error(Virt { virtualization: false, ..Virt::default() }), Error::IncompleteGic);
    assert_eq!(error(Virt { virtualization: false, gic: 2, ..Virt::default() }), Error::IncompleteGic);
    assert_eq!(error(Virt { timer_parent: CLOCK, ..Virt::default() }), Error::NoTimer);
    assert_eq!(Platform::discover(&[]).unwrap_err(), Error::Malformed);
    let mut empty = FdtWriter::new().unwrap();
    node(&mut empty, "", |_| {});
    assert_eq!(Platform::discover(&empty.finish().unwrap()).unwrap_err(), Error::NoGic);
}

#[test]
fn an_only_cpu_has_no_enable_method() {
    let blob = Virt { cpus: 1, ..Virt::default() }.build();
    assert_eq!(Platform::discover(&blob).unwrap().cpus, [Cpu { mpidr: 0, enable: EnableMethod::None }]);
}

#[test]
fn further_cpus_are_left_alone() {
    let blob = Virt { cpus: 12, ..Virt::default() }.build();
    assert_eq!(Platform::discover(&blob).unwrap().cpus.len(), MAX_CPUS);
}

#[test]
fn a_tree_with_too_many_reservations_is_refused() {
    let entries: std::vec::Vec<_> =
        (0..=MAX_RESERVED as u64).map(|n| FdtReserveEntry::new(n << 20, 0x1000).unwrap()).collect();
    let mut writer = FdtWriter::new_with_mem_reserv(&entries).unwrap();
    node(&mut writer, "", |_| {});
    let blob = writer.finish().unwrap();
    assert_eq!(reserved(Fdt::new(&blob).unwrap(), None), Err(Error::TooManyReserved));
}

#[test]
fn total_size_wants_magic_and_eight_bytes() {
    let blob = rpi4();
    assert_eq!(total_size(&blob[..8]), Some(blob.len()));
    assert_eq!(total_size(&blob[..7]), None);
    assert_eq!(total_size(&[0; 8]), None);
}

#[test]
fn bytes_behind_the_tree_are_ignored_and_missing_ones_refused() {
    let mut blob = rpi4();
    blob.push(0xff);
    assert!(Platform::discover(&blob).is_ok());
    blob.truncate(blob.len() - 2);
    assert_eq!(Platform::discover(&blob).unwrap_err(), Error::Malformed);
}

#[test]
fn interrupt_specifiers() {
    let encode =
        |cells: &[u32]| cells.iter().flat_map(|cell| cell.to_be_bytes()).collect::<std::vec::Vec<_>>();
    assert_eq!(interrupt(&encode(&[0, 987, 4]), 3, 0), Some(1019));
    assert_eq!(interrupt(&encode(&[0, 988, 4]), 3, 0), None);
    assert_eq!(interrupt(&encode(&[1, 15, 4]), 3, 0), Some(31));
    assert_eq!(interrupt(&encode(&[1, 16, 4]), 3, 0), None);
    assert_eq!(interrupt(&encode(&[2, 0, 4]), 3, 0), None);
    assert_eq!(interrupt(&encode(&[1, 13, 4, 0, 1, 14, 4, 0]), 4, 1), Some(30));
    assert_eq!(interrupt(&encode(&[1, 13, 4]), 3, 1), None);
    assert_eq!(interrupt(&encode(&[1]), u32::MAX, usize::MAX), None);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        rng_seed: RngSeed::Fixed(4),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever is wrong with a tree, reading it ends without a panic.
    #[test]
    fn damaged_trees_do_not_panic(
        which in 0..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
    ) {
        let mut blob = match which {
            0 => rpi4(),
            1 => Virt::default().build(),
            _ => Virt { gic: 2, ..Virt::default() }.build(),
        };
        for (at, value) in damage {
            let at = at.index(blob.len());
            blob[at] = value;
        }
        if let Some(cut) = cut {
            blob.truncate(cut.index(blob.len()));
        }
        if let Ok(platform) = Platform::discover(&blob) {
            prop_assert!(!platform.cpus.is_empty() && !platform.memory.is_empty());
            prop_assert!(platform.devices().all(|range| range.start < range.end));
            let _ = platform.compatible().count();
        }
    }
}
