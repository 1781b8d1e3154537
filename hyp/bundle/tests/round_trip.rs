//! What the host compiles is what EL2 reads, and nothing that happens to it in between is mistaken for something else:
//! a changed bundle is read as it was, or refused.

use mobivmm_bundle::{Bundle, Error, Memory, Reason, Schedule, VmConfig};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use sha2::{Digest as _, Sha256};
use std::sync::LazyLock;

const MACHINE: &str = r#"
[machine]
name = "test"

[[vm]]
name = "linux"
kernel = "Image"
initrd = "initrd"
cmdline = "console=ttyAMA0"
vcpus = 4
memory = "64MiB"
schedule = { weight = 100, cap = 150, affinity = [0, 2] }

[[vm]]
name = "control"
kernel = { raw = "raw.bin", load = 0x8008_0000, entry = 0x8008_0004 }
memory = { size = "16MiB", base = 0x8000_0000, identity = true }
schedule = { budget = "250us", period = "1ms", deadline = "500us" }

[[vm]]
name = "sensor"
kernel = "Image"
memory = "2MiB"
schedule = { exclusive = true }

[[channel]]
name = "samples"
between = ["sensor", "linux"]

[[channel]]
name = "commands"
between = ["linux", "control"]

[[channel]]
name = "events"
between = ["linux", "sensor"]
"#;

/// [`MACHINE`], compiled with images of [`image`]'s kind.
static BUNDLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
    write("Image", &image());
    write("initrd", &[7; 100]);
    write("raw.bin", &[9; 64]);
    let machine = machines::Machine::parse(&dir.path().join("test.toml"), MACHINE).unwrap();
    machine.compile(&|_, _| anyhow::bail!("no artefacts")).unwrap()
});

/// The device tree's length, without the padding behind it.
static TREE_LEN: LazyLock<usize> = LazyLock::new(|| {
    let header = |word: usize| u32::from_be_bytes(*BUNDLE[4 * word..].first_chunk().unwrap()) as usize;
    // The strings block is the last: its offset and size (Devicetree Specification 0.4, 5.2).
    header(3) + header(8)
});

static VMS: LazyLock<Vec<VmConfig<'static>>> = LazyLock::new(|| {
    let bundle = Bundle::parse(&BUNDLE, BUNDLE.len() as u64).unwrap();
    bundle.vms().collect::<Result<_, _>>().unwrap()
});

/// An arm64 `Image` of 128 bytes that occupies 64 KiB.
fn image() -> Vec<u8> {
    let mut image = vec![0x5a; 128];
    image[8..16].fill(0);
    image[16..24].copy_from_slice(&0x1_0000_u64.to_le_bytes());
    image[24..32].fill(0);
    image[0x38..0x3c].copy_from_slice(b"ARM\x64");
    image
}

/// `vm` with its images' offsets counted from the end of the tree instead of from the beginning of the bundle.
fn from_tree_end<'a>(mut vm: VmConfig<'a>, bundle: &[u8]) -> VmConfig<'a> {
    let tree = (Bundle::fdt_len(bundle).unwrap() as u64).next_multiple_of(4);
    vm.kernel.image.offset -= tree;
    if let Some(initrd) = &mut vm.initrd {
        initrd.image.offset -= tree;
    }
    vm
}

/// Reads a bundle that may be changed: whatever VM comes out is one of the original's. A changed length of the tree,
/// in its header, moves all images; that is for their own SHA-256 to detect.
fn read_changed(bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(bundle) = Bundle::parse(bytes, bytes.len() as u64) else {
        return Ok(());
    };
    for vm in bundle.vms() {
        match vm {
            Ok(vm) => {
                let vm = from_tree_end(vm, bytes);
                prop_assert!(VMS.iter().any(|original| from_tree_end(*original, &BUNDLE) == vm), "{vm:?}");
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
    Ok(())
}

#[test]
fn the_bundle_says_what_the_machine_file_says() {
    let [linux, control, sensor] = VMS[..] else { panic!("{VMS:?}") };
    assert_eq!((linux.name, linux.vcpus, linux.cmdline), ("linux", 4, "console=ttyAMA0"));
    assert_eq!(linux.memory, Memory { base: 0x4000_0000, size: 64 << 20, identity: false });
    assert_eq!(linux.schedule, Schedule::Share { weight: 100, cap_percent: 150 });
    assert_eq!(linux.affinity, 0b101);
    assert_eq!(
        (linux.kernel.load, linux.kernel.entry, linux.kernel.mem_size),
        (0x4000_0000, 0x4000_0000, 0x1_0000)
    );
    assert_eq!((linux.dtb_load, linux.initrd.unwrap().load), (0x4001_0000, 0x4002_0000));

    assert_eq!((control.name, control.vcpus, control.cmdline, control.initrd), ("control", 1, "", None));
    assert_eq!(control.memory, Memory { base: 0x8000_0000, size: 16 << 20, identity: true });
    let (budget_ns, period_ns, deadline_ns) = (250_000, 1_000_000, 500_000);
    assert_eq!(control.schedule, Schedule::Reservation { budget_ns, period_ns, deadline_ns });
    assert_eq!(
        (control.kernel.load, control.kernel.entry, control.kernel.mem_size),
        (0x8008_0000, 0x8008_0004, 64)
    );
    assert_eq!(control.dtb_load, 0x8000_0000);

    assert_eq!((sensor.name, sensor.schedule, sensor.affinity), ("sensor", Schedule::Exclusive, u64::MAX));
    let channels = |vm: VmConfig<'static>| vm.channels.iter().collect::<Vec<_>>();
    assert_eq!(channels(linux), ["samples", "commands", "events"]);
    assert_eq!(channels(control), ["commands"]);
    assert_eq!(channels(sensor), ["samples", "events"]);
    assert_eq!(sensor.kernel, linux.kernel, "equal images are stored once");
    assert_eq!(Bundle::parse(&BUNDLE, BUNDLE.len() as u64).unwrap().name(), "test");
}

#[test]
fn offset_size_and_hash_are_those_of_the_bytes() {
    let bytes = |offset: u64, size: u64| &BUNDLE[offset as usize..][..size as usize];
    for vm in VMS.iter() {
        let images = [Some(vm.kernel.image), vm.initrd.map(|initrd| initrd.image)];
        for image in images.into_iter().flatten() {
            assert_eq!(Sha256::digest(bytes(image.offset, image.size))[..], image.sha256[..]);
        }
    }
    let linux = VMS[0].kernel.image;
    assert_eq!(bytes(linux.offset, linux.size), image());
}

#[test]
fn only_the_tree_is_needed() {
    let len = Bundle::fdt_len(&BUNDLE[..8]).unwrap();
    let bundle = Bundle::parse(&BUNDLE[..len], BUNDLE.len() as u64).unwrap();
    assert!(bundle.vms().eq(VMS.iter().copied().map(Ok)));
}

#[test]
fn truncation_costs_only_the_vms_whose_images_are_cut() {
    // The images lie in the order of the file: kernel and initrd of linux, control's kernel; sensor's is linux's.
    let end = |vm: &VmConfig<'_>| vm.kernel.image.offset + vm.kernel.image.size;
    let bundle = Bundle::parse(&BUNDLE, end(&VMS[1]) - 1).unwrap();
    let vms: Vec<_> = bundle.vms().collect();
    let cut = Error { node: "kernel-3", property: "data-size", reason: Reason::Truncated };
    assert_eq!(vms, [Ok(VMS[0]), Err(cut), Ok(VMS[2])]);
}

#[test]
fn every_truncation_is_read_as_it_was_or_refused() {
    for len in 0..=*TREE_LEN {
        assert!(Bundle::parse(&BUNDLE[..len], len as u64).is_err());
    }
    for len in (0..BUNDLE.len()).step_by(61) {
        read_changed(&BUNDLE[..len]).unwrap();
    }
}

#[test]
fn every_flipped_bit_of_the_tree_is_read_as_it_was_or_refused() {
    let mut bundle = BUNDLE[..].to_vec();
    for bit in 0..8 * *TREE_LEN {
        bundle[bit / 8] ^= 1 << (bit % 8);
        read_changed(&bundle).unwrap();
        bundle[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn a_flipped_bit_in_one_vms_values_leaves_the_others() {
    let mut bundle = BUNDLE[..].to_vec();
    let at = bundle.windows(7).position(|bytes| bytes == b"console").unwrap();
    bundle[at] ^= 1;
    let bundle = Bundle::parse(&bundle, bundle.len() as u64).unwrap();
    let corrupt = Error { node: "linux", property: "hash-1", reason: Reason::Corrupt };
    assert_eq!(bundle.vms().collect::<Vec<_>>(), [Err(corrupt), Ok(VMS[1]), Ok(VMS[2])]);
    assert_eq!(corrupt.to_string(), "linux: hash-1: SHA-256 mismatch, the configuration is corrupt");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        rng_seed: RngSeed::Fixed(0x6d6f_6269),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn changed_words_are_read_as_they_were_or_refused(
        // Offsets in words, and values that are tokens of the format as often as not.
        changes in prop::collection::vec(
            (0..*TREE_LEN / 4, prop_oneof![0_u32..12, any::<u32>(), (0..*TREE_LEN as u32)]), 1..6),
    ) {
        let mut bundle = BUNDLE[..].to_vec();
        for (word, value) in changes {
            bundle[4 * word..4 * word + 4].copy_from_slice(&value.to_be_bytes());
        }
        read_changed(&bundle)?;
    }

    #[test]
    fn moved_parts_are_read_as_they_were_or_refused(
        from in 0..*TREE_LEN, to in 0..*TREE_LEN, len in 1_usize..512, cut in 0..BUNDLE.len(),
    ) {
        let mut bundle = BUNDLE[..].to_vec();
        bundle.copy_within(from..from + len.min(*TREE_LEN - from), to);
        read_changed(&bundle)?;
        bundle.truncate(cut);
        read_changed(&bundle)?;
    }

    #[test]
    fn noise_is_refused(noise in prop::collection::vec(any::<u8>(), 0..256)) {
        prop_assert!(Bundle::parse(&noise, noise.len() as u64).is_err());
    }
}
