//! A bundle that is intact and yet wrong is refused: at the node and the property, and only the VM that is wrong.

use mobivmm_bundle::{
    Bundle, COMPATIBLE, DTB_WINDOW, Digest, Error, MAX_CMDLINE, MAX_PERIOD_NS, MAX_WEIGHT, RAM_END, Reason,
    Schedule,
};
use vm_fdt::FdtWriter;

const KERNEL_SIZE: u32 = 0x1000;
const RAMDISK_SIZE: u32 = 0x800;
const RAM: u64 = 0x4000_0000;

/// A node's properties.
#[derive(Clone)]
struct Properties(Vec<(String, Vec<u8>)>);

impl Properties {
    /// Sets a property, or adds it.
    fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) -> &mut Self {
        let value = value.into();
        match self.0.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
        self
    }

    fn u32(&mut self, name: &str, value: u32) -> &mut Self {
        self.set(name, value.to_be_bytes())
    }

    fn u64(&mut self, name: &str, value: u64) -> &mut Self {
        self.set(name, value.to_be_bytes())
    }

    fn str(&mut self, name: &str, value: &str) -> &mut Self {
        self.set(name, [value.as_bytes(), &[0]].concat())
    }

    fn remove(&mut self, name: &str) -> &mut Self {
        self.0.retain(|(n, _)| n != name);
        self
    }

    fn write(&self, fdt: &mut FdtWriter) {
        self.0.iter().for_each(|(name, value)| fdt.property(name, value).unwrap());
    }

    fn digest(&self, node: &str, digest: &mut Digest) {
        digest.node(node);
        self.0.iter().for_each(|(name, value)| digest.property(name, value));
    }
}

/// A bundle to be made wrong.
struct Made {
    configuration: Properties,
    kernel: Properties,
    kernel_hash: Properties,
    vms: Vec<(String, Properties)>,
}

impl Made {
    /// A good bundle with a VM of each name: 2 MiB of RAM with kernel, device tree and initrd in this order.
    fn new(names: &[&str]) -> Self {
        let new = || Properties(Vec::new());
        let mut vm = new();
        vm.u32("vcpus", 2).u64("memory-base", RAM).u64("memory-size", 2 << 20).str("cmdline", "");
        vm.str("schedule", "share").u32("weight", 256).u32("cap-percent", 0).u64("affinity", u64::MAX);
        vm.u32("adjustable-percent", 0);
        vm.str("kernel", "kernel-1")
            .u64("kernel-load", RAM)
            .u64("kernel-entry", RAM)
            .u64("kernel-mem-size", 0x1_0000);
        vm.u64("dtb-load", RAM + 0x1_0000).str("initrd", "ramdisk").u64("initrd-load", RAM + 0x2_0000);
        let mut made = Self {
            configuration: new(),
            kernel: new(),
            kernel_hash: new(),
            vms: names.iter().map(|name| ((*name).to_owned(), vm.clone())).collect(),
        };
        made.configuration.str("description", "made").str("compatible", COMPATIBLE);
        made.kernel.u32("data-offset", 0).u32("data-size", KERNEL_SIZE);
        made.kernel_hash.str("algo", "sha256").set("value", [1; 32]);
        made
    }

    /// The tree, with the VMs' right digests, and the length of the bundle.
    fn build(&self) -> (Vec<u8>, u64) {
        let mut ramdisk = Properties(Vec::new());
        ramdisk.u32("data-offset", KERNEL_SIZE).u32("data-size", RAMDISK_SIZE);
        let mut ramdisk_hash = Properties(Vec::new());
        ramdisk_hash.str("algo", "sha256").set("value", [2; 32]);

        let mut fdt = FdtWriter::new().unwrap();
        let root = fdt.begin_node("").unwrap();
        let images = fdt.begin_node("images").unwrap();
        for (name, image, hash) in
            [("kernel-1", &self.kernel, &self.kernel_hash), ("ramdisk", &ramdisk, &ramdisk_hash)]
        {
            let node = fdt.begin_node(name).unwrap();
            image.write(&mut fdt);
            let hash_node = fdt.begin_node("hash-1").unwrap();
            hash.write(&mut fdt);
            fdt.end_node(hash_node).unwrap();
            fdt.end_node(node).unwrap();
        }
        fdt.end_node(images).unwrap();
        let configurations = fdt.begin_node("configurations").unwrap();
        fdt.property_string("default", "machine").unwrap();
        let machine = fdt.begin_node("machine").unwrap();
        self.configuration.write(&mut fdt);
        for (name, vm) in &self.vms {
            let mut digest = Digest::default();
            vm.digest(name, &mut digest);
            self.kernel.digest("kernel-1", &mut digest);
            self.kernel_hash.digest("hash-1", &mut digest);
            if vm.0.iter().any(|(name, _)| name == "initrd") {
                ramdisk.digest("ramdisk", &mut digest);
                ramdisk_hash.digest("hash-1", &mut digest);
            }
            let node = fdt.begin_node(name).unwrap();
            vm.write(&mut fdt);
            let hash = fdt.begin_node("hash-1").unwrap();
            fdt.property_string("algo", "sha256").unwrap();
            fdt.property("value", &digest.finish()).unwrap();
            fdt.end_node(hash).unwrap();
            fdt.end_node(node).unwrap();
        }
        for node in [machine, configurations, root] {
            fdt.end_node(node).unwrap();
        }
        let tree = fdt.finish().unwrap();
        let total = tree.len().next_multiple_of(4) as u64 + u64::from(KERNEL_SIZE) + u64::from(RAMDISK_SIZE);
        (tree, total)
    }
}

/// Asserts that the bundle is refused as a whole.
#[track_caller]
fn bundle_refused(made: &Made, node: &str, property: &str, reason: Reason) {
    let (tree, total) = made.build();
    assert_eq!(Bundle::parse(&tree, total).unwrap_err(), Error { node, property, reason });
}

/// Asserts that a VM changed by `change` is refused, and its neighbour is not.
#[track_caller]
fn vm_refused(change: impl Fn(&mut Properties) -> &mut Properties, property: &str, reason: Reason) {
    let mut made = Made::new(&["good", "bad"]);
    change(&mut made.vms[1].1);
    let (tree, total) = made.build();
    let vms: Vec<_> = Bundle::parse(&tree, total).unwrap().vms().collect();
    assert!(vms[0].is_ok(), "{vms:?}");
    assert!(Bundle::parse(&tree, total).unwrap().vm_names().eq(["good", "bad"]));
    assert_eq!(vms[1].unwrap_err(), Error { node: "bad", property, reason });
}

/// Asserts that a VM changed by `change` is accepted.
#[track_caller]
fn vm_accepted(change: impl Fn(&mut Properties) -> &mut Properties) -> Schedule {
    let mut made = Made::new(&["vm"]);
    change(&mut made.vms[0].1);
    let (tree, total) = made.build();
    Bundle::parse(&tree, total).unwrap().vms().next().unwrap().unwrap().schedule
}

#[test]
fn the_unchanged_base_of_these_tests_is_accepted() {
    assert_eq!(vm_accepted(|vm| vm), Schedule::Share { weight: 256, cap_percent: 0 });
    vm_accepted(|vm| vm.remove("initrd").remove("initrd-load"));
}

#[test]
fn another_binding_refuses_the_bundle() {
    let mut made = Made::new(&["a"]);
    made.configuration.str("compatible", "mobivmm,machine-v2");
    bundle_refused(&made, "machine", "compatible", Reason::UnknownBinding);
    made.configuration.remove("compatible");
    bundle_refused(&made, "machine", "compatible", Reason::Missing);
}

#[test]
fn names_are_well_formed_and_unique() {
    let (tree, total) = Made::new(&["a", "b", "a"]).build();
    let vms: Vec<_> = Bundle::parse(&tree, total).unwrap().vms().collect();
    assert!(vms[0].is_ok() && vms[1].is_ok());
    assert_eq!(vms[2], Err(Error { node: "a", property: "", reason: Reason::DuplicateName }));
    for bad in ["A", "a.b", "a_b"] {
        let (tree, total) = Made::new(&[bad]).build();
        let vm = Bundle::parse(&tree, total).unwrap().vms().next().unwrap();
        assert_eq!(vm, Err(Error { node: bad, property: "", reason: Reason::BadName }));
    }
}

#[test]
fn vms_beyond_the_sixteenth_are_refused() {
    let names: Vec<_> = (0..18).map(|n| format!("vm{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (tree, total) = Made::new(&names).build();
    let vms: Vec<_> = Bundle::parse(&tree, total).unwrap().vms().collect();
    assert!(vms[..16].iter().all(Result::is_ok));
    assert_eq!(vms[17], Err(Error { node: "vm17", property: "", reason: Reason::TooManyVms }));
}

#[test]
fn every_property_is_needed_and_typed() {
    let names: Vec<_> = Made::new(&["a"]).vms[0].1.0.iter().map(|(name, _)| name.clone()).collect();
    for name in names.iter().filter(|name| *name != "initrd") {
        vm_refused(|vm| vm.remove(name), name, Reason::Missing);
        vm_refused(|vm| vm.set(name, [1, 2, 3]), name, Reason::BadType);
    }
    vm_refused(|vm| vm.set("memory-identity", [1]), "memory-identity", Reason::BadType);
    vm_refused(|vm| vm.set("cmdline", *b"a\0b\0"), "cmdline", Reason::BadType);
    vm_refused(|vm| vm.set("cmdline", *b"\xff\0"), "cmdline", Reason::BadType);
}

#[test]
fn channels_have_names_and_are_few() {
    for bad in [&b"a"[..], b"A\0", b"a\0\0", b"\xff\0"] {
        vm_refused(|vm| vm.set("channels", bad), "channels", Reason::BadType);
    }
    vm_accepted(|vm| vm.set("channels", *b"a\0b\0c\0d\0e\0f\0g\0h\0"));
    vm_refused(|vm| vm.set("channels", *b"a\0b\0c\0d\0e\0f\0g\0h\0i\0"), "channels", Reason::OutOfRange);
}

#[test]
fn unknown_properties_are_refused() {
    vm_refused(|vm| vm.set("colour", []), "colour", Reason::Unknown);
    vm_refused(|vm| vm.u64("budget-ns", 5000), "budget-ns", Reason::Unknown);
}

#[test]
fn values_are_within_their_limits() {
    let out = Reason::OutOfRange;
    vm_refused(|vm| vm.u32("vcpus", 0), "vcpus", out);
    vm_refused(|vm| vm.u32("vcpus", 9), "vcpus", out);
    vm_refused(|vm| vm.u64("affinity", 0), "affinity", out);
    vm_refused(|vm| vm.str("cmdline", &"x".repeat(MAX_CMDLINE + 1)), "cmdline", out);
    vm_refused(|vm| vm.u32("weight", 0), "weight", out);
    vm_refused(|vm| vm.u32("weight", MAX_WEIGHT + 1), "weight", out);
    vm_refused(|vm| vm.u32("cap-percent", 201), "cap-percent", out);
    vm_refused(|vm| vm.str("schedule", "fair"), "schedule", out);
    vm_refused(|vm| vm.u32("adjustable-percent", 1), "adjustable-percent", out);
}

/// Makes the VM's schedule a reservation.
fn reservation(vm: &mut Properties, budget: u64, period: u64, deadline: u64) -> &mut Properties {
    vm.remove("weight").remove("cap-percent").str("schedule", "reservation");
    vm.u64("budget-ns", budget).u64("period-ns", period).u64("deadline-ns", deadline)
}

#[test]
fn reservations_are_feasible() {
    let accepted = vm_accepted(|vm| reservation(vm, 2000, 9000, 5000));
    let (budget_ns, period_ns, deadline_ns) = (2000, 9000, 5000);
    assert_eq!(accepted, Schedule::Reservation { budget_ns, period_ns, deadline_ns });
    let out = Reason::OutOfRange;
    vm_refused(|vm| reservation(vm, 6000, 9000, 5000), "budget-ns", out);
    vm_refused(|vm| reservation(vm, 999, 9000, 5000), "budget-ns", out);
    vm_refused(|vm| reservation(vm, 2000, 9000, 9001), "deadline-ns", out);
    vm_refused(|vm| reservation(vm, 2000, MAX_PERIOD_NS + 1, 5000), "period-ns", out);
    vm_refused(
        |vm| reservation(vm, 2000, 9000, 5000).u32("adjustable-percent", 96),
        "adjustable-percent",
        out,
    );
}

#[test]
fn exclusive_needs_a_cpu_for_each_vcpu() {
    fn exclusive(vm: &mut Properties, affinity: u64) -> &mut Properties {
        vm.remove("weight").remove("cap-percent").str("schedule", "exclusive").u64("affinity", affinity)
    }
    assert_eq!(vm_accepted(|vm| exclusive(vm, 0b101)), Schedule::Exclusive);
    vm_refused(|vm| exclusive(vm, 0b100), "affinity", Reason::OutOfRange);
}

#[test]
fn memory_is_aligned_and_addressable() {
    vm_refused(|vm| vm.u64("memory-base", RAM + 0x1000), "memory-base", Reason::Misaligned);
    vm_refused(|vm| vm.u64("memory-size", 0x1000), "memory-size", Reason::Misaligned);
    vm_refused(|vm| vm.u64("memory-base", 0), "memory-base", Reason::OutOfRange);
    vm_refused(|vm| vm.u64("memory-base", RAM_END), "memory-base", Reason::OutOfRange);
    vm_refused(|vm| vm.u64("memory-size", 0), "memory-size", Reason::OutOfRange);
    vm_refused(|vm| vm.u64("memory-size", RAM_END), "memory-size", Reason::OutOfRange);
}

#[test]
fn everything_lies_in_the_ram_and_apart() {
    let ram_end = RAM + (2 << 20);
    fn load(property: &'static str, at: u64) -> impl Fn(&mut Properties) -> &mut Properties {
        move |vm| vm.u64(property, at)
    }
    vm_refused(load("dtb-load", RAM - 8), "dtb-load", Reason::OutsideRam);
    vm_refused(load("dtb-load", ram_end - DTB_WINDOW + 8), "dtb-load", Reason::OutsideRam);
    vm_refused(load("dtb-load", u64::MAX - 7), "dtb-load", Reason::OutsideRam);
    vm_refused(load("initrd-load", ram_end - u64::from(RAMDISK_SIZE) + 8), "initrd-load", Reason::OutsideRam);
    vm_refused(load("kernel-mem-size", (2 << 20) + 1), "kernel-load", Reason::OutsideRam);
    vm_refused(load("dtb-load", RAM + 0xfff8), "dtb-load", Reason::Overlap);
    vm_refused(load("initrd-load", RAM + 0x1_fff8), "initrd-load", Reason::Overlap);
    vm_refused(load("initrd-load", RAM), "initrd-load", Reason::Overlap);
    vm_refused(load("initrd-load", RAM + 0x2_0004), "initrd-load", Reason::Misaligned);
    vm_refused(load("kernel-mem-size", u64::from(KERNEL_SIZE) - 1), "kernel-mem-size", Reason::OutOfRange);
    vm_refused(load("kernel-mem-size", u64::MAX), "kernel-entry", Reason::OutOfRange);
    vm_refused(load("kernel-entry", RAM + 2), "kernel-entry", Reason::Misaligned);
    vm_refused(load("kernel-entry", RAM - 4), "kernel-entry", Reason::OutOfRange);
    vm_refused(load("kernel-entry", RAM + 0x1_0000), "kernel-entry", Reason::OutOfRange);
    vm_accepted(load("initrd-load", ram_end - u64::from(RAMDISK_SIZE)));
}

#[test]
fn images_are_there_and_hashed() {
    vm_refused(|vm| vm.str("kernel", "kernel-2"), "kernel", Reason::NoSuchImage);
    vm_refused(|vm| vm.str("initrd", ""), "initrd", Reason::NoSuchImage);

    let refused = |change: fn(&mut Made) -> &mut Properties, property, reason| {
        let mut made = Made::new(&["a"]);
        change(&mut made);
        let (tree, total) = made.build();
        let vm = Bundle::parse(&tree, total).unwrap().vms().next().unwrap();
        assert_eq!(vm.unwrap_err(), Error { node: "kernel-1", property, reason });
    };
    refused(|made| made.kernel.u32("data-size", 0), "data-size", Reason::OutOfRange);
    refused(|made| made.kernel.u32("data-size", u32::MAX), "data-size", Reason::Truncated);
    refused(|made| made.kernel.u32("data-offset", u32::MAX), "data-size", Reason::Truncated);
    refused(|made| made.kernel.remove("data-offset"), "data-offset", Reason::Missing);
    refused(|made| made.kernel_hash.str("algo", "crc32"), "hash-1", Reason::Unknown);
    refused(|made| made.kernel_hash.set("value", [0; 20]), "hash-1", Reason::BadType);
}
