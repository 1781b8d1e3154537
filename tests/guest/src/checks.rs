//! The checks. Each prints one line: `PASS name …` or `FAIL name …`.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use crate::cpu::{self, MAX_CPUS};
use crate::{gic, println, uart};

/// What the secondary vCPUs do.
static JOB: AtomicUsize = AtomicUsize::new(IDLE);
const IDLE: usize = 0;
const SPIN: usize = 1;
const TIMER: usize = 2;
const SGIS: usize = 3;
/// vCPUs that have done their part of the job.
static DONE: AtomicUsize = AtomicUsize::new(0);

/// Timer interrupts handled, by vCPU.
static FIRED: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];
/// How long the timer handler spins before it ends the interrupt, ticks.
static LINGER: AtomicU64 = AtomicU64::new(0);
/// How often each SGI came, by receiver and number.
static SGI: [[AtomicU32; 16]; MAX_CPUS] = [const { [const { AtomicU32::new(0) }; 16] }; MAX_CPUS];
/// SPIs in the order in which they came.
static SPI_ORDER: [AtomicU32; 128] = [const { AtomicU32::new(0) }; 128];
static SPI_COUNT: AtomicUsize = AtomicUsize::new(0);

/// The first SPI of the overflow check, and how many.
const SPI_FIRST: usize = 48;
const SPIS: usize = 64;
const TIMER_ROUNDS: usize = 20;
const SGI_ROUNDS: u32 = 50;

/// Called for each interrupt between its acknowledgement and its end.
pub fn interrupt(index: usize, intid: u32) {
    match intid {
        0..16 => _ = SGI[index][intid as usize].fetch_add(1, Ordering::AcqRel),
        27 | 30 => {
            cpu::arm(intid == 30, None);
            let until = cpu::ticks() + LINGER.load(Ordering::Relaxed);
            while cpu::ticks() < until {}
            FIRED[index].fetch_add(1, Ordering::AcqRel);
        }
        uart::INTID => uart::interrupt(),
        other => {
            let n = SPI_COUNT.fetch_add(1, Ordering::AcqRel);
            SPI_ORDER[n % SPI_ORDER.len()].store(other, Ordering::Release);
        }
    }
}

/// What vCPU 0 does: one command after the other.
pub fn main() -> ! {
    uart::init();
    println!("checks ready: vcpus={} gic={}", cpu::online(), if gic::v3() { 3 } else { 2 });
    let mut line = [0u8; 80];
    loop {
        let line = read_line(&mut line);
        let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "timer" => timer(),
            "wfi" => wfi(),
            "spis" => spis(),
            "sgis" => sgis(),
            "faults" => faults(),
            "psci" => psci(),
            "count" => count(argument),
            "spin" => JOB.store(SPIN, Ordering::Release),
            "off" => _ = cpu::call(false, 0x8400_0008, [0; 3]),
            "reset" => _ = cpu::call(true, 0x8400_0009, [0; 3]),
            "" => {}
            other => println!("unknown command {other}"),
        }
    }
}

/// What the other vCPUs do: the job of the moment, once each time it changes.
pub fn secondary(index: usize) -> ! {
    let mut last = IDLE;
    loop {
        let job = JOB.load(Ordering::Acquire);
        match job {
            TIMER if last != TIMER => timer_rounds(index),
            SGIS if last != SGIS => send_round(index),
            _ => {}
        }
        if job != last && (job == TIMER || job == SGIS) {
            DONE.fetch_add(1, Ordering::AcqRel);
        }
        last = job;
        core::hint::spin_loop();
    }
}

/// Runs `mine` here and the job on all other vCPUs; returns when all are done.
fn everywhere(job: usize, mine: impl FnOnce()) {
    DONE.store(0, Ordering::Release);
    JOB.store(job, Ordering::Release);
    mine();
    while DONE.load(Ordering::Acquire) < cpu::online() - 1 {
        core::hint::spin_loop();
    }
    JOB.store(IDLE, Ordering::Release);
}

fn verdict(ok: bool) -> &'static str {
    if ok { "PASS" } else { "FAIL" }
}

fn read_line(buffer: &mut [u8; 80]) -> &str {
    let mut len = 0;
    loop {
        match uart::take() {
            Some(b'\n' | b'\r') => return core::str::from_utf8(&buffer[..len]).unwrap_or(""),
            Some(byte) if len < buffer.len() => {
                buffer[len] = byte;
                len += 1;
            }
            _ => core::hint::spin_loop(),
        }
    }
}

/// Each vCPU's timer fires again and again although its handler takes longer than a time slice: it is pre-empted between
/// acknowledgement and end, and may end the interrupt on another CPU.
fn timer() {
    LINGER.store(cpu::micros(15_000), Ordering::Relaxed);
    everywhere(TIMER, || timer_rounds(0));
    LINGER.store(0, Ordering::Relaxed);
    let ok = FIRED[..cpu::online()].iter().all(|n| n.swap(0, Ordering::AcqRel) == TIMER_ROUNDS);
    println!("{} timer vcpus={} rounds={TIMER_ROUNDS}", verdict(ok), cpu::online());
}

fn timer_rounds(index: usize) {
    for round in 0..TIMER_ROUNDS {
        cpu::arm(false, Some(cpu::ticks() + cpu::micros(500)));
        let give_up = cpu::ticks() + cpu::micros(5_000_000);
        while FIRED[index].load(Ordering::Acquire) == round && cpu::ticks() < give_up {
            core::hint::spin_loop();
        }
    }
}

/// A vCPU in WFI is woken by its own timers, virtual and physical, and not early.
fn wfi() {
    let mut ok = true;
    for physical in [false, true, false, true] {
        let before = FIRED[0].load(Ordering::Acquire);
        let due = cpu::ticks() + cpu::micros(3_000);
        cpu::set_masked(true);
        cpu::arm(physical, Some(due));
        while FIRED[0].load(Ordering::Acquire) == before {
            aarch64_cpu::asm::wfi();
            cpu::set_masked(false);
            aarch64_cpu::asm::barrier::isb(aarch64_cpu::asm::barrier::SY);
            cpu::set_masked(true);
        }
        cpu::set_masked(false);
        ok &= cpu::ticks() >= due;
    }
    FIRED[0].store(0, Ordering::Release);
    println!("{} wfi", verdict(ok));
}

/// More pending SPIs than list registers: each comes once, by priority.
fn spis() {
    SPI_COUNT.store(0, Ordering::Release);
    let priority = |intid: usize| ((intid * 37 % 16) as u8) << 4 | 8;
    for intid in SPI_FIRST..SPI_FIRST + SPIS {
        gic::enable_spi(intid, priority(intid), true);
    }
    cpu::set_masked(true);
    for intid in SPI_FIRST..SPI_FIRST + SPIS {
        gic::set_pending(intid);
    }
    cpu::set_masked(false);
    let give_up = cpu::ticks() + cpu::micros(2_000_000);
    while SPI_COUNT.load(Ordering::Acquire) < SPIS && cpu::ticks() < give_up {
        core::hint::spin_loop();
    }
    let count = SPI_COUNT.load(Ordering::Acquire);
    let (mut seen, mut ordered, mut last) = (0u128, true, 0);
    for slot in &SPI_ORDER[..count.min(SPIS)] {
        let intid = slot.load(Ordering::Acquire);
        seen |= 1 << intid;
        ordered &= priority(intid as usize) >= last;
        last = priority(intid as usize);
    }
    let all = seen.count_ones() as usize == SPIS && count == SPIS;
    println!("{} spis count={count} distinct={} ordered={ordered}", verdict(all && ordered), seen.count_ones());
}

/// Every vCPU sends to every other one, and none is lost: each sender waits until its SGI has come before it sends the next.
fn sgis() {
    for row in &SGI {
        row.iter().for_each(|n| n.store(0, Ordering::Release));
    }
    everywhere(SGIS, || send_round(0));
    let n = cpu::online();
    let ok = (0..n).all(|to| (0..n).all(|from| SGI[to][from].load(Ordering::Acquire) == SGI_ROUNDS));
    println!("{} sgis vcpus={n} rounds={SGI_ROUNDS}", verdict(ok));
}

/// Sends SGI number `from` to everybody, itself too.
fn send_round(from: usize) {
    for round in 0..SGI_ROUNDS {
        for to in 0..cpu::online() {
            gic::send_sgi(to, from as u32);
            let give_up = cpu::ticks() + cpu::micros(5_000_000);
            while SGI[to][from].load(Ordering::Acquire) == round && cpu::ticks() < give_up {
                core::hint::spin_loop();
            }
        }
    }
}

/// What a guest must not do gets the architected answer, and the guest lives.
fn faults() {
    const DATA_ABORT: u64 = 0x25;
    const FETCH_ABORT: u64 = 0x21;
    const UNDEFINED: u64 = 0;
    let unmapped = cpu::probe(|| gic::read(0x0b00_0000));
    let below_ram = cpu::probe(|| gic::write(0x3fff_f000, 1));
    // SAFETY: the fetch faults; the handler returns to the caller.
    let fetch = cpu::probe(|| unsafe {
        core::arch::asm!("blr {}", in(reg) 0x0900_0000u64, clobber_abi("C"));
    });
    // SAFETY: registers that do not exist for this guest.
    let implementation_defined = cpu::probe(|| unsafe { core::arch::asm!("msr s3_1_c15_c2_0, xzr") });
    let debug = cpu::probe(|| gic::read(gic::distributor(0xf000)));
    let unknown_register = gic::read(gic::distributor(0x3c0));
    let ok = unmapped == Some(DATA_ABORT)
        && below_ram == Some(DATA_ABORT)
        && matches!(fetch, Some(FETCH_ABORT))
        && matches!(implementation_defined, Some(UNDEFINED) | Some(0x18) | None)
        && debug.is_none()
        && unknown_register == 0;
    println!(
        "{} faults unmapped={unmapped:?} below={below_ram:?} fetch={fetch:?} impdef={implementation_defined:?} gic={debug:?}",
        verdict(ok)
    );
}

/// PSCI answers, by HVC and by SMC.
fn psci() {
    let mut ok = true;
    for smc in [false, true] {
        ok &= cpu::call(smc, 0x8400_0000, [0; 3]) == 0x1_0001;
        ok &= cpu::call(smc, 0x8400_dead, [0; 3]) as i32 == -1;
        ok &= cpu::call(smc, 0xC400_0003, [0x1234_5600, 0x4008_0000, 0]) as i32 == -2;
        ok &= cpu::call(smc, 0xC400_0003, [0, 0x4008_0000, 0]) as i32 == -4;
        ok &= cpu::call(smc, 0xC400_0004, [0, 0, 0]) == 0;
    }
    println!("{} psci", verdict(ok));
}

/// Takes so many bytes of input while a timer interrupts all the time: their number and sum.
fn count(argument: &str) {
    let wanted: usize = argument.parse().unwrap_or(0);
    println!("counting {wanted}");
    let (mut got, mut sum) = (0, 0u32);
    while got < wanted {
        cpu::arm(false, Some(cpu::ticks() + cpu::micros(50)));
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
    cpu::arm(false, None);
    FIRED[0].store(0, Ordering::Release);
    println!("counted {got} sum={sum:08x}");
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("FAIL panic {info}");
    loop {
        aarch64_cpu::asm::wfi();
    }
}
