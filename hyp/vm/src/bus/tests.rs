use proptest::prelude::*;
use vgic::Version;

use super::*;
use crate::testing::Guest;

fn map(version: Version, vcpus: usize) -> AddressMap {
    AddressMap::new(version, vcpus, core::iter::once(RAM_BASE..RAM_BASE + 0x1000_0000)).unwrap()
}

fn target(map: &AddressMap, ipa: u64) -> Option<Target> {
    map.find(ipa).map(|region| region.target)
}

#[test]
fn the_platform_is_where_qemu_has_it() {
    let v3 = map(Version::V3, 2);
    assert_eq!(target(&v3, 0x0800_0000), Some(Target::Device(Device::Gicd)));
    assert_eq!(target(&v3, 0x080d_ffff), Some(Target::Device(Device::Gicr)));
    assert_eq!(target(&v3, 0x080e_0000), None, "the third vCPU's redistributor");
    assert_eq!(target(&v3, 0x0801_0000), None);
    assert_eq!(target(&v3, 0x0900_0000), Some(Target::Device(Device::Uart)));
    assert!(v3.is_memory(0x4000_0000) && !v3.is_memory(0x3fff_ffff) && !v3.is_memory(0x5000_0000));

    let v2 = map(Version::V2, 2);
    assert!(v2.is_memory(0x0801_0000), "GICV");
    assert_eq!(target(&v2, 0x0801_1000), Some(Target::Device(Device::GiccDir)));
    assert_eq!(target(&v2, 0x080a_0000), None);
}

#[test]
fn empty_and_overlapping_regions_are_refused() {
    let with = |range: Range<u64>| AddressMap::new(Version::V3, 1, core::iter::once(range));
    assert!(with(0x0900_0fff..0x0900_2000).is_err());
    assert!(with(0x0700_0000..0x0800_0001).is_err());
    assert!(with(0x5000_0000..0x5000_0000).is_err());
    assert!(with(0x0900_1000..0x090a_0000).is_ok());
}

#[test]
fn registers_that_show_the_list_registers_look_at_them_first() {
    let mut guest = Guest::v3();
    guest.load(0x0800_0004);
    assert_eq!(guest.host.set(|m| m.observed), 0);
    guest.load(0x0800_0204);
    guest.load(0x080b_0380);
    guest.store(0x080b_0380, 1);
    assert_eq!(guest.host.set(|m| m.observed), 2);
}

proptest! {
    #[test]
    fn find_is_a_search(starts in prop::collection::btree_set(0u64..1000, 1..20), ipa in 0u64..0x5_0000) {
        // Pages from 0x1000 on, below all devices.
        let ranges: Vec<_> = starts.iter().map(|start| start * 0x100..start * 0x100 + 0x80).collect();
        let map = AddressMap::new(Version::V3, 1, ranges.iter().cloned()).unwrap();
        let expected = ranges.iter().find(|range| range.contains(&ipa));
        prop_assert_eq!(map.find(ipa).map(|region| &region.range), expected);
    }
}
