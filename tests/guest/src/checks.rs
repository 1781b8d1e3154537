//! The commands, and how the vCPUs share the work.

mod interrupts;
mod memory;
mod power;
mod report;
mod reservation;
mod stolen;
mod traps;

use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use crate::psci::{self, Conduit};
use crate::{cpu, gic, println, uart};

pub use interrupts::interrupt;

/// What all vCPUs are to do, a `fn(usize)`, and how often that was said.
static JOB: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static JOBS: AtomicUsize = AtomicUsize::new(0);
/// vCPUs that have done their part of the job.
static DONE: AtomicUsize = AtomicUsize::new(0);
/// vCPUs without work spin, instead of sleeping.
static BUSY: AtomicBool = AtomicBool::new(false);
/// The SGI that only wakes.
const WAKE: u32 = 15;

/// What vCPU 0 does: one command after the other.
pub fn main() -> ! {
    uart::init();
    println!("checks ready: vcpus={} gic={}", cpu::online(), if gic::v3() { 3 } else { 2 });
    let mut line = [0u8; 80];
    loop {
        let line = read_line(&mut line);
        let (name, argument) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "timer" => interrupts::timer(),
            "wfi" => interrupts::wfi(),
            "muted" => interrupts::muted(),
            "sleep" => interrupts::sleep(argument),
            "spis" => interrupts::spis(),
            "split" => interrupts::split(),
            "sgis" => interrupts::sgis(),
            "count" => interrupts::count(argument),
            "faults" => traps::faults(),
            "ids" => traps::ids(),
            "registers" => traps::registers(),
            "memory" => memory::memory(),
            "fp" => memory::fp(),
            "psci" => power::psci(),
            "power" => power::power(),
            "reserve" => reservation::reserve(argument),
            "stolen" => stolen::stolen(),
            "spin" => set_busy(),
            "semihosting" => traps::semihosting(),
            "crash" => traps::crash(),
            "off" => _ = psci::call(Conduit::Hvc, psci::SYSTEM_OFF, [0; 3]),
            "reset" => _ = psci::call(Conduit::Smc, psci::SYSTEM_RESET, [0; 3]),
            "off-all" => power::all_at_once(psci::SYSTEM_OFF),
            "reset-all" => power::all_at_once(psci::SYSTEM_RESET),
            "" => {}
            other => println!("unknown command {other}"),
        }
    }
}

/// What the other vCPUs do: each job after number `done`.
pub fn secondary(index: usize, mut done: usize) -> ! {
    loop {
        wait(|| job_number() != done);
        done = job_number();
        // SAFETY: JOB was stored as such a function, before the number changed.
        let job: fn(usize) = unsafe { core::mem::transmute(JOB.load(Ordering::Acquire)) };
        job(index);
        finish();
    }
}

/// This vCPU has done its part of the job.
fn finish() {
    DONE.fetch_add(1, Ordering::AcqRel);
}

/// The number of the last job.
pub fn job_number() -> usize {
    JOBS.load(Ordering::Acquire)
}

/// Runs a job on all vCPUs; returns when all are done.
fn everywhere(job: fn(usize)) {
    let others = cpu::online() - 1;
    DONE.store(0, Ordering::Release);
    JOB.store(job as *mut (), Ordering::Release);
    JOBS.fetch_add(1, Ordering::AcqRel);
    wake_others();
    job(0);
    while DONE.load(Ordering::Acquire) < others {
        cpu::relax();
    }
}

fn wake_others() {
    (1..cpu::online()).for_each(|to| gic::send_sgi(to, WAKE));
}

fn wait(condition: impl Fn() -> bool) {
    let done = || condition() || BUSY.load(Ordering::Relaxed);
    while !condition() {
        cpu::wait(done);
        cpu::relax();
    }
}

fn set_busy() {
    BUSY.store(true, Ordering::Release);
    wake_others();
}

fn read_line(buffer: &mut [u8; 80]) -> &str {
    let mut len = 0;
    loop {
        wait(uart::has_input);
        match uart::take() {
            Some(b'\n' | b'\r') => return core::str::from_utf8(&buffer[..len]).unwrap_or(""),
            Some(byte) if len < buffer.len() => {
                buffer[len] = byte;
                len += 1;
            }
            _ => {}
        }
    }
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("FAIL panic {info}");
    loop {
        aarch64_cpu::asm::wfi();
    }
}
