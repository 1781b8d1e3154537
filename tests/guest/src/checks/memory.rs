//! Memory, caches, and the registers that are switched lazily if at all.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::everywhere;
use super::report::Check;
use crate::cpu::class_of;
use crate::time;

/// RAM that this program does not otherwise use: the last MiB of the 16 that every test has.
const SPARE: core::ops::Range<usize> = 0x40f0_0000..0x4100_0000;
/// It has been written to.
static DIRTY: AtomicBool = AtomicBool::new(false);

/// RAM is zero at first, holds what is written, survives the set/way maintenance of an old kernel, and runs what is written as code.
pub fn memory() {
    let mut check = Check::new("memory");
    let words = || SPARE.step_by(8).map(|at| at as *mut u64);
    if !DIRTY.swap(true, Ordering::AcqRel) {
        // SAFETY: aligned words of RAM that nothing else uses.
        check.holds("RAM is zero at first", words().all(|word| unsafe { word.read_volatile() } == 0));
    }
    for word in words() {
        // SAFETY: as above.
        unsafe { word.write_volatile(!(word as u64)) };
    }
    // Clean and invalidate, clean, invalidate set 0 and way 0 of level 1; the last must not lose data either, since a hypervisor
    // has to clean what a guest may not throw away.
    // SAFETY: no data is lost, as said.
    let maintenance = class_of(|| unsafe {
        asm!("dc cisw, {0}", "dc csw, {0}", "dc isw, {0}", "dsb sy", in(reg) 0u64, options(nostack));
    });
    check.equal("set/way maintenance", maintenance, None);
    // SAFETY: as above.
    check.holds(
        "RAM keeps its contents",
        words().all(|word| unsafe { word.read_volatile() } == !(word as u64)),
    );
    code(&mut check);
    check.verdict();
}

/// Two instructions.
#[repr(C, align(64))]
struct Code(UnsafeCell<[u32; 2]>);
// SAFETY: vCPU 0 alone uses it.
unsafe impl Sync for Code {}
static CODE: Code = Code(UnsafeCell::new([0; 2]));

/// Code that changes under way: `mov w0, #n; ret`.
fn code(check: &mut Check) {
    let at = CODE.0.get();
    for n in 0..100 {
        let result: u32;
        // SAFETY: what is written is a function that changes nothing but w0, and the maintenance makes it visible to fetches (Arm
        // ARM B2.4.4).
        unsafe {
            at.write_volatile([0x5280_0000 | n << 5, 0xd65f_03c0]);
            asm!("dc cvau, {0}", "dsb ish", "ic ivau, {0}", "dsb ish", "isb", "blr {0}", in(reg) at,
                lateout("x0") result, clobber_abi("C"));
        }
        check.equal("new code", result, n);
    }
}

/// Times that a vCPU's FP registers were not what it had put there.
static MIXED: AtomicUsize = AtomicUsize::new(0);
/// How long they are watched, µs.
const WATCH: u64 = 100_000;

/// All vCPUs keep patterns of their own in the FP registers: none sees another one's, nor another VM's.
pub fn fp() {
    let mut check = Check::new("fp");
    everywhere(|index| {
        let until = time::ticks() + time::micros(WATCH);
        let mut seed = time::ticks() << 8 | index as u64;
        while time::ticks() < until {
            seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            if !keep(seed) {
                MIXED.fetch_add(1, Ordering::AcqRel);
            }
        }
    });
    check.equal("mixed up", MIXED.swap(0, Ordering::AcqRel), 0);
    check.verdict();
}

/// Puts a pattern into all 32 registers, lets time pass, and looks whether it is still there.
fn keep(seed: u64) -> bool {
    let difference: u64;
    // SAFETY: this program uses no FP registers otherwise.
    unsafe {
        asm!(
            ".arch_extension fp",
            ".arch_extension simd",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            "add {t}, {seed}, #\\n",
            "dup v\\n\\().2d, {t}",
            ".endr",
            "mov {t}, #2000",
            "2: subs {t}, {t}, #1",
            "b.ne 2b",
            "mov {difference}, #0",
            ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31",
            ".irp half, 0,1",
            "umov {t}, v\\n\\().d[\\half]",
            "sub {t}, {t}, #\\n",
            "eor {t}, {t}, {seed}",
            "orr {difference}, {difference}, {t}",
            ".endr",
            ".endr",
            seed = in(reg) seed,
            t = out(reg) _,
            difference = out(reg) difference,
            options(nomem, nostack),
        );
    }
    difference == 0
}
