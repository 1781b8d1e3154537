//! What the guest does, by the first word of its boot arguments, `n=` times:
//!
//! | role | measured between the marks |
//! |---|---|
//! | `hypercall` | PSCI_VERSION |
//! | `gicd` | a read of GICD_TYPER |
//! | `uart` | a read of the PL011's flags |
//! | `mmio` | each access to each emulated device register; the mark's value says which |
//! | `tick` | from arming the virtual timer to its interrupt, spinning; the mark's value is how late it came |
//! | `wfi` | the same, asleep, `ahead=` ns, from the time `from=` on, if it is given |
//! | `sgi` | from sending an SGI to oneself to its interrupt |
//! | `ipi` | from sending an SGI to another CPU, which spins, to its interrupt |
//! | `notify` | ringing the bell of the other end of the channel, every `ahead=` ns |
//! | `random` | one of [`KINDS`] each time, by chance (but always the same); the value of the mark of its beginning says which |
//! | `pause` | ten seconds of sleep |
//! | `latency` | an interrupt every `period=` ns; the mark's value is how late it came |
//! | `task` | `work=` ns of work, then `sleep=` ns of sleep; the mark's value is how late the end of the sleep came |
//! | `jobs` | a job of `work=` ns every `period=` ns, marked as such, from the time `at=` on; it prints how many missed their deadlines, the periods' ends |
//! | `list` | the same with the releases that the initial RAM disk lists, each with a deadline `deadline=` ns later; nothing is printed before the time `quiet=` |
//!
//! Work gives up the CPU's turn every `turn=` ns, 10,000 by default, where the emulator has several CPUs take turns.
//!
//! And the loads, which never end; they begin at the time `from=`, if it is given:
//!
//! | load | |
//! |---|---|
//! | `burn` | always runs, and marks and prints the time `until=`, if it is given |
//! | `bells` | the same, and takes the interrupts of its channel's bell |
//! | `idle` | sleeps for ever |
//! | `dodge` | runs for the first `work=` ns of each `period=` ns, and sleeps across its end |
//! | `timers`, `hypercalls`, `sgis`, `everything` | storms on each CPU |
//! | `ipis` | the first CPU sends SGIs to the others, which sleep |

use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use crate::mark::{BEGIN, DONE, END, JOB_BEGIN, JOB_END, OFF, ON, mark};
use crate::platform::{Gic, Platform};
use crate::{boot, mmio, println, psci, timer};

/// Interrupts handled.
static HANDLED: AtomicU64 = AtomicU64::new(0);
/// How late the last timer interrupt was, in ticks.
static LATENESS: AtomicU64 = AtomicU64::new(0);

/// The time between a storm's timer interrupts, ns.
const STORM_PERIOD: u64 = 5_000;
/// Instructions of a piece of work.
const WORK: u64 = 1_000;
/// Instructions after which another CPU may have its turn, where they have turns.
static TURN: AtomicU64 = AtomicU64::new(10_000);
/// Instructions of the least piece that is as cheap for the emulator as a long one.
const STEP: u64 = 100;

/// The hypervisor's call that rings a channel's bell (`hyp/abi`, `smccc::CHANNEL_NOTIFY`).
const CHANNEL_NOTIFY: u32 = 0xC600_0008;

/// The interrupt handler.
pub extern "C" fn irq() {
    let now = timer::now();
    let platform = boot::platform();
    platform.gic.handle(|intid| {
        if intid == platform.timer {
            LATENESS.store(now.saturating_sub(timer::due()), Ordering::Relaxed);
            timer::disarm();
        }
        HANDLED.fetch_add(1, Ordering::Release);
    });
}

/// What the first CPU does.
pub fn primary(platform: &Platform) -> ! {
    let role = platform.bootargs.split_ascii_whitespace().next().unwrap_or("");
    let n = platform.argument("n").unwrap_or(1000);
    let ahead = platform.argument("ahead").unwrap_or(20_000);
    if let Some(turn) = platform.argument("turn") {
        TURN.store(turn, Ordering::Relaxed);
    }
    boot::set_masked(false);
    match role {
        "hypercall" => repeat(n, count, |_| psci::call(platform.smc, psci::VERSION, [0; 3]) as u64),
        "gicd" => repeat(n, count, |_| mmio::read(platform.gic.distributor() + 4).into()),
        "uart" => repeat(n, count, |_| mmio::read(platform.uart.unwrap_or(0) + 0x18).into()),
        "mmio" => registers(platform),
        "tick" => ticks(n, ahead, spin_until),
        "wfi" => {
            wait_for_turn(platform);
            ticks(n, ahead, sleep_until);
        }
        "notify" => {
            let ahead = nanos(ahead);
            let pause = |_| {
                wake_at(timer::now() + ahead);
                0
            };
            repeat(n, pause, |_| psci::call(platform.smc, CHANNEL_NOTIFY, [0; 3]) as u64);
        }
        "random" => random(platform, n),
        "sgi" => interrupts(n, || platform.gic.send_sgi(platform.cpus[0], 0)),
        "ipi" => {
            boot::start(1);
            spin_until(1);
            interrupts(n, || platform.gic.send_sgi(platform.cpus[1], 1));
        }
        "pause" => repeat(n, count, |_| {
            let before = HANDLED.load(Ordering::Acquire);
            timer::arm(timer::now() + nanos(10_000_000_000));
            sleep_until(before + 1)
        }),
        "latency" => latency(n, platform.argument("period").unwrap_or(100_000)),
        "task" => {
            let [work, sleep] = ["work", "sleep"].map(|name| platform.argument(name).unwrap_or(100_000));
            task(n, work, nanos(sleep));
        }
        "jobs" => {
            let at = platform.argument("at").map_or_else(timer::now, nanos);
            let [period, work] = ["period", "work"].map(|name| platform.argument(name).unwrap_or(100_000));
            wake_at(at);
            println!("jobs begin");
            jobs((1..=n).map(|i| at + i * nanos(period)), nanos(period), work);
        }
        "list" => {
            let [deadline, work] = ["deadline", "work"].map(|name| platform.argument(name).unwrap_or(0));
            jobs(platform.initrd.iter().map(|at| nanos(u64::from_le_bytes(*at))), nanos(deadline), work);
        }
        load => {
            (1..platform.cpu_count).for_each(|index| _ = boot::start(index));
            run_load(platform, load)
        }
    }
    mark::<DONE>(0);
    println!("done: {} n={n}", platform.bootargs);
    boot::sleep()
}

/// What the others do: the same load as the first, or take interrupts.
pub fn secondary(platform: &Platform) -> ! {
    boot::set_masked(false);
    let role = platform.bootargs.split_ascii_whitespace().next().unwrap_or("");
    if role == "ipi" {
        HANDLED.fetch_add(1, Ordering::Release);
        loop {
            boot::relax();
        }
    }
    run_load(platform, role)
}

/// Measures `f` `n` times, after ten times unmeasured that fill whatever fills on first use. What `before`, which is not measured, and
/// `f` return goes with their marks.
fn repeat(n: u64, mut before: impl FnMut(u64) -> u64, mut f: impl FnMut(u64) -> u64) {
    for i in 0..10 {
        before(i);
        f(i);
    }
    mark::<ON>(0);
    for i in 0..n {
        mark::<BEGIN>(before(i));
        let value = f(i);
        mark::<END>(value);
    }
    mark::<OFF>(0);
}

/// Nothing is to be done before.
fn count(i: u64) -> u64 {
    i
}

/// The kinds of exits in a `random` mix: a hypercall, a read of GICD_TYPER, a read of any other of the distributor's registers, a timer
/// interrupt while spinning, one while asleep, an SGI to oneself.
const KINDS: u64 = 6;

/// A mix of exits in an order, and with pauses between them, that nothing is tuned for.
fn random(platform: &Platform, n: u64) {
    let chance = Cell::new(1u64);
    // Knuth's linear congruential generator (MMIX); its upper bits are the better ones.
    let draw = |below: u64| {
        let next =
            chance.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        chance.set(next);
        (next >> 33) % below
    };
    let (gicd, kind) = (platform.gic.distributor(), Cell::new(0));
    let choose = |_| {
        run_for(draw(10_000));
        kind.set(draw(KINDS));
        kind.get()
    };
    repeat(n, choose, |_| {
        let before = HANDLED.load(Ordering::Acquire);
        match kind.get() {
            0 => psci::call(platform.smc, psci::VERSION, [0; 3]) as u64,
            1 => mmio::read(gicd + 4).into(),
            2 => {
                let register = gicd + 0x80 + 4 * draw(0x3e0) as usize;
                _ = mmio::read(register);
                register as u64
            }
            3 => {
                timer::arm(timer::now() + nanos(20_000 + draw(5_000)));
                spin_until(before + 1)
            }
            4 => {
                timer::arm(timer::now() + nanos(20_000 + draw(5_000)));
                sleep_until(before + 1)
            }
            _ => {
                platform.gic.send_sgi(platform.cpus[0], 0);
                spin_until(before + 1)
            }
        }
    });
}

/// Causes an interrupt, and spins until it is handled.
fn interrupts(n: u64, cause: impl Fn()) {
    repeat(n, count, |_| {
        let before = HANDLED.load(Ordering::Acquire);
        cause();
        spin_until(before + 1)
    });
}

/// Arms the timer so many ns ahead each time, in phases that wander over whatever period there is, and waits for it.
fn ticks(n: u64, ahead: u64, wait: impl Fn(u64) -> u64) {
    repeat(n, count, |i| {
        let before = HANDLED.load(Ordering::Acquire);
        timer::arm(timer::now() + nanos(ahead + i * 337 % 5_003));
        wait(before + 1);
        LATENESS.load(Ordering::Relaxed)
    });
}

/// An interrupt every period, on a grid, slept for.
fn latency(n: u64, period: u64) {
    let (mut due, period) = (timer::now(), nanos(period));
    repeat(n, count, |_| {
        // One that was missed altogether is on the grid still: it is due at once.
        due += period;
        wake_at(due);
        LATENESS.load(Ordering::Relaxed)
    });
}

/// Works for `work` ns, and sleeps for `sleep` ticks from then on, however late that is.
fn task(n: u64, work: u64, sleep: u64) {
    repeat(n, count, |_| {
        run_for(work);
        let before = HANDLED.load(Ordering::Acquire);
        timer::arm(timer::now() + sleep);
        sleep_until(before + 1);
        LATENESS.load(Ordering::Relaxed)
    });
}

/// A task's jobs, with their releases and their relative deadline in ticks, of `work` ns each. A job that comes too late is done at
/// once, so that none is left out.
fn jobs(releases: impl Iterator<Item = u64>, deadline: u64, work: u64) {
    let (mut n, mut misses) = (0, 0);
    for release in releases {
        wake_at(release);
        mark::<JOB_BEGIN>(release);
        run_for(work);
        mark::<JOB_END>(release + deadline);
        n += 1;
        misses += u64::from(timer::now() > release + deadline);
    }
    if let Some(quiet) = boot::platform().argument("quiet") {
        wake_at(nanos(quiet));
    }
    println!("jobs={n} misses={misses}");
}

/// Sleeps until the time `from=`, if it is given.
fn wait_for_turn(platform: &Platform) {
    if let Some(from) = platform.argument("from") {
        wake_at(nanos(from));
    }
}

/// Sleeps until `at`, in ticks.
fn wake_at(at: u64) {
    let before = HANDLED.load(Ordering::Acquire);
    timer::arm(at);
    sleep_until(before + 1);
}

/// Ticks in so many nanoseconds.
fn nanos(ns: u64) -> u64 {
    (u128::from(ns) * u128::from(timer::frequency()) / 1_000_000_000) as u64
}

fn spin_until(handled: u64) -> u64 {
    while HANDLED.load(Ordering::Acquire) < handled {
        boot::relax();
    }
    handled
}

fn sleep_until(handled: u64) -> u64 {
    boot::set_masked(true);
    while HANDLED.load(Ordering::Acquire) < handled {
        boot::wfi();
        boot::set_masked(false);
        boot::set_masked(true);
    }
    boot::set_masked(false);
    handled
}

/// Reads every emulated register of every device, then writes to each what it says, and all ones and all zeros to those where that
/// does no harm, under each of [`STRAINS`]. The marks' value is the register's address, the access, and the strain from bit 40 on.
fn registers(platform: &Platform) {
    // Ones would turn interrupts off that the next measurement needs; there is none.
    boot::set_masked(true);
    mark::<ON>(0);
    for (n, strain) in (0..).zip(STRAINS) {
        each_register(platform, |at, freely| sweep(platform, strain, n << 40 | at as u64, at, freely));
    }
    mark::<OFF>(0);
}

/// What is done before each access of a sweep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strain {
    /// Nothing.
    None,
    /// All interrupts become pending, all at once.
    Crowd,
    /// The same, but four of the register's word come before, one by one, and are in a list register each.
    Listed,
    /// The same, and each of the four is acknowledged as it comes: they are active, one nested in the other.
    Nested,
}

const STRAINS: [Strain; 4] = [Strain::None, Strain::Crowd, Strain::Listed, Strain::Nested];

impl Strain {
    /// Does it, and then `f`, and ends what it has acknowledged.
    fn during(self, gic: Gic, at: usize, f: impl FnOnce()) {
        let word = at % 0x80 / 4;
        let word = if at & 0xc00 == 0x400 { at % 0x400 / 32 } else { word };
        let (mut acknowledged, mut n) = ([0; 4], 0);
        gic.restore();
        match self {
            Self::None => {}
            Self::Crowd => gic.crowd(None, || {}),
            Self::Listed => gic.crowd(Some(word), || {}),
            Self::Nested => gic.crowd(Some(word), || {
                if let (iar, true) = gic.acknowledge() {
                    acknowledged[n] = iar;
                    n += 1;
                }
            }),
        }
        f();
        acknowledged[..n].iter().rev().for_each(|&iar| gic.end(iar));
    }
}

/// Calls `f` with each register's address, and whether anything may be written to it.
fn each_register(platform: &Platform, f: impl Fn(usize, bool)) {
    let gicd = platform.gic.distributor();
    f(gicd, true); // GICD_CTLR
    for offset in (0x80..0x1000).chain(0x6000..0x6400).chain(0xffd0..0x1_0000).step_by(4) {
        // GICD_SGIR of a GICv2 would send.
        f(gicd + offset, offset < 0xf00);
    }
    if let Gic::V3 { gicr, .. } = platform.gic {
        for offset in (0..0x80).chain(0xffd0..0x1_0000).step_by(4) {
            f(gicr + offset, false);
        }
        for offset in (0x80..0x1000).step_by(4) {
            f(gicr + 0x1_0000 + offset, true);
        }
    }
    if let Some(uart) = platform.uart {
        for offset in (4..0x4c).chain(0xfe0..0x1000).step_by(4) {
            f(uart + offset, false);
        }
    }
}

fn sweep(platform: &Platform, strain: Strain, name: u64, at: usize, freely: bool) {
    let mut value = 0;
    strain.during(platform.gic, at, || {
        mark::<BEGIN>(name);
        value = mmio::read(at);
        mark::<END>(name);
    });
    let values = [value, !0, 0];
    for (access, value) in (1..).zip(&values[..if freely { 3 } else { 1 }]) {
        strain.during(platform.gic, at, || {
            mark::<BEGIN>(name | access);
            mmio::write(at, *value);
            mark::<END>(name | access);
        });
    }
}

/// A load that never ends.
fn run_load(platform: &Platform, role: &str) -> ! {
    boot::quiet();
    let hypercall = || _ = psci::call(platform.smc, psci::VERSION, [0; 3]);
    let own = boot::index();
    let sgi = || platform.gic.send_sgi(platform.cpus[own], own);
    // The timer fires again and again, at intervals that no period divides.
    let tick = || {
        let handled = HANDLED.load(Ordering::Acquire);
        timer::arm(timer::now() + nanos(STORM_PERIOD + handled * 337 % 1_009));
        handled
    };
    wait_for_turn(platform);
    if let ("bells", Some(bell)) = (role, platform.bell) {
        platform.gic.enable(bell);
    }
    match role {
        "bells" => loop {
            run_for(TURN.load(Ordering::Relaxed));
        },
        "burn" => {
            let turn = TURN.load(Ordering::Relaxed);
            if let (Some(until), 0) = (platform.argument("until"), own) {
                while timer::now() < nanos(until) {
                    run_for(turn);
                }
                mark::<DONE>(0);
                println!("done: {}", platform.bootargs);
            }
            loop {
                run_for(turn);
            }
        }
        "dodge" => {
            let [period, work] =
                ["period", "work"].map(|name| nanos(platform.argument(name).unwrap_or(100_000)));
            loop {
                let now = timer::now();
                match now % period {
                    phase if phase < work => run_for(STEP),
                    phase => wake_at(now - phase + period),
                }
            }
        }
        "hypercalls" => loop {
            hypercall();
        },
        "sgis" => loop {
            sgi();
        },
        "ipis" if own == 0 => loop {
            (1..platform.cpu_count).for_each(|to| platform.gic.send_sgi(platform.cpus[to], to));
            boot::relax();
        },
        "ipis" => loop {
            let handled = HANDLED.load(Ordering::Acquire);
            sleep_until(handled + 1);
        },
        "timers" => loop {
            sleep_until(tick() + 1);
        },
        "everything" => loop {
            let handled = tick();
            while HANDLED.load(Ordering::Acquire) == handled {
                hypercall();
                sgi();
                _ = mmio::read(platform.gic.distributor() + 4);
                run_for(WORK);
            }
        },
        "idle" => boot::sleep(),
        _ => {
            println!("FAIL no such role: {role:?}");
            boot::sleep()
        }
    }
}

/// Executes `work` instructions, rounded down to tens, and a few more: under `-icount shift=0` on one CPU it takes so many ns. On
/// several it lets the others have their turns.
fn run_for(work: u64) {
    let turn = TURN.load(Ordering::Relaxed);
    run_turns(work / turn, turn / STEP);
    run_steps::<{ STEP as usize - 2 }>(work % turn / STEP);
    run_steps::<8>(work % STEP / 10);
}

/// Executes `n` times `steps` times [`STEP`] instructions, of which one is a YIELD. There are two steps at least.
fn run_turns(n: u64, steps: u64) {
    if n > 0 {
        // SAFETY: counts down.
        unsafe {
            asm!(
                "0: sub {i}, {steps}, #1",
                "1: .rept {step} - 2", "nop", ".endr", "subs {i}, {i}, #1", "b.ne 1b",
                ".rept {step} - 4", "nop", ".endr", "yield", "subs {n}, {n}, #1", "b.ne 0b",
                step = const STEP, steps = in(reg) steps,
                i = out(reg) _, n = inout(reg) n => _, options(nomem, nostack),
            )
        };
    }
}

/// Executes `n` times `NOPS` instructions and two more. Long blocks cost the emulator the least.
#[inline(always)]
fn run_steps<const NOPS: usize>(n: u64) {
    if n > 0 {
        // SAFETY: counts down.
        unsafe {
            asm!(
                "0: .rept {nops}", "nop", ".endr", "subs {n}, {n}, #1", "b.ne 0b",
                nops = const NOPS, n = inout(reg) n => _, options(nomem, nostack),
            )
        };
    }
}
