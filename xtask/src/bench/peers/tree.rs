//! Device trees: of QEMU's `virt` for Xen, which wants its guests described there, and of the guest's machine on KVM, which is alike.

use anyhow::Result;
use vm_fdt::FdtWriter;

/// Start of RAM.
pub const RAM: u64 = 0x4000_0000;
/// The GICv3's distributor and redistributors.
pub const GICD: u64 = 0x0800_0000;
pub const GICR: u64 = 0x080a_0000;
/// The PL011.
pub const UART: u64 = 0x0900_0000;

const GIC_PHANDLE: u32 = 1;
const CLOCK_PHANDLE: u32 = 2;
/// The PL011's reference clock, as QEMU has it.
const UART_HZ: u32 = 24_000_000;
/// Interrupt specifiers: an SPI or a PPI, its number, level-triggered.
const SPI: u32 = 0;
const PPI: u32 = 1;
const LEVEL: u32 = 4;

/// A machine with a GICv3 and a PL011.
pub struct Tree<'a> {
    /// CPUs.
    pub cpus: u32,
    /// Bytes of RAM.
    pub memory: u64,
    /// The instruction that calls PSCI: `hvc` or `smc`.
    pub conduit: &'a str,
    /// What the program is told: a property of `/chosen`, and its value.
    pub arguments: (&'a str, &'a str),
    /// The guests that Xen is to start.
    pub guests: &'a [Guest<'a>],
}

/// A guest of Xen (Xen, docs/misc/arm/device-tree/booting.txt, "Creating Multiple Domains directly from Xen").
pub struct Guest<'a> {
    /// Its boot arguments.
    pub arguments: &'a str,
    /// vCPUs.
    pub vcpus: u32,
    /// Where its image lies, and its bytes.
    pub image: (u64, u64),
    /// Bytes of RAM.
    pub memory: u64,
}

impl Tree<'_> {
    /// The blob.
    ///
    /// # Errors
    /// A text has a NUL in it.
    pub fn blob(&self) -> Result<Vec<u8>> {
        let mut tree = FdtWriter::new()?;
        let root = tree.begin_node("")?;
        tree.property_u32("#address-cells", 2)?;
        tree.property_u32("#size-cells", 2)?;
        tree.property_u32("interrupt-parent", GIC_PHANDLE)?;
        tree.property_string("compatible", "linux,dummy-virt")?;
        self.chosen(&mut tree)?;
        self.processors(&mut tree)?;
        self.devices(&mut tree)?;
        tree.end_node(root)?;
        Ok(tree.finish()?)
    }

    fn processors(&self, tree: &mut FdtWriter) -> Result<()> {
        let memory = tree.begin_node(&format!("memory@{RAM:x}"))?;
        tree.property_string("device_type", "memory")?;
        tree.property_array_u64("reg", &[RAM, self.memory])?;
        tree.end_node(memory)?;

        let psci = tree.begin_node("psci")?;
        tree.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
        tree.property_string("method", self.conduit)?;
        tree.end_node(psci)?;

        let cpus = tree.begin_node("cpus")?;
        tree.property_u32("#address-cells", 1)?;
        tree.property_u32("#size-cells", 0)?;
        for index in 0..self.cpus {
            let cpu = tree.begin_node(&format!("cpu@{index:x}"))?;
            tree.property_string("device_type", "cpu")?;
            tree.property_string("compatible", "arm,armv8")?;
            tree.property_string("enable-method", "psci")?;
            tree.property_u32("reg", index)?;
            tree.end_node(cpu)?;
        }
        tree.end_node(cpus)?;
        Ok(())
    }

    fn devices(&self, tree: &mut FdtWriter) -> Result<()> {
        let gic = tree.begin_node(&format!("intc@{GICD:x}"))?;
        tree.property_string("compatible", "arm,gic-v3")?;
        tree.property_null("interrupt-controller")?;
        tree.property_u32("#interrupt-cells", 3)?;
        tree.property_u32("#redistributor-regions", 1)?;
        tree.property_array_u64("reg", &[GICD, 0x1_0000, GICR, u64::from(self.cpus) * 0x2_0000])?;
        tree.property_array_u32("interrupts", &[PPI, 9, LEVEL])?;
        tree.property_phandle(GIC_PHANDLE)?;
        tree.end_node(gic)?;

        let timer = tree.begin_node("timer")?;
        tree.property_string("compatible", "arm,armv8-timer")?;
        // Secure, physical, virtual, and EL2's.
        let interrupts: Vec<u32> = [13, 14, 11, 10].into_iter().flat_map(|n| [PPI, n, LEVEL]).collect();
        tree.property_array_u32("interrupts", &interrupts)?;
        tree.end_node(timer)?;

        let clock = tree.begin_node("apb-pclk")?;
        tree.property_string("compatible", "fixed-clock")?;
        tree.property_u32("#clock-cells", 0)?;
        tree.property_u32("clock-frequency", UART_HZ)?;
        tree.property_phandle(CLOCK_PHANDLE)?;
        tree.end_node(clock)?;

        let uart = tree.begin_node(&format!("pl011@{UART:x}"))?;
        tree.property_string_list("compatible", vec!["arm,pl011".into(), "arm,primecell".into()])?;
        tree.property_array_u64("reg", &[UART, 0x1000])?;
        tree.property_array_u32("interrupts", &[SPI, 1, LEVEL])?;
        // Linux does not use it without them.
        tree.property_array_u32("clocks", &[CLOCK_PHANDLE, CLOCK_PHANDLE])?;
        tree.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
        tree.end_node(uart)?;
        Ok(())
    }

    fn chosen(&self, tree: &mut FdtWriter) -> Result<()> {
        let chosen = tree.begin_node("chosen")?;
        tree.property_u32("#address-cells", 2)?;
        tree.property_u32("#size-cells", 2)?;
        tree.property_string(self.arguments.0, self.arguments.1)?;
        for (index, guest) in self.guests.iter().enumerate() {
            let domain = tree.begin_node(&format!("domain-{index}"))?;
            tree.property_string("compatible", "xen,domain")?;
            tree.property_u32("#address-cells", 2)?;
            tree.property_u32("#size-cells", 2)?;
            // In KiB.
            tree.property_u64("memory", guest.memory >> 10)?;
            tree.property_u32("cpus", guest.vcpus)?;
            tree.property_null("vpl011")?;
            let module = tree.begin_node(&format!("module@{:x}", guest.image.0))?;
            let kinds = ["multiboot,kernel", "multiboot,module"].map(String::from);
            tree.property_string_list("compatible", kinds.into())?;
            tree.property_array_u64("reg", &[guest.image.0, guest.image.1])?;
            tree.property_string("bootargs", guest.arguments)?;
            tree.end_node(module)?;
            tree.end_node(domain)?;
        }
        tree.end_node(chosen)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node, Property};

    use super::*;

    fn cells(node: &dtoolkit::fdt::FdtNode<'_>, name: &str) -> Vec<u32> {
        let value = node.property(name).unwrap().value().to_vec();
        value.chunks(4).map(|cell| u32::from_be_bytes(cell.try_into().unwrap())).collect()
    }

    #[test]
    fn xen_finds_its_guests() {
        let guest = Guest { arguments: "burn", vcpus: 2, image: (0x6020_0000, 0x1234), memory: 16 << 20 };
        let arguments = ("xen,xen-bootargs", "sched=credit");
        let tree = Tree { cpus: 2, memory: 1 << 30, conduit: "smc", arguments, guests: &[guest] };
        let blob = tree.blob().unwrap();
        let tree = Fdt::new(&blob).unwrap();
        let text = |path: &str, name: &str| {
            let node = tree.find_node(path).unwrap();
            node.property(name).unwrap().value_as::<&str>().unwrap().to_owned()
        };
        assert_eq!(text("/chosen", "xen,xen-bootargs"), "sched=credit");
        assert_eq!(text("/chosen/domain-0", "compatible"), "xen,domain");
        let domain = tree.find_node("/chosen/domain-0").unwrap();
        assert_eq!((cells(&domain, "memory"), cells(&domain, "cpus")), (vec![0, 16 << 10], vec![2]));
        assert_eq!(text("/chosen/domain-0/module@60200000", "bootargs"), "burn");
        let module = tree.find_node("/chosen/domain-0/module@60200000").unwrap();
        assert_eq!(cells(&module, "reg"), [0, 0x6020_0000, 0, 0x1234]);
        assert_eq!(tree.find_node("/cpus").unwrap().children().count(), 2);
    }

    #[test]
    fn a_guest_of_kvm_finds_its_machine() {
        let tree =
            Tree { cpus: 1, memory: 16 << 20, conduit: "hvc", arguments: ("bootargs", "tick"), guests: &[] };
        let blob = tree.blob().unwrap();
        let tree = Fdt::new(&blob).unwrap();
        let gic = tree.find_node("/intc@8000000").unwrap();
        assert_eq!(cells(&gic, "reg"), [0, 0x800_0000, 0, 0x1_0000, 0, 0x80a_0000, 0, 0x2_0000]);
        // The third interrupt is the virtual timer's.
        let timer = tree.find_node("/timer").unwrap();
        assert_eq!(cells(&timer, "interrupts")[6..9], [1, 11, 4]);
    }
}
