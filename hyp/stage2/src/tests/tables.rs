//! The tables against a map of single pages.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The tests work on four blocks around a GiB boundary, so across two level 2 tables.
const BASE: u64 = (3 << 30) - 2 * BLOCK;
const PAGES: u64 = 4 * 512;

type Model = BTreeMap<u64, (Pa, Kind, Rights, bool)>;

#[derive(Clone, Debug)]
enum Op {
    Map {
        page: u64,
        pages: u64,
        pa_page: u64,
        kind: Kind,
        rights: Rights,
        logging: bool,
    },
    Unmap {
        page: u64,
        pages: u64,
    },
    Protect {
        page: u64,
        pages: u64,
        rights: Rights,
        logging: bool,
    },
    /// Just one step.
    Split {
        page: u64,
    },
}

fn rights() -> impl Strategy<Value = Rights> {
    (0u8..8).prop_map(Rights::from_bits_truncate)
}

/// Ranges that begin or end at blocks more often than not.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let edge = || prop_oneof![(0u64..=4).prop_map(|block| block * 512), 0..=PAGES];
    (edge(), edge()).prop_map(|(a, b)| {
        let start = a.min(b).min(PAGES - 1);
        (start, (a.max(b) - start).max(1))
    })
}

fn op() -> impl Strategy<Value = Op> {
    let pa_page = prop_oneof![(0u64..64).prop_map(|block| block * 512), 0u64..0x1_0000_0000 / PAGE];
    let kind = prop_oneof![Just(Kind::Normal), Just(Kind::Device)];
    prop_oneof![
        (range(), pa_page, kind, rights(), any::<bool>()).prop_map(
            |((page, pages), pa_page, kind, rights, logging)| {
                Op::Map { page, pages, pa_page, kind, rights, logging }
            }
        ),
        range().prop_map(|(page, pages)| Op::Unmap { page, pages }),
        (range(), rights(), any::<bool>()).prop_map(|((page, pages), rights, logging)| Op::Protect {
            page,
            pages,
            rights,
            logging
        }),
        (0..PAGES).prop_map(|page| Op::Split { page }),
    ]
}

fn ipa(page: u64) -> Ipa {
    Ipa(BASE + page * PAGE)
}

fn apply(hw: &mut Hw, tables: &mut Tables, model: &mut Model, op: Op) {
    match op {
        Op::Map { page, pages, pa_page, kind, rights, logging } => {
            let mapped = steps(ipa(page), pages * PAGE, |at, len| {
                let pa = Pa(pa_page * PAGE + (at.0 - ipa(page).0));
                tables.map(hw, (at, pa, len), kind, rights, logging)
            });
            let logged = logging && rights.contains(Rights::WRITE);
            let free = (page..page + pages).take_while(|page| !model.contains_key(page)).count() as u64;
            assert_eq!(mapped, if free < pages { Err(Error::Mapped) } else { Ok(()) });
            let new = |n| (page + n, (Pa((pa_page + n) * PAGE), kind, rights, logged));
            model.extend((0..free).map(new));
        }
        Op::Unmap { page, pages } => {
            steps(ipa(page), pages * PAGE, |at, len| tables.unmap(hw, at, len)).unwrap();
            model.retain(|n, _| !(page..page + pages).contains(n));
        }
        Op::Protect { page, pages, rights, logging } => {
            steps(ipa(page), pages * PAGE, |at, len| tables.protect(hw, at, len, rights, logging)).unwrap();
            for (_, entry) in model.range_mut(page..page + pages) {
                (entry.2, entry.3) = (rights, logging && rights.contains(Rights::WRITE));
            }
        }
        Op::Split { page } => {
            tables.split(hw, ipa(page)).unwrap();
        }
    }
    hw.check_idle();
}

fn compare(hw: &Hw, tables: &Tables, model: &Model) {
    for page in 0..PAGES {
        let found = tables.lookup(hw, ipa(page)).map(|m| (m.pa, m.kind, m.rights, m.write_protected));
        assert_eq!(found, model.get(&page).copied(), "page {page}");
    }
    assert_eq!(tables.lookup(hw, Ipa(BASE - PAGE)), None);
    assert_eq!(tables.lookup(hw, ipa(PAGES)), None);
}

fn destroy(hw: &mut Hw, mut tables: Tables) {
    while !tables.destroy(hw) {
        hw.check_idle();
    }
    hw.check_idle();
    assert_eq!(hw.in_use(), 0, "tables leak");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn translate_like_a_map_of_pages(ops in prop::collection::vec(op(), 1..16)) {
        let mut hw = Hw::new();
        let mut tables = Tables::new(&mut hw, vmid()).unwrap();
        let mut model = Model::new();
        for op in ops {
            apply(&mut hw, &mut tables, &mut model, op);
        }
        compare(&hw, &tables, &model);
        destroy(&mut hw, tables);
    }

    #[test]
    fn survive_a_lack_of_memory(budget in 1usize..8, ops in prop::collection::vec(op(), 1..16)) {
        let mut hw = Hw::new();
        hw.budget = budget;
        let mut tables = Tables::new(&mut hw, vmid()).unwrap();
        for op in ops {
            let mut stuck = 0;
            let mut step = |result: Result<u64, Error>| {
                stuck += u64::from(result == Ok(0));
                assert!(stuck < 40, "a split without end");
                result
            };
            let _ = match op {
                Op::Map { page, pages, pa_page, kind, rights, logging } => {
                    steps(ipa(page), pages * PAGE, |at, len| {
                        step(tables.map(&mut hw, (at, Pa(pa_page * PAGE), len), kind, rights, logging))
                    })
                }
                Op::Unmap { page, pages } => {
                    steps(ipa(page), pages * PAGE, |at, len| step(tables.unmap(&mut hw, at, len)))
                }
                Op::Protect { page, pages, rights, logging } => steps(ipa(page), pages * PAGE, |at, len| {
                    step(tables.protect(&mut hw, at, len, rights, logging))
                }),
                Op::Split { page } => tables.split(&mut hw, ipa(page)).map(|_| ()),
            };
            hw.check_idle();
        }
        destroy(&mut hw, tables);
    }
}

const RWX: Rights = Rights::all();

#[test]
fn a_block_becomes_pages_by_break_before_make_while_it_translates() {
    let mut hw = Hw::new();
    let mut tables = Tables::new(&mut hw, vmid()).unwrap();
    tables.map(&mut hw, (ipa(0), Pa(BLOCK), BLOCK), Kind::Normal, RWX, false).unwrap();
    assert_eq!(tables.lookup(&hw, ipa(5)).unwrap().size, BLOCK);
    let mut steps = 1;
    while !tables.split(&mut hw, ipa(5)).unwrap() {
        assert_eq!(tables.lookup(&hw, ipa(5)).unwrap().size, BLOCK);
        steps += 1;
    }
    assert_eq!(steps, 512 / SPLIT_STEP);
    let page = tables.lookup(&hw, ipa(5)).unwrap();
    assert_eq!((page.pa, page.size, page.rights), (Pa(BLOCK + 5 * PAGE), PAGE, RWX));
}

#[test]
fn a_split_begins_again_when_its_block_has_changed() {
    let mut hw = Hw::new();
    let mut tables = Tables::new(&mut hw, vmid()).unwrap();
    tables.map(&mut hw, (ipa(0), Pa(BLOCK), BLOCK), Kind::Normal, RWX, false).unwrap();
    assert_eq!(tables.split(&mut hw, ipa(0)), Ok(false));
    tables.protect(&mut hw, ipa(0), BLOCK, Rights::READ, false).unwrap();
    while !tables.split(&mut hw, ipa(0)).unwrap() {}
    assert!((0..512).all(|page| tables.lookup(&hw, ipa(page)).unwrap().rights == Rights::READ));
    destroy(&mut hw, tables);
}

#[test]
fn steps_are_bounded_and_full_invalidations_rare() {
    let mut hw = Hw::new();
    let mut tables = Tables::new(&mut hw, vmid()).unwrap();
    let len = 512 << 20;
    let bounded = |hw: &mut Hw| {
        assert!(hw.writes <= STEP.max(SPLIT_STEP) as usize + 2, "{} stores in a step", hw.writes);
        assert!(hw.ipa_invalidations <= STEP as usize);
        (hw.writes, hw.ipa_invalidations) = (0, 0);
    };
    steps(ipa(0), len, |at, len| {
        let done = tables.map(&mut hw, (at, Pa(at.0 - BASE), len), Kind::Normal, RWX, false);
        bounded(&mut hw);
        done
    })
    .unwrap();
    // Half a block more than a block, both ends in the middle of one.
    for rights in [Rights::READ, RWX] {
        steps(ipa(256), BLOCK + BLOCK / 2, |at, len| {
            let done = tables.protect(&mut hw, at, len, rights, false);
            bounded(&mut hw);
            done
        })
        .unwrap();
    }
    assert_eq!(hw.full_invalidations, 0);
    while !tables.destroy(&mut hw) {
        bounded(&mut hw);
    }
    assert_eq!(hw.in_use(), 0);
}

#[test]
fn nonsense_is_refused() {
    let mut hw = Hw::new();
    let mut tables = Tables::new(&mut hw, vmid()).unwrap();
    let mut map = |ipa, pa, len| tables.map(&mut hw, (Ipa(ipa), Pa(pa), len), Kind::Normal, RWX, false);
    assert_eq!(map(1, 0, PAGE), Err(Error::Misaligned));
    assert_eq!(map(0, 1, PAGE), Err(Error::Misaligned));
    assert_eq!(map(0, 0, 0), Err(Error::Misaligned));
    assert_eq!(map(0, 0, PAGE + 1), Err(Error::Misaligned));
    assert_eq!(map(IPA_END, 0, PAGE), Err(Error::OutOfRange));
    assert_eq!(map(IPA_END - PAGE, 0, 2 * PAGE), Err(Error::OutOfRange));
    assert_eq!(map(0, (1 << 48) - PAGE, 2 * PAGE), Err(Error::OutOfRange));
    assert_eq!(map(0, u64::MAX - PAGE + 1, PAGE), Err(Error::OutOfRange));
    assert_eq!(map(u64::MAX - PAGE + 1, 0, PAGE), Err(Error::OutOfRange));
    assert_eq!(map(IPA_END - PAGE, (1 << 48) - PAGE, PAGE), Ok(PAGE));
    assert_eq!(tables.unmap(&mut hw, Ipa(1), PAGE), Err(Error::Misaligned));
    assert_eq!(tables.lookup(&hw, Ipa(IPA_END)), None);
    assert_eq!(tables.split(&mut hw, Ipa(u64::MAX)), Ok(true));
}

#[test]
fn descriptors_have_the_architected_bits() {
    let mut hw = Hw::new();
    let mut tables = Tables::new(&mut hw, vmid()).unwrap();
    let mut desc = |ipa, len, kind, rights, logging| {
        tables.map(&mut hw, (Ipa(ipa), Pa(0x4020_0000), len), kind, rights, logging).unwrap();
        let (at, ..) = tables.leaf(&hw, Ipa(ipa)).unwrap();
        hw.read(at)
    };
    // AF, inner shareable, S2AP read and write, MemAttr 0b1111.
    assert_eq!(desc(0, BLOCK, Kind::Normal, RWX, false), 0x4020_0000 | 0x7FD);
    assert_eq!(desc(BLOCK, PAGE, Kind::Normal, RWX, false), 0x4020_0000 | 0x7FF);
    // Not executable, MemAttr 0b0001.
    let rw = Rights::READ | Rights::WRITE;
    assert_eq!(desc(2 * BLOCK, PAGE, Kind::Device, rw, false), 1 << 54 | 0x4020_0000 | 0x7C7);
    // Write-protected for the log: S2AP read only, software bit 55.
    assert_eq!(desc(3 * BLOCK, PAGE, Kind::Normal, RWX, true), 1 << 55 | 0x4020_0000 | 0x77F);
    assert_eq!(tables.vttbr() >> 48, 1);
    assert_eq!(tables.vttbr() & 0x1FFF, 0, "the root is two concatenated tables, aligned to both");
}
