use proptest::prelude::*;

use super::*;

fn decode(word: u32) -> Option<(Instruction, bool, u8, i64)> {
    Instruction::decode(word)
}

fn instruction(
    size: u8,
    rt: u8,
    rt2: Option<u8>,
    extend: (bool, bool),
    writeback: Option<(u8, i64)>,
) -> Instruction {
    Instruction { size, rt, rt2, sign_extend: extend.0, wide: extend.1, writeback }
}

/// The words are the assembler's.
#[test]
fn single_registers_with_write_back() {
    // ldr w1, [x2], #4
    assert_eq!(
        decode(0xb840_4441),
        Some((instruction(4, 1, None, (false, false), Some((2, 4))), true, 2, 0))
    );
    // str x3, [x4, #-8]!
    assert_eq!(
        decode(0xf81f_8c83),
        Some((instruction(8, 3, None, (false, true), Some((4, -8))), false, 4, -8))
    );
    // ldrsh w5, [x6], #2
    assert_eq!(decode(0x78c0_24c5), Some((instruction(2, 5, None, (true, false), Some((6, 2))), true, 6, 0)));
    // ldrsb x5, [x6, #-1]!
    assert_eq!(
        decode(0x389f_fcc5),
        Some((instruction(1, 5, None, (true, true), Some((6, -1))), true, 6, -1))
    );
    // strb wzr, [x9], #1
    assert_eq!(
        decode(0x3800_153f),
        Some((instruction(1, 31, None, (false, false), Some((9, 1))), false, 9, 0))
    );
}

#[test]
fn pairs() {
    // ldp w1, w2, [x3]
    assert_eq!(decode(0x2940_0861), Some((instruction(4, 1, Some(2), (false, false), None), true, 3, 0)));
    // stp x1, x2, [x3, #16]!
    assert_eq!(
        decode(0xa981_0861),
        Some((instruction(8, 1, Some(2), (false, true), Some((3, 16))), false, 3, 16))
    );
    // ldpsw x1, x2, [x3], #8
    assert_eq!(
        decode(0x68c1_0861),
        Some((instruction(4, 1, Some(2), (true, true), Some((3, 8))), true, 3, 0))
    );
    // stnp w1, w2, [x3, #-8]
    assert_eq!(decode(0x283f_0861), Some((instruction(4, 1, Some(2), (false, false), None), false, 3, -8)));
}

#[test]
fn what_does_not_belong_on_a_device_is_refused() {
    for (word, text) in [
        (0xb840_47e1, "ldr w1, [sp], #4"),
        (0xf840_8421, "ldr x1, [x1], #8"),
        (0x885f_7c41, "ldxr w1, [x2]"),
        (0x3cc1_0440, "ldr q0, [x2], #16"),
        (0xa940_0441, "ldp x1, x1, [x2]"),
        (0xb821_0062, "ldadd w1, w2, [x3]"),
        (0xf863_6841, "ldr x1, [x2, x3]"),
        (0xf980_0040, "prfm pldl1keep, [x2]"),
        (0xb840_4841, "ldtr w1, [x2, #4]"),
        (0x6d00_0440, "stp d0, d1, [x2]"),
        (0, "udf #0"),
    ] {
        assert_eq!(decode(word), None, "{text}");
    }
}

#[test]
fn loads_extend_as_the_register_is_wide() {
    let load = |size, extend| instruction(size, 0, None, extend, None);
    assert_eq!(load(1, (false, false)).extend(0x1_80), 0x80);
    assert_eq!(load(1, (true, false)).extend(0x80), 0xffff_ff80);
    assert_eq!(load(1, (true, true)).extend(0x80), 0xffff_ffff_ffff_ff80);
    assert_eq!(load(4, (true, true)).extend(0x7fff_ffff), 0x7fff_ffff);
    assert_eq!(load(8, (false, true)).extend(u64::MAX), u64::MAX);
}

proptest! {
    #[test]
    fn every_word_decodes_to_something_sound(word: u32) {
        if let Some((instruction, _, base, offset)) = decode(word) {
            prop_assert!(matches!(instruction.size, 1 | 2 | 4 | 8));
            prop_assert!(base < 31);
            prop_assert!((-512..512).contains(&offset));
            prop_assert!(instruction.writeback.is_none_or(|(register, _)| register == base));
        }
    }
}
