//! Address spaces, loans and dirty logging of three VMs against a map of pages.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const VMS: usize = 3;
const RAM: Ipa = Ipa(0x4000_0000);
const RAM_PAGES: u64 = 2 * 512;
const RWX: Rights = Rights::all();

/// Where loans are seen: one may begin in each block.
fn loan_ipa(slot: u64) -> Ipa {
    Ipa(0x8000_0000 + slot * BLOCK)
}

struct Machine {
    hw: Hw,
    dirty: DirtyMap,
    owners: Owners,
    vms: Vec<Stage2>,
    /// What each VM may do with which page, by IPA.
    pages: Vec<BTreeMap<u64, (Pa, Rights)>>,
    /// Which VMs' writes are logged, and what was written to their pages since they were collected.
    logging: [bool; VMS],
    written: [BTreeSet<u64>; VMS],
}

impl Machine {
    fn new() -> Self {
        let mut hw = Hw::new();
        let memory = PhysRange { start: Pa(16 * BLOCK), len: 8 * BLOCK };
        let free = FreeRanges::new([memory]);
        let dirty = DirtyMap::new(&free);
        let mut owners = Owners::new(free);
        let mut vmids = VmidAllocator::default();
        let mut vms = Vec::new();
        let mut pages = Vec::new();
        for vm in 0..VMS as u8 {
            let mut stage2 = Stage2::new(&mut hw, VmId(vm), vmids.alloc().unwrap()).unwrap();
            let [ram] = *owners.grant(VmId(vm), RAM_PAGES * PAGE).unwrap() else { panic!("not contiguous") };
            stage2.insert(Extent::ram(RAM, ram.start, ram.len)).unwrap();
            walk(RAM, |from| stage2.populate(&mut hw, from)).unwrap();
            pages.push(
                (0..RAM_PAGES).map(|n| (RAM.0 / PAGE + n, (Pa(ram.start.0 + n * PAGE), RWX))).collect(),
            );
            vms.push(stage2);
        }
        Self { hw, dirty, owners, vms, pages, logging: [false; VMS], written: Default::default() }
    }

    fn ram(&self, vm: usize) -> PhysRange {
        self.owners.owned(VmId(vm as u8)).next().unwrap()
    }

    fn loans(&self) -> Vec<Loan> {
        (0..VMS)
            .flat_map(|vm| self.owners.loans_of(VmId(vm as u8)).filter(move |l| l.lender == VmId(vm as u8)))
            .copied()
            .collect()
    }

    fn wrote(&mut self, pa: Pa) {
        let owner = (0..VMS).find(|&vm| self.ram(vm).contains(pa)).unwrap();
        if self.logging[owner] {
            self.written[owner].insert(pa.0 / PAGE);
        }
    }

    fn lend(&mut self, lender: usize, page: u64, pages: u64, borrower: usize, slot: u64, rights: Rights) {
        let range = PhysRange { start: Pa(self.ram(lender).start.0 + page * PAGE), len: pages * PAGE };
        let ipa = loan_ipa(slot);
        let ids = ipa.0 / PAGE..ipa.0 / PAGE + pages;
        let on_loan = self.loans().iter().any(|loan| loan.range.overlaps(range));
        let result = self.owners.lend(
            VmId(lender as u8),
            range,
            &mut self.vms[borrower],
            ipa,
            rights,
            self.logging[lender],
        );
        let expected = if lender == borrower {
            Some(LendError::SameVm)
        } else if !self.ram(lender).covers(range) {
            Some(LendError::NotOwner)
        } else if on_loan {
            Some(LendError::OnLoan)
        } else if self.pages[borrower].range(ids.clone()).next().is_some() {
            Some(LendError::Borrower(Error::Mapped))
        } else {
            None
        };
        assert_eq!(result.err(), expected);
        if expected.is_none() {
            let Self { vms, hw, .. } = self;
            walk(ipa, |from| vms[borrower].populate(hw, from)).unwrap();
            let new = |id: u64| (id, (Pa(range.start.0 + (id - ids.start) * PAGE), rights));
            self.pages[borrower].extend(ids.clone().map(new));
        }
    }

    /// Takes a loan back, in steps during each of which the borrower has the rest and no more.
    fn revoke(&mut self, loan: Loan, by: VmId) {
        let borrower = usize::from(loan.borrower.0);
        let first = loan.ipa.0 / PAGE;
        loop {
            let over = self.owners.revoke(&mut self.hw, by, loan.id, &mut self.vms[borrower]).unwrap();
            self.hw.check_idle();
            let id = loan.id;
            let rest =
                self.vms[borrower].extents().iter().find(|e| e.backing == Backing::Borrowed(id)).copied();
            let gone = rest.map_or(loan.range.len, |rest| rest.ipa.0 - loan.ipa.0);
            self.pages[borrower].retain(|id, _| !(first..first + gone / PAGE).contains(id));
            assert_eq!(over, rest.is_none());
            if over {
                break;
            }
        }
        assert!(self.owners.loans_of(loan.lender).all(|other| other.id != loan.id));
    }

    /// The guest writes to a page, as its CPU would.
    fn guest_write(&mut self, vm: usize, id: u64) {
        let ipa = Ipa(id * PAGE + 8);
        let expected = self.pages[vm].get(&id).copied();
        for _ in 0..10 {
            let mapping = self.vms[vm].lookup(&self.hw, ipa);
            if mapping.is_some_and(|m| m.rights.contains(Rights::WRITE) && !m.write_protected) {
                let pa = mapping.unwrap().pa;
                assert!(
                    expected
                        .is_some_and(|(page, rights)| page.0 == pa.0 - 8 && rights.contains(Rights::WRITE))
                );
                return self.wrote(pa);
            }
            match self.vms[vm].fault(&mut self.hw, &self.dirty, ipa, 0xFFFF_0000, Rights::WRITE) {
                Resolution::Retry => {}
                Resolution::Split => while !self.vms[vm].split(&mut self.hw, ipa).unwrap() {},
                Resolution::Unmapped => return assert_eq!(expected, None),
                Resolution::Permission => return assert!(!expected.unwrap().1.contains(Rights::WRITE)),
            }
            self.hw.check_idle();
        }
        panic!("retried without end");
    }

    /// EL2 writes to a page on behalf of the VM.
    fn el2_write(&mut self, vm: usize, id: u64) {
        struct Nowhere;
        impl PhysMem for Nowhere {
            fn read(&mut self, _: Pa, _: &mut [u8]) {}
            fn write(&mut self, _: Pa, _: &[u8]) {}
            fn zero(&mut self, _: Pa, _: usize) {}
            fn clean_to_poc(&mut self, _: Pa, _: usize) {}
            fn invalidate_icache(&mut self) {}
        }
        let mut phys = Nowhere;
        let done =
            GuestMem::new(&self.vms[vm], &self.dirty, &mut phys).write(Ipa(id * PAGE + PAGE - 1), &[7]);
        let allowed = self.pages[vm].get(&id).copied().filter(|(_, rights)| rights.contains(Rights::WRITE));
        assert_eq!(done.is_ok(), allowed.is_some());
        if let Some((pa, _)) = allowed {
            self.wrote(pa);
        }
    }

    /// The loans of a VM's pages, as (borrower, IPA).
    fn lent(&self, vm: usize) -> Vec<(usize, Ipa)> {
        let lent = self.loans().into_iter().filter(|loan| loan.lender == VmId(vm as u8));
        lent.map(|loan| (usize::from(loan.borrower.0), loan.ipa)).collect()
    }

    fn start_logging(&mut self, vm: usize) {
        for (user, ipa) in self.lent(vm).into_iter().chain([(vm, RAM)]) {
            let Self { vms, hw, .. } = self;
            walk(ipa, |from| vms[user].start_logging(hw, from)).unwrap();
            self.hw.check_idle();
        }
        self.logging[vm] = true;
        self.collect(vm);
        self.written[vm].clear();
    }

    fn stop_logging(&mut self, vm: usize) {
        for (user, ipa) in self.lent(vm).into_iter().chain([(vm, RAM)]) {
            self.vms[user].stop_logging(ipa).unwrap();
        }
        self.logging[vm] = false;
        self.written[vm].clear();
    }

    fn collect(&mut self, vm: usize) -> BTreeSet<u64> {
        let mut found = BTreeSet::new();
        let Self { vms, hw, dirty, .. } = self;
        let stage2 = &mut vms[vm];
        let mut next = Some(RAM);
        while let Some(from) = next {
            let mut ipas = Vec::new();
            next = stage2.collect_dirty(hw, dirty, from, |ipa| ipas.push(ipa)).unwrap();
            hw.check_idle();
            found.extend(ipas.iter().map(|&ipa| stage2.extent(ipa).unwrap().translate(ipa).0 / PAGE));
        }
        for (user, ipa) in self.lent(vm) {
            let Self { vms, hw, .. } = self;
            walk(ipa, |from| vms[user].start_logging(hw, from)).unwrap();
        }
        found
    }

    fn compare(&self) {
        for (vm, stage2) in self.vms.iter().enumerate() {
            let loans = (0..4 * 512).map(|n| loan_ipa(0).0 / PAGE + n);
            for id in (RAM.0 / PAGE - 1..=RAM.0 / PAGE + RAM_PAGES).chain(loans) {
                let found = stage2.lookup(&self.hw, Ipa(id * PAGE)).map(|m| (m.pa, m.rights));
                assert_eq!(found, self.pages[vm].get(&id).copied(), "VM {vm}, page {id:#x}");
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Lend { lender: usize, page: u64, pages: u64, borrower: usize, slot: u64, rights: Rights },
    Revoke { nth: usize, by_lender: bool },
    GuestWrite { vm: usize, id: u64 },
    El2Write { vm: usize, id: u64 },
    StartLogging(usize),
    StopLogging(usize),
    Collect(usize),
    Protect(usize, Rights),
}

fn op() -> impl Strategy<Value = Op> {
    let vm = || 0..VMS;
    let page = || prop_oneof![Just(0u64), Just(512), 0..RAM_PAGES + 10];
    let pages = prop_oneof![Just(512u64), 1u64..100, Just(RAM_PAGES)];
    let id = || {
        // Some pages again and again.
        let loaned = prop_oneof![0u64..4, 0u64..4 * 512].prop_map(|n| loan_ipa(0).0 / PAGE + n);
        let own = prop_oneof![0u64..4, 0..RAM_PAGES + 1].prop_map(|n| RAM.0 / PAGE + n);
        prop_oneof![own, loaned]
    };
    let rights = || (0u8..8).prop_map(Rights::from_bits_truncate);
    let lend = (vm(), page(), pages, vm(), 0u64..4, prop_oneof![Just(RWX), rights()]);
    prop_oneof![
        4 => lend.prop_map(|(lender, page, pages, borrower, slot, rights)| {
            Op::Lend { lender, page, pages, borrower, slot, rights }
        }),
        2 => (0usize..8, any::<bool>()).prop_map(|(nth, by_lender)| Op::Revoke { nth, by_lender }),
        12 => (vm(), id()).prop_map(|(vm, id)| Op::GuestWrite { vm, id }),
        2 => (vm(), id()).prop_map(|(vm, id)| Op::El2Write { vm, id }),
        3 => vm().prop_map(Op::StartLogging),
        1 => vm().prop_map(Op::StopLogging),
        5 => vm().prop_map(Op::Collect),
        1 => (vm(), rights()).prop_map(|(vm, rights)| Op::Protect(vm, rights)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn pages_are_seen_lent_and_logged_as_a_map_says(ops in prop::collection::vec(op(), 1..60)) {
        let mut m = Machine::new();
        for op in ops {
            match op {
                Op::Lend { lender, page, pages, borrower, slot, rights } => {
                    m.lend(lender, page, pages, borrower, slot, rights);
                }
                Op::Revoke { nth, by_lender } => {
                    if let Some(&loan) = m.loans().get(nth) {
                        m.revoke(loan, if by_lender { loan.lender } else { loan.borrower });
                    }
                }
                Op::GuestWrite { vm, id } => m.guest_write(vm, id),
                Op::El2Write { vm, id } => m.el2_write(vm, id),
                Op::StartLogging(vm) => m.start_logging(vm),
                Op::StopLogging(vm) => m.stop_logging(vm),
                Op::Collect(vm) if m.logging[vm] => {
                    let expected = core::mem::take(&mut m.written[vm]);
                    prop_assert_eq!(m.collect(vm), expected);
                }
                Op::Collect(_) => {}
                Op::Protect(vm, rights) => {
                    walk(RAM, |from| m.vms[vm].protect(&mut m.hw, from, rights)).unwrap();
                    let ids = RAM.0 / PAGE..RAM.0 / PAGE + RAM_PAGES;
                    m.pages[vm].range_mut(ids).for_each(|(_, page)| page.1 = rights);
                }
            }
            m.hw.check_idle();
        }
        m.compare();

        // The extents are all there is to know.
        let mut vmids = VmidAllocator::default();
        for vm in 0..VMS {
            let extents = m.vms[vm].extents().to_vec();
            let rebuilt = Stage2::rebuild(&mut m.hw, VmId(vm as u8), vmids.alloc().unwrap(), &extents).unwrap();
            let mut old = core::mem::replace(&mut m.vms[vm], rebuilt);
            m.compare();
            while !old.tables.destroy(&mut m.hw) {}
            m.hw.check_idle();
        }

        // VMs die one after the other, and leave nothing behind.
        for vm in 0..VMS {
            for loan in m.owners.loans_of(VmId(vm as u8)).copied().collect::<Vec<_>>() {
                prop_assert_eq!(m.owners.reclaim(VmId(vm as u8)).is_err(), true);
                m.revoke(loan, VmId(vm as u8));
            }
            while !m.vms[vm].destroy(&mut m.hw).unwrap() {}
            m.hw.check_idle();
            prop_assert_eq!(m.owners.reclaim(VmId(vm as u8)), Ok(()));
        }
        prop_assert_eq!(m.owners.free().total(), 8 * BLOCK);
        prop_assert_eq!(m.hw.in_use(), 0, "tables leak");
    }
}

/// One VM with a block of RAM that is populated, a device, and a block that is not populated yet.
fn one_vm() -> (Hw, Stage2, DirtyMap) {
    let mut hw = Hw::new();
    let mut stage2 = Stage2::new(&mut hw, VmId(0), vmid()).unwrap();
    stage2.insert(Extent::ram(RAM, Pa(BLOCK), BLOCK)).unwrap();
    stage2.insert(Extent::device(Ipa(0x0801_0000), Pa(0x0804_0000), 2 * PAGE)).unwrap();
    stage2.insert(Extent::ram(loan_ipa(0), Pa(2 * BLOCK), BLOCK)).unwrap();
    for ipa in [RAM, Ipa(0x0801_0000)] {
        walk(ipa, |from| stage2.populate(&mut hw, from)).unwrap();
    }
    (hw, stage2, DirtyMap::new(&FreeRanges::new([PhysRange { start: Pa(BLOCK), len: 2 * BLOCK }])))
}

#[test]
fn faults_are_told_apart() {
    let (mut hw, mut stage2, dirty) = one_vm();
    let mut fault = |ipa, access| stage2.fault(&mut hw, &dirty, Ipa(ipa), 0, access);
    assert_eq!(fault(0, Rights::READ), Resolution::Unmapped);
    assert_eq!(fault(u64::MAX, Rights::READ), Resolution::Unmapped);
    assert_eq!(fault(0x0801_0000, Rights::EXEC), Resolution::Permission);
    // Not populated yet, or broken for a moment when it was accessed.
    assert_eq!(fault(loan_ipa(0).0, Rights::WRITE), Resolution::Retry);
    assert_eq!(fault(RAM.0, Rights::WRITE), Resolution::Retry);
    assert!(!dirty.is_marked(Pa(BLOCK)));
}

#[test]
fn a_first_write_marks_one_page_without_a_full_invalidation() {
    let (mut hw, mut stage2, dirty) = one_vm();
    walk(RAM, |from| stage2.start_logging(&mut hw, from)).unwrap();
    let page = Ipa(RAM.0 + 3 * PAGE);
    assert_eq!(stage2.fault(&mut hw, &dirty, page, 0, Rights::READ), Resolution::Retry);
    assert_eq!(stage2.fault(&mut hw, &dirty, page, 0, Rights::WRITE), Resolution::Split);
    while !stage2.split(&mut hw, page).unwrap() {}
    hw.ipa_invalidations = 0;
    assert_eq!(stage2.fault(&mut hw, &dirty, page, 0, Rights::WRITE), Resolution::Retry);
    assert_eq!((hw.ipa_invalidations, hw.full_invalidations), (1, 0));
    let marked = (0..512).filter(|n| dirty.is_marked(Pa(BLOCK + n * PAGE)));
    assert_eq!(marked.collect::<Vec<_>>(), [3]);
    assert!(!stage2.lookup(&hw, page).unwrap().write_protected);
    assert!(stage2.lookup(&hw, RAM).unwrap().write_protected);
    hw.check_idle();
}

#[test]
fn a_collected_page_is_collected_again_when_written_again() {
    let (mut hw, mut stage2, dirty) = one_vm();
    walk(RAM, |from| stage2.start_logging(&mut hw, from)).unwrap();
    while !stage2.split(&mut hw, RAM).unwrap() {}
    for _ in 0..2 {
        assert!(stage2.lookup(&hw, RAM).unwrap().write_protected);
        stage2.fault(&mut hw, &dirty, RAM, 0, Rights::WRITE);
        assert!(!stage2.lookup(&hw, RAM).unwrap().write_protected);
        let mut found = Vec::new();
        walk(RAM, |from| stage2.collect_dirty(&mut hw, &dirty, from, |ipa| found.push(ipa))).unwrap();
        assert_eq!(found, [RAM]);
    }
}

#[test]
fn after_logging_blocks_become_writable_whole() {
    let (mut hw, mut stage2, dirty) = one_vm();
    walk(RAM, |from| stage2.start_logging(&mut hw, from)).unwrap();
    stage2.stop_logging(RAM).unwrap();
    assert_eq!(stage2.fault(&mut hw, &dirty, RAM, 0, Rights::WRITE), Resolution::Retry);
    let mapping = stage2.lookup(&hw, RAM).unwrap();
    assert_eq!((mapping.size, mapping.write_protected), (BLOCK, false));
    assert!(!dirty.is_marked(Pa(BLOCK)));
}

#[test]
fn extents_do_not_overlap_or_leave_the_address_space() {
    let (mut hw, mut stage2, _) = one_vm();
    for (ipa, len) in
        [(RAM.0, PAGE), (RAM.0 - PAGE, 2 * PAGE), (RAM.0 + BLOCK - PAGE, 2 * PAGE), (0, 1 << 39)]
    {
        assert_eq!(stage2.insert(Extent::ram(Ipa(ipa), Pa(0), len)), Err(Error::Mapped));
    }
    assert_eq!(stage2.insert(Extent::ram(Ipa(IPA_END), Pa(0), PAGE)), Err(Error::OutOfRange));
    assert_eq!(stage2.insert(Extent::ram(Ipa(0), Pa(u64::MAX - PAGE + 1), PAGE)), Err(Error::OutOfRange));
    let low = Extent::ram(Ipa(0), Pa(0), 2 * BLOCK);
    assert_eq!(stage2.insert(low), Ok(()));
    // Out of tables, a rebuild leaves nothing behind.
    let before = hw.in_use();
    hw.budget = 2;
    let extents = stage2.extents().to_vec();
    assert_eq!(Stage2::rebuild(&mut hw, VmId(0), vmid(), &extents).err(), Some(Error::OutOfTables));
    assert_eq!(hw.in_use(), before);
}
