//! Free ranges against a map of blocks.

use super::*;
use proptest::prelude::*;

fn range(block: u64, blocks: u64) -> PhysRange {
    PhysRange { start: Pa(block * BLOCK), len: blocks * BLOCK }
}

fn blocks(range: PhysRange) -> core::ops::Range<usize> {
    (range.start.0 / BLOCK) as usize..(range.end() / BLOCK) as usize
}

proptest! {
    #[test]
    fn ranges_are_taken_and_given_back_whole(
        ops in prop::collection::vec((0u8..3, 0u64..40, 1u64..12), 1..60),
    ) {
        // Three areas of memory with holes between them.
        let areas = [range(0, 12), range(16, 8), range(25, 15)];
        let mut free = FreeRanges::new(areas);
        let mut is_free = [false; 40];
        areas.iter().for_each(|&area| is_free[blocks(area)].fill(true));
        let total = free.total();
        let mut taken = Vec::new();
        for (op, block, n) in ops {
            match op {
                0 => match free.alloc(n * BLOCK - 5) {
                    Ok(pieces) => {
                        prop_assert_eq!(pieces.iter().map(|piece| piece.len).sum::<u64>(), n * BLOCK);
                        let longest = is_free.split(|free| !free).map(<[bool]>::len).max().unwrap() as u64;
                        prop_assert_eq!(pieces.len() == 1, longest >= n, "contiguous if possible");
                        for piece in pieces {
                            prop_assert!(is_free[blocks(piece)].iter().all(|&free| free));
                            is_free[blocks(piece)].fill(false);
                            taken.push(piece);
                        }
                    }
                    Err(AllocError::OutOfMemory) => prop_assert!(free.total() < n * BLOCK),
                    Err(error) => prop_assert_eq!(error, AllocError::Fragmented),
                },
                1 => {
                    let wanted = range(block, n);
                    let there = is_free.get(blocks(wanted)).is_some_and(|blocks| blocks.iter().all(|&free| free));
                    prop_assert_eq!(free.alloc_at(wanted).is_ok(), there);
                    if there {
                        is_free[blocks(wanted)].fill(false);
                        taken.push(wanted);
                    }
                }
                _ if taken.is_empty() => {}
                _ => {
                    let back = taken.swap_remove(block as usize % taken.len());
                    free.free(back);
                    is_free[blocks(back)].fill(true);
                }
            }
            let mut listed = [false; 40];
            free.iter().for_each(|range| listed[blocks(range)].fill(true));
            prop_assert_eq!(listed, is_free);
            let apart = free.iter().zip(free.iter().skip(1)).all(|(a, b)| a.end() < b.start.0);
            prop_assert!(apart, "sorted and coalesced");
        }
        taken.into_iter().for_each(|range| free.free(range));
        prop_assert_eq!(free.total(), total);
        prop_assert_eq!(free.iter().count(), areas.len());
    }
}

#[test]
fn only_whole_blocks_are_used() {
    let odd = PhysRange { start: Pa(BLOCK / 2), len: 2 * BLOCK };
    let tiny = PhysRange { start: Pa(9 * BLOCK + 1), len: BLOCK };
    let wild = PhysRange { start: Pa(u64::MAX - 5), len: u64::MAX };
    let mut free = FreeRanges::new([odd, tiny, wild]);
    assert_eq!(free.iter().collect::<Vec<_>>(), [range(1, 1)]);
    assert_eq!(free.alloc(0), Err(AllocError::OutOfMemory));
    assert_eq!(free.alloc(u64::MAX), Err(AllocError::OutOfMemory));
    assert_eq!(free.alloc_at(PhysRange { start: Pa(BLOCK), len: PAGE }), Err(AllocError::NotFree));
    assert_eq!(free.alloc_at(PhysRange { start: Pa(BLOCK), len: 0 }), Err(AllocError::NotFree));
}

#[test]
fn too_many_pieces_are_none() {
    let mut free = FreeRanges::new((0..MAX_PIECES as u64 + 1).map(|i| range(2 * i, 1)));
    assert_eq!(free.alloc((MAX_PIECES as u64 + 1) * BLOCK), Err(AllocError::Fragmented));
    assert_eq!(free.total(), (MAX_PIECES as u64 + 1) * BLOCK);
    assert_eq!(free.alloc(MAX_PIECES as u64 * BLOCK).map(|pieces| pieces.len()), Ok(MAX_PIECES));
}
