//! What is refused, and how it is told. (What is granted and lent is tested with the address spaces.)

use super::*;

const RAM: Ipa = Ipa(0x4000_0000);

fn blocks(block: u64, blocks: u64) -> PhysRange {
    PhysRange { start: Pa(block * BLOCK), len: blocks * BLOCK }
}

/// VM 0 with four blocks from 8 on, and VMs 1 and 2 without anything.
fn machine() -> (Hw, Owners, [Stage2; 3]) {
    let mut hw = Hw::new();
    let mut owners = Owners::new(FreeRanges::new([blocks(8, 4)]));
    let mut vmids = VmidAllocator::default();
    let vms = [0, 1, 2].map(|vm| Stage2::new(&mut hw, VmId(vm), vmids.alloc().unwrap()).unwrap());
    assert_eq!(owners.grant_at(VmId(0), blocks(8, 4)), Ok(()));
    (hw, owners, vms)
}

fn lend(
    owners: &mut Owners,
    lender: u8,
    range: PhysRange,
    borrower: &mut Stage2,
) -> Result<LoanId, LendError> {
    owners.lend(VmId(lender), range, borrower, RAM, Rights::READ, false)
}

#[test]
fn memory_has_one_owner() {
    let (_, mut owners, _) = machine();
    assert_eq!(owners.grant_at(VmId(1), blocks(9, 1)), Err(GrantError::Alloc(AllocError::NotFree)));
    assert_eq!(owners.grant(VmId(1), 1), Err(GrantError::Alloc(AllocError::OutOfMemory)));
    assert_eq!(owners.owner(blocks(8, 4)), Some(VmId(0)));
    assert_eq!(owners.owner(blocks(11, 2)), None);
    assert_eq!(owners.reclaim(VmId(0)), Ok(()));
    assert_eq!(owners.owner(blocks(8, 4)), None);
    assert_eq!(owners.free().iter().collect::<Vec<_>>(), [blocks(8, 4)]);
}

#[test]
fn ranges_run_out_without_a_loss() {
    let mut owners = Owners::new(FreeRanges::new([blocks(0, 100)]));
    for _ in 0..MAX_OWNED {
        assert!(owners.grant(VmId(0), 1).is_ok());
    }
    assert_eq!(owners.grant(VmId(0), 1), Err(GrantError::TooManyRanges));
    assert_eq!(owners.grant_at(VmId(0), blocks(99, 1)), Err(GrantError::TooManyRanges));
    assert_eq!(owners.free().total(), (100 - MAX_OWNED as u64) * BLOCK);
}

#[test]
fn a_loan_needs_an_owner_and_another_borrower() {
    let (_, mut owners, [mut lender, mut borrower, _]) = machine();
    assert_eq!(lend(&mut owners, 0, blocks(8, 1), &mut lender), Err(LendError::SameVm));
    assert_eq!(lend(&mut owners, 2, blocks(8, 1), &mut borrower), Err(LendError::NotOwner));
    assert_eq!(lend(&mut owners, 0, blocks(11, 2), &mut borrower), Err(LendError::NotOwner));
    let endless = PhysRange { start: Pa(8 * BLOCK), len: u64::MAX };
    assert_eq!(lend(&mut owners, 0, endless, &mut borrower), Err(LendError::NotOwner));
    let odd = PhysRange { start: Pa(8 * BLOCK), len: 5 };
    assert_eq!(lend(&mut owners, 0, odd, &mut borrower), Err(LendError::Borrower(Error::Misaligned)));
    let none = PhysRange { start: Pa(8 * BLOCK), len: 0 };
    assert_eq!(lend(&mut owners, 0, none, &mut borrower), Err(LendError::Borrower(Error::Misaligned)));
    assert_eq!(owners.loans_of(VmId(0)).count(), 0);
    assert_eq!(borrower.extents(), []);
}

#[test]
fn a_page_is_lent_once_and_not_passed_on() {
    let (mut hw, mut owners, [_, mut one, mut two]) = machine();
    let id = lend(&mut owners, 0, blocks(8, 2), &mut one).unwrap();
    assert_eq!(lend(&mut owners, 0, blocks(9, 2), &mut two), Err(LendError::OnLoan));
    assert_eq!(lend(&mut owners, 1, blocks(8, 1), &mut two), Err(LendError::NotOwner));
    assert_eq!(lend(&mut owners, 0, blocks(10, 1), &mut one), Err(LendError::Borrower(Error::Mapped)));
    assert_eq!(owners.reclaim(VmId(0)), Err(id));
    assert_eq!(owners.reclaim(VmId(1)), Err(id));
    assert_eq!(one.destroy(&mut hw), Err(Error::Borrowed));
}

#[test]
fn only_the_parties_end_a_loan_and_only_once() {
    let (mut hw, mut owners, [_, mut one, mut two]) = machine();
    let id = lend(&mut owners, 0, blocks(8, 1), &mut one).unwrap();
    assert_eq!(owners.revoke(&mut hw, VmId(2), id, &mut one), Err(RevokeError::NotParty));
    assert_eq!(owners.revoke(&mut hw, VmId(0), id, &mut two), Err(RevokeError::NotBorrower));
    // It was never populated; that makes no difference.
    assert_eq!(owners.revoke(&mut hw, VmId(1), id, &mut one), Ok(true));
    assert_eq!(owners.revoke(&mut hw, VmId(1), id, &mut one), Err(RevokeError::NoLoan));
    let again = lend(&mut owners, 0, blocks(8, 1), &mut one).unwrap();
    assert_ne!(again, id);
}

#[test]
fn loans_and_extents_run_out() {
    let (_, mut owners, [_, mut one, mut two]) = machine();
    let mut page = 0;
    let mut lend = |owners: &mut Owners, to: &mut Stage2| {
        let range = PhysRange { start: Pa(8 * BLOCK + page * PAGE), len: PAGE };
        page += 1;
        owners.lend(VmId(0), range, to, Ipa(page * PAGE), Rights::READ, false).err()
    };
    for _ in 0..MAX_EXTENTS {
        assert_eq!(lend(&mut owners, &mut one), None);
    }
    assert_eq!(lend(&mut owners, &mut one), Some(LendError::Borrower(Error::TooManyExtents)));
    for _ in MAX_EXTENTS..MAX_LOANS {
        assert_eq!(lend(&mut owners, &mut two), None);
    }
    let mut three = Stage2::new(&mut Hw::new(), VmId(3), vmid()).unwrap();
    assert_eq!(lend(&mut owners, &mut three), Some(LendError::TooManyLoans));
    assert_eq!(three.extents(), []);
}
