//! Hostile guests: whatever the syndrome registers, the registers and memory say, each exit ends in a defined answer.

use proptest::prelude::*;
use vgic::Version;

use crate::exit::{self, Exit};
use crate::handle::{Next, handle, hypercall, trap};
use crate::testing::Guest;

const CASES: u32 = 400;
const EXITS: usize = 100;

/// What one exit of a random guest is made of.
#[derive(Clone, Debug)]
struct Noise {
    esr: u64,
    far: u64,
    hpfar: u64,
    pstate: u64,
    gpr: (u8, u64),
    instruction: Option<u32>,
    translation: Option<u64>,
    tick: u64,
    room: usize,
}

/// An exception class that a guest can cause, with any syndrome: an abort near a device, a register access, or a call.
fn syndrome() -> impl Strategy<Value = u64> {
    let class =
        prop_oneof![Just(0x18u64), Just(0x24), Just(0x20), Just(0x16), Just(0x17), Just(0x01), 0u64..64];
    let random = (class, any::<u32>()).prop_map(|(ec, iss)| ec << 26 | u64::from(iss) & 0x3ff_ffff);
    prop_oneof![4 => random, 1 => Just(0x5a00_0000)]
}

fn address() -> impl Strategy<Value = u64> {
    let near = prop_oneof![
        Just(0x0800_0000u64),
        Just(0x080a_0000),
        Just(0x080b_0000),
        Just(0x0801_1000),
        Just(0x0900_0000),
        Just(0x4000_0000),
    ];
    prop_oneof![4 => (near, 0u64..0x1_0000).prop_map(|(base, offset)| base + offset), 1 => any::<u64>()]
}

fn call() -> impl Strategy<Value = u64> {
    let function = prop_oneof![
        0x8400_0000u64..0x8400_0020,
        0xc400_0000u64..0xc400_0020,
        0xc600_0000u64..0xc600_000a,
        Just(0x8600_ff01u64),
        Just(0x8000_0001),
        Just(0xc500_0020),
    ];
    prop_oneof![function, any::<u64>(), 0u64..100]
}

fn noise() -> impl Strategy<Value = Noise> {
    let guest = (syndrome(), address(), any::<u64>(), (0u8..31, call()), any::<Option<u32>>());
    let host = (any::<Option<u64>>(), 0u64..1 << 40, 0usize..60);
    (guest, host).prop_map(|((esr, ipa, pstate, gpr, instruction), (translation, tick, room))| Noise {
        esr,
        far: ipa,
        hpfar: ipa >> 8,
        pstate,
        gpr,
        instruction,
        translation,
        tick,
        room,
    })
}

/// Runs exits on a guest of three vCPUs, and on its twin, whose syndrome registers are not decoded beforehand. A VM that
/// ends is made anew.
fn run(version: Version, exits: &[(usize, Noise)]) {
    let mut guests = [Guest::new(3, version), Guest::new(3, version)];
    for (vcpu, noise) in exits {
        let nexts = [false, true].map(|decoded| {
            let guest = &mut guests[usize::from(decoded)];
            let mode = [0b0101, 0b0100, 0, 0b1_0000][noise.pstate as usize & 3];
            guest.state.pstate = noise.pstate & !0x1f | mode;
            guest.state.gprs[usize::from(noise.gpr.0)] = noise.gpr.1;
            guest.host.set(|m| {
                m.instruction = noise.instruction;
                m.translation = noise.translation;
                m.counter += noise.tick;
                m.room = noise.room;
                m.fault_address = (noise.far, noise.hpfar);
            });
            let Noise { esr, far, hpfar, .. } = *noise;
            guest.answer(*vcpu, |cx, state| match exit::class(esr) {
                _ if decoded => handle(cx, state, Exit::decode(esr, far, hpfar)),
                0x16 => hypercall(cx, state, esr),
                _ => trap(cx, state, esr),
            })
        });
        assert_eq!(nexts[0], nexts[1]);
        assert_eq!(guests[0].state, guests[1].state);
        if matches!(nexts[0], Some(Next::Power | Next::Crash(_))) {
            for guest in &mut guests {
                *guest = Guest::new(3, version);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]
    #[test]
    fn no_exit_panics(v3: bool, exits in prop::collection::vec((0usize..3, noise()), EXITS)) {
        run(if v3 { Version::V3 } else { Version::V2 }, &exits);
    }
}

/// Every call number with odd arguments, through both conduits.
#[test]
fn every_call_number_has_an_answer() {
    for owner in [0x8000_0000u64, 0x8400_0000, 0xc400_0000, 0xc500_0000, 0xc600_0000, 0x8600_ff00] {
        for number in 0..0x40 {
            for argument in [0, 1, u64::MAX] {
                let mut guest = Guest::v3();
                guest.state.gprs.fill(argument);
                guest.state.gprs[0] = owner + number;
                guest.trap(crate::Trap::Smc { imm: 0 });
            }
        }
    }
}

/// Every word of the devices, read and written, in every size.
#[test]
fn every_register_of_every_device_has_an_answer() {
    for version in [Version::V2, Version::V3] {
        let mut guest = Guest::new(2, version);
        let frames = [
            0x0800_0000u64..0x0801_0000,
            0x0801_1000..0x0801_2000,
            0x080a_0000..0x080e_0000,
            0x0900_0000..0x0900_1000,
        ];
        for ipa in frames.into_iter().flat_map(|frame| frame.step_by(4)) {
            for (size, write) in [(1, false), (2, true), (4, false), (4, true), (8, false), (8, true)] {
                let access = crate::exit::Access { size, rt: 1, sign_extend: false, wide: true };
                let abort =
                    crate::exit::DataAbort { access: Some(access), ..crate::testing::mmio(ipa, write) };
                guest.state.gprs[1] = u64::MAX;
                assert_eq!(guest.trap(crate::Trap::DataAbort(abort)), None);
            }
        }
    }
}
