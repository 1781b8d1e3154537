//! Interrupts and time.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::everywhere;
use super::report::Check;
use crate::cpu::{self, MAX_CPUS};
use crate::{gic, println, time, uart};

/// Timer interrupts handled, by vCPU.
static FIRED: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
/// How long the timer handler spins before it turns the timer off, and again before it ends the interrupt, ticks.
static LINGER: AtomicU64 = AtomicU64::new(0);
/// When each vCPU's timer is due, and how long after that a handler began at the most, ticks.
static DUE: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];
static LATEST: AtomicU64 = AtomicU64::new(0);
/// Timers that fired early, or never.
static WRONG: AtomicUsize = AtomicUsize::new(0);
/// How often each SGI came, by receiver and number.
static SGI: [[AtomicU32; 16]; MAX_CPUS] = [const { [const { AtomicU32::new(0) }; 16] }; MAX_CPUS];
/// Spare SPIs in the order in which they came, each with the vCPU that took it in bits 31:16.
static ORDER: [AtomicU32; 128] = [const { AtomicU32::new(0) }; 128];
static ORDERED: AtomicUsize = AtomicUsize::new(0);

const FIRST: usize = gic::SPARE_SPI as usize;
/// SPIs of the overflow check: many more than any GIC has list registers.
const SPIS: usize = 64;
/// SPIs that are active at the same time.
const ACTIVE: usize = 20;
const TIMER_ROUNDS: usize = 20;
const SLEEPS: usize = 10;
const SGI_ROUNDS: u32 = 10;
/// The longest that something may take that is to happen at once, µs: vCPUs may have to wait for a CPU.
const PATIENCE: u64 = 10_000_000;
/// How long it takes to believe that something does not happen, µs.
const SETTLE: u64 = 2_000;

/// Called for each interrupt between its acknowledgement and its end.
pub fn interrupt(index: usize, intid: u32) {
    match intid {
        0..16 => _ = SGI[index][intid as usize].fetch_add(1, Ordering::AcqRel),
        _ if time::TIMERS.contains(&intid) => {
            let late = time::ticks().saturating_sub(DUE[index].load(Ordering::Relaxed));
            LATEST.fetch_max(late, Ordering::Relaxed);
            linger();
            time::arm(intid == time::TIMERS[1], None);
            linger();
            FIRED[index].fetch_add(1, Ordering::AcqRel);
        }
        uart::INTID => uart::interrupt(),
        other => {
            let n = ORDERED.fetch_add(1, Ordering::AcqRel);
            ORDER[n % ORDER.len()].store(other | (index as u32) << 16, Ordering::Release);
        }
    }
}

fn linger() {
    let until = time::ticks() + LINGER.load(Ordering::Relaxed);
    while time::ticks() < until {}
}

fn fired(index: usize) -> usize {
    FIRED[index].load(Ordering::Acquire)
}

/// How often a vCPU was sent an SGI.
fn received(index: usize, sgi: u32) -> u32 {
    SGI[index][sgi as usize].load(Ordering::Acquire)
}

/// Each vCPU's timers fire again and again, once each, although their handler takes longer than a time slice: it is pre-empted
/// between acknowledgement and end, with the timer's line still high or low again, and may end the interrupt on another CPU.
pub fn timer() {
    let mut check = Check::new("timer");
    LINGER.store(time::micros(8_000), Ordering::Relaxed);
    LATEST.store(0, Ordering::Relaxed);
    let before: [usize; MAX_CPUS] = core::array::from_fn(fired);
    everywhere(|index| (0..TIMER_ROUNDS).for_each(|round| one_shot(index, round % 2 == 1)));
    LINGER.store(0, Ordering::Relaxed);
    println!("timer: {} ms late at the most", LATEST.load(Ordering::Relaxed) / time::micros(1_000));
    for index in 0..cpu::online() {
        check.equal("interrupts", fired(index) - before[index], TIMER_ROUNDS);
    }
    check.equal("early or missing", WRONG.swap(0, Ordering::AcqRel), 0);
    check.verdict();
}

/// Waits for one interrupt of a timer, spinning.
fn one_shot(index: usize, physical: bool) {
    let before = fired(index);
    let due = time::ticks() + time::micros(500);
    DUE[index].store(due, Ordering::Relaxed);
    time::arm(physical, Some(due));
    let came = time::spin(PATIENCE, || fired(index) != before);
    if !came || time::ticks() < due {
        WRONG.fetch_add(1, Ordering::AcqRel);
    }
}

/// A vCPU in WFI is woken by its own timers, virtual and physical, due or overdue, and not early. All do it at the same time.
pub fn wfi() {
    let mut check = Check::new("wfi");
    everywhere(|index| {
        for round in 0..SLEEPS {
            let due = time::ticks() + if round < 2 { 0 } else { time::micros(1_000 * round as u64) };
            sleep_until(index, round % 2 == 1, due);
        }
    });
    check.equal("woken early", WRONG.swap(0, Ordering::AcqRel), 0);
    for _ in 0..1000 {
        let counts = [time::ticks(), time::physical_ticks(), time::ticks()];
        check.holds("the counters agree", counts.is_sorted());
    }
    check.verdict();
}

/// A vCPU in WFI is woken by its physical timer although its virtual one, due before that, cannot interrupt it: it has fired and was
/// disabled then, or it is due after more nanoseconds than 64 bits hold. All do it at the same time.
pub fn muted() {
    let mut check = Check::new("muted");
    everywhere(|index| {
        cpu::set_masked(true);
        time::arm(false, Some(time::ticks()));
        time::spin(SETTLE, || false);
        gic::set_private(index, time::TIMERS[0], false);
        nap(index, time::ticks() + time::micros(SETTLE));
        time::arm(false, None);
        gic::set_private(index, time::TIMERS[0], true);
        // The one that has fired may come now.
        time::spin(SETTLE, || false);
        nap(index, time::ticks() + time::micros(SETTLE) + time::wrap());
        time::arm(false, None);
    });
    check.equal("woken early", WRONG.swap(0, Ordering::AcqRel), 0);
    check.verdict();
}

/// Sleeps until the physical timer comes, with the virtual one due before it.
fn nap(index: usize, before_that: u64) {
    let due = time::ticks() + time::micros(4 * SETTLE);
    time::arm(false, Some(before_that));
    sleep_until(index, true, due);
}

/// Waits in WFI for one interrupt of a timer.
fn sleep_until(index: usize, physical: bool, due: u64) {
    let before = fired(index);
    time::arm(physical, Some(due));
    cpu::wait(|| fired(index) != before);
    if time::ticks() < due {
        WRONG.fetch_add(1, Ordering::AcqRel);
    }
}

/// Sleeps for so many seconds, as the other vCPUs do without end.
pub fn sleep(argument: &str) {
    let seconds: u64 = argument.parse().unwrap_or(0);
    let before = fired(0);
    time::arm(false, Some(time::ticks() + time::micros(seconds * 1_000_000)));
    cpu::wait(|| fired(0) != before);
    println!("slept {seconds}");
}

/// More pending SPIs than list registers: each comes once, by priority. Then SPIs for every vCPU: each comes to its own.
pub fn spis() {
    let mut check = Check::new("spis");
    // 15 priorities, all of them higher than the priority mask whatever number of bits it has.
    let priority = |intid: usize| (intid * 37 % 15) << 4;
    let vcpus = cpu::online();
    for spread in [false, true] {
        ORDERED.store(0, Ordering::Release);
        let target = |intid: usize| if spread { intid % vcpus } else { 0 };
        for intid in FIRST..FIRST + SPIS {
            gic::enable_spi(intid, target(intid), priority(intid) as u8, true);
        }
        cpu::set_masked(true);
        (FIRST..FIRST + SPIS).for_each(gic::set_pending);
        cpu::set_masked(false);
        time::spin(PATIENCE, || ORDERED.load(Ordering::Acquire) >= SPIS);
        time::spin(SETTLE, || false);
        let count = ORDERED.load(Ordering::Acquire);
        check.equal("SPIs", count, SPIS);
        let (mut seen, mut last, mut taken) = (0u128, 0, [0; MAX_CPUS]);
        for slot in &ORDER[..count.min(SPIS)] {
            let slot = slot.load(Ordering::Acquire);
            let (intid, index) = (slot as usize & 0xffff, slot as usize >> 16);
            seen |= 1 << intid;
            taken[index] += 1;
            check.equal("vCPU that took it", index, target(intid));
            check.holds("the most urgent comes first", spread || priority(intid) >= last);
            last = priority(intid);
        }
        let share = if spread { SPIS / vcpus } else { SPIS };
        check.equal("SPIs of vCPU 0", taken[0], share);
        check.holds("every vCPU has its share", !spread || taken[..vcpus].iter().all(|&n| n == share));
        check.equal("different SPIs", seen.count_ones() as usize, SPIS);
    }
    check.verdict();
}

/// More active SPIs than list registers: none comes again before it is deactivated, and each does afterwards.
pub fn split() {
    let mut check = Check::new("split");
    let range = FIRST..FIRST + ACTIVE;
    let count = |check: &mut Check, expected: usize| {
        time::spin(PATIENCE, || ORDERED.load(Ordering::Acquire) >= expected);
        time::spin(SETTLE, || false);
        check.equal("SPIs", ORDERED.load(Ordering::Acquire), expected);
    };
    ORDERED.store(0, Ordering::Release);
    range.clone().for_each(|intid| gic::enable_spi(intid, 0, 0x80, true));
    gic::set_split(true);
    range.clone().for_each(gic::set_pending);
    count(&mut check, ACTIVE);
    check.equal("active SPIs", range.clone().filter(|&intid| gic::is_active(intid)).count(), ACTIVE);
    range.clone().for_each(gic::set_pending);
    count(&mut check, ACTIVE);
    range.clone().rev().for_each(|intid| gic::deactivate(intid as u32));
    count(&mut check, 2 * ACTIVE);
    range.clone().for_each(|intid| gic::deactivate(intid as u32));
    check.equal("still active", range.clone().filter(|&intid| gic::is_active(intid)).count(), 0);
    gic::set_split(false);
    check.verdict();
}

/// Every vCPU sends to every other one and to itself, and none is lost: each sender waits until its SGI has come before it sends the
/// next.
pub fn sgis() {
    let mut check = Check::new("sgis");
    SGI.iter().flatten().for_each(|n| n.store(0, Ordering::Release));
    everywhere(|from| {
        for round in 1..=SGI_ROUNDS {
            for to in 0..cpu::online() {
                gic::send_sgi(to, from as u32);
                time::spin(PATIENCE, || received(to, from as u32) == round);
            }
        }
    });
    for to in 0..cpu::online() {
        for from in 0..cpu::online() {
            check.equal("SGIs", received(to, from as u32), SGI_ROUNDS);
        }
    }
    odd_targets(&mut check);
    check.verdict();
}

/// Lists with vCPUs that there are not, and SGIs to all and to all others: ICC_SGI1R_EL1 (Arm IHI 0069H, 12.2) and GICD_SGIR
/// (Arm IHI 0048B, 4.3.15).
fn odd_targets(check: &mut Check) {
    const SGI: u32 = 14;
    let [nobody, all, others]: [&[u64]; 3] = if gic::v3() {
        // An empty list; vCPUs beyond the last; another Aff1; another Aff3 and Aff2.
        [&[0, 0xff00, 1 << 16 | 0xffff, 1 << 48 | 1 << 32 | 0xffff], &[0xffff], &[1 << 40]]
    } else {
        [&[0, 0xf0 << 16], &[0xff << 16], &[1 << 24]]
    };
    let shift = if gic::v3() { 24 } else { 0 };
    for (targets, here, elsewhere) in [(nobody, 0, 0), (all, 1, 1), (others, 1, 2)] {
        targets.iter().for_each(|target| gic::send_sgi_raw(target | u64::from(SGI) << shift));
        for index in 0..cpu::online() {
            let expected = if index == 0 { here } else { elsewhere };
            time::spin(PATIENCE, || received(index, SGI) >= expected);
            time::spin(SETTLE, || false);
            check.equal("SGIs by a list", received(index, SGI), expected);
        }
    }
}

/// Takes so many bytes of input while a timer interrupts all the time: their number and sum.
pub fn count(argument: &str) {
    let wanted: usize = argument.parse().unwrap_or(0);
    println!("counting {wanted}");
    let (mut got, mut sum) = (0, 0u32);
    while got < wanted {
        time::arm(false, Some(time::ticks() + time::micros(50)));
        for _ in 0..32 {
            if let Some(byte) = uart::take() {
                got += 1;
                sum = sum.wrapping_mul(31).wrapping_add(u32::from(byte));
                if got == wanted {
                    break;
                }
            }
        }
    }
    time::arm(false, None);
    println!("counted {got} sum={sum:08x}");
}
