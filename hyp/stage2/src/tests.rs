mod guest_mem;
mod hw;
mod owner;
mod phys;
mod space;
mod tables;

use crate::*;
use hw::Hw;

/// Runs the steps of a range operation; a step gets where it begins and what remains, and says how much it did.
fn steps<E>(ipa: Ipa, len: u64, mut step: impl FnMut(Ipa, u64) -> Result<u64, E>) -> Result<(), E> {
    let mut done = 0;
    while done < len {
        done += step(Ipa(ipa.0 + done), len - done)?;
    }
    Ok(())
}

/// Runs the steps of an extent operation.
fn walk<E>(from: Ipa, mut step: impl FnMut(Ipa) -> Result<Option<Ipa>, E>) -> Result<(), E> {
    let mut next = Some(from);
    while let Some(from) = next {
        next = step(from)?;
    }
    Ok(())
}

fn vmid() -> Vmid {
    VmidAllocator::default().alloc().unwrap()
}

#[test]
fn vmids_are_unique_and_run_out() {
    let mut vmids = VmidAllocator::default();
    let all: Vec<Vmid> = core::iter::from_fn(|| vmids.alloc()).collect();
    let numbers: std::collections::BTreeSet<u8> = all.iter().map(|vmid| vmid.get()).collect();
    assert_eq!(numbers, (1..=255).collect());
    assert_eq!(vmids.alloc(), None);
    vmids.free(all[76]);
    assert_eq!(vmids.alloc(), Some(all[76]));
    assert_eq!(vmids.alloc(), None);
}

#[test]
fn vtcr_has_the_architected_fields() {
    // The value for a Cortex-A72 (PARange 0b0100: 44 bits), put together by hand from the Arm ARM.
    assert_eq!(vtcr(4), 0x8004_3558);
    assert_eq!(vtcr(6) >> 16 & 7, 5);
}
