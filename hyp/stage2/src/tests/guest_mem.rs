//! GuestMem against the same bytes laid out flat.

use super::*;
use proptest::prelude::*;

/// Physical memory from 0 on.
struct Flat {
    bytes: Vec<u8>,
    cleaned: Vec<bool>,
    icache_invalidations: usize,
}

impl Flat {
    fn new(len: u64) -> Self {
        let bytes = (0..len).map(|n| (n % 251) as u8).collect();
        Self { bytes, cleaned: vec![false; len as usize], icache_invalidations: 0 }
    }
}

fn at(pa: Pa, len: usize) -> core::ops::Range<usize> {
    pa.0 as usize..pa.0 as usize + len
}

impl PhysMem for Flat {
    fn read(&mut self, from: Pa, to: &mut [u8]) {
        to.copy_from_slice(&self.bytes[at(from, to.len())]);
    }

    fn write(&mut self, to: Pa, from: &[u8]) {
        self.bytes[at(to, from.len())].copy_from_slice(from);
    }

    fn zero(&mut self, pa: Pa, len: usize) {
        self.bytes[at(pa, len)].fill(0);
    }

    fn clean_to_poc(&mut self, pa: Pa, len: usize) {
        self.cleaned[at(pa, len)].fill(true);
    }

    fn invalidate_icache(&mut self) {
        self.icache_invalidations += 1;
    }
}

/// Guest memory is the pages 0 to 31.
const MEMORY: u64 = 32 * PAGE;

/// Extents: IPA page, PA page, pages, rights, device.
fn extents() -> impl Strategy<Value = Vec<Extent>> {
    let extent = (0u64..12, 0u64..28, 1u64..5, prop_oneof![3 => Just(7u8), 1 => 0u8..8], 0u8..8);
    prop::collection::vec(extent, 1..6).prop_map(|list| {
        let new = |(ipa, pa, pages, rights, device)| Extent {
            rights: Rights::from_bits_truncate(rights),
            backing: if device == 0 { Backing::Device } else { Backing::Owned },
            ..Extent::ram(Ipa(ipa * PAGE), Pa(pa * PAGE), pages * PAGE)
        };
        list.into_iter().map(new).collect()
    })
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Read,
    Write(u8),
    Zero,
    Clean,
}

fn op() -> impl Strategy<Value = (Op, u64, usize)> {
    let kind = prop_oneof![Just(Op::Read), any::<u8>().prop_map(Op::Write), Just(Op::Zero), Just(Op::Clean),];
    let len = prop_oneof![0usize..16, 0usize..4 * PAGE as usize];
    (kind, 0u64..17 * PAGE, len)
}

/// What one byte access comes to, said without GuestMem.
fn byte(extents: &[Extent], ipa: u64, needed: Rights) -> Result<usize, Reason> {
    let inside = |e: &&Extent| (e.ipa.0..e.ipa.0 + e.len).contains(&ipa);
    let extent = extents.iter().find(inside).ok_or(Reason::Unmapped)?;
    match extent {
        Extent { backing: Backing::Device, .. } => Err(Reason::Device),
        _ if !extent.rights.contains(needed) => Err(Reason::Forbidden),
        _ => Ok((extent.pa.0 + ipa - extent.ipa.0) as usize),
    }
}

proptest! {
    #[test]
    fn bytes_move_as_in_flat_memory(extents in extents(), ops in prop::collection::vec(op(), 1..12)) {
        let mut hw = Hw::new();
        let mut stage2 = Stage2::new(&mut hw, VmId(0), vmid()).unwrap();
        for extent in extents {
            let _ = stage2.insert(extent);
        }
        let memory = FreeRanges::new([PhysRange { start: Pa(0), len: BLOCK }]);
        let mut flat = Flat::new(MEMORY);
        let mut model = Flat::new(MEMORY);
        for (op, ipa, len) in ops {
            // A map for each operation, so that its marks are seen.
            let dirty = DirtyMap::new(&memory);
            let mut buffer = vec![0xEE; len];
            let mut done = 0;
            let fault = loop {
                let mut mem = GuestMem::new(&stage2, &dirty, &mut flat);
                let (next, rest) = (Ipa(ipa + done as u64), len - done);
                let result = match op {
                    Op::Read => mem.read(next, &mut buffer[done..]),
                    Op::Write(value) => mem.write(next, &vec![value; rest]),
                    Op::Zero => mem.find(next, rest).map(|(pa, len)| {
                        zero(&mut flat, &dirty, pa, len);
                        len
                    }),
                    Op::Clean => mem.clean_to_poc(next, rest),
                };
                match result {
                    Ok(piece) => {
                        let most = match op {
                            Op::Zero => BLOCK as usize,
                            Op::Clean => LINES,
                            Op::Read | Op::Write(_) => PIECE,
                        };
                        prop_assert!(piece <= most && (piece > 0 || rest == 0));
                        done += piece;
                    }
                    Err(fault) => break Some(fault),
                }
                if done == len {
                    break None;
                }
            };

            let needed = match op {
                Op::Read => Rights::READ,
                Op::Write(_) | Op::Zero => Rights::WRITE,
                Op::Clean => Rights::empty(),
            };
            let (mut expected, mut read) = (None, Vec::new());
            let mut pages = std::collections::BTreeSet::new();
            for n in 0..len.max(1) {
                let pa = match byte(stage2.extents(), ipa + n as u64, needed) {
                    Ok(_) if len == 0 => break,
                    Ok(pa) => pa,
                    Err(reason) => {
                        expected = Some(Fault { ipa: Ipa(ipa + n as u64), reason });
                        break;
                    }
                };
                match op {
                    Op::Read => read.push(model.bytes[pa]),
                    Op::Write(value) => model.bytes[pa] = value,
                    Op::Zero => model.bytes[pa] = 0,
                    Op::Clean => model.cleaned[pa] = true,
                }
                if needed == Rights::WRITE {
                    pages.insert(pa as u64 / PAGE);
                }
            }
            prop_assert_eq!(fault, expected);
            prop_assert!(buffer.starts_with(&read), "read something else");
            prop_assert_eq!(done as u64, expected.map_or(len as u64, |fault| fault.ipa.0 - ipa));
            prop_assert!(flat.bytes == model.bytes, "contents differ");
            prop_assert!(flat.cleaned == model.cleaned, "other lines cleaned");
            for page in 0..32 {
                prop_assert_eq!(dirty.is_marked(Pa(page * PAGE)), pages.contains(&page), "page {}", page);
            }
        }
    }
}

#[test]
fn invalidating_the_icache_reaches_the_hardware() {
    let mut hw = Hw::new();
    let stage2 = Stage2::new(&mut hw, VmId(0), vmid()).unwrap();
    let (dirty, mut flat) = (DirtyMap::new(&FreeRanges::new([])), Flat::new(0));
    GuestMem::new(&stage2, &dirty, &mut flat).invalidate_icache();
    assert_eq!(flat.icache_invalidations, 1);
}
