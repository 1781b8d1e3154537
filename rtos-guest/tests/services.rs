//! What applications have beyond tasks, semaphores and queues, in virtual time.

mod common;

use std::sync::atomic::{AtomicU32, Ordering};

use common::{Log, leak, spawn};
use embedded_hal::digital::{InputPin, OutputPin, StatefulOutputPin};
use embedded_hal::i2c::{ErrorKind, I2c, NoAcknowledgeSource, Operation};
use embedded_hal::spi::{self, SpiDevice};
use embedded_io::{Read, Write};
use mobi_rtos::flags::{Events, Flags};
use mobi_rtos::interrupt::{self, Deferred, Trigger};
use mobi_rtos::loopback::{I2cMemory, Spi};
use mobi_rtos::mutex::LockError;
use mobi_rtos::pv::channel::Local;
use mobi_rtos::pv::{Error, reservation};
use mobi_rtos::sem::TimedOut;
use mobi_rtos::time::{self, ExtU64, Instant};
use mobi_rtos::{Mailbox, Mutex, Semaphore, Timers, host, idle, task};
use proptest::prelude::*;

fn at(ticks: u64) -> Instant {
    Instant::from_ticks(ticks)
}

#[test]
fn a_mutex_lends_the_urgency_of_who_waits_for_it() {
    let log = Log::default();
    let outer = log.clone();
    host::run(move || {
        let shared = leak(Mutex::new(0));
        let [low, middle, high] = [log.clone(), log.clone(), log];
        spawn(9, move || {
            let mut guard = shared.lock();
            time::delay_until(at(10)); // All others are released meanwhile.
            *guard += 1;
            low.add("low in");
            drop(guard);
            low.add("low out");
        });
        spawn(5, move || {
            time::delay_until(at(10));
            middle.add("middle");
        });
        spawn(1, move || {
            time::delay_until(at(5));
            let mut guard = shared.lock();
            *guard += 1;
            high.add(format!("high {}", *guard));
        });
    });
    assert_eq!(outer.names(), ["low in", "high 2", "middle", "low out"]);
}

#[test]
fn a_lock_times_out_and_a_deadlock_is_found() {
    host::run(|| {
        let shared = leak(Mutex::new(()));
        spawn(9, || {
            let guard = shared.lock();
            assert_eq!(shared.lock_timeout(1.micros()).err(), Some(LockError::Deadlock));
            time::delay(100.micros());
            drop(guard);
        });
        spawn(1, || {
            time::delay(10.micros());
            assert!(shared.try_lock().is_none());
            assert_eq!(shared.lock_timeout(20.micros()).err(), Some(LockError::TimedOut));
            assert_eq!(time::now(), at(30_000));
            assert!(shared.lock_until(at(200_000)).is_ok());
            assert_eq!(time::now(), at(100_000));
        });
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn locking_twice_is_an_error() {
    host::run(|| {
        spawn(1, || {
            let shared = leak(Mutex::new(()));
            let _first = shared.lock();
            let _second = shared.lock();
        });
    });
}

#[test]
fn flags_wait_for_any_or_all_with_a_time_out() {
    const A: u32 = 1;
    const B: u32 = 2;
    host::run(|| {
        let flags = leak(Flags::new());
        spawn(1, || {
            assert_eq!(flags.wait_timeout(Events::any(A | B), 10.micros()), Err(TimedOut));
            assert_eq!(flags.wait(Events::any(A | B)), A);
            assert_eq!(flags.wait(Events::all(A | B).clear_on_exit()), A | B);
            assert_eq!((flags.get(), time::now()), (0, at(70_000)));
            assert_eq!(flags.poll(Events::any(A)), None);
        });
        spawn(2, || {
            time::delay(50.micros());
            flags.set(A);
            time::delay(20.micros());
            flags.set(B);
        });
    });
}

#[test]
fn a_mailbox_has_the_latest_message() {
    host::run(|| {
        let mailbox = leak(Mailbox::new());
        spawn(1, || {
            assert_eq!(mailbox.try_fetch(), None);
            assert_eq!(mailbox.fetch_timeout(1.micros()), Err(TimedOut));
            assert_eq!(mailbox.fetch(), 1);
            time::delay(10.micros());
            assert_eq!((mailbox.fetch(), mailbox.try_fetch()), (3, None));
        });
        spawn(2, || {
            time::delay(5.micros());
            assert_eq!(mailbox.post(1), None);
            assert_eq!(mailbox.post(2), None);
            assert_eq!(mailbox.try_post(4), Err(4));
            assert_eq!(mailbox.post(3), Some(2));
        });
    });
}

#[test]
fn timers_run_at_their_times_and_not_when_stopped() {
    static TIMERS: Timers<3> = Timers::new();
    static CALLS: std::sync::Mutex<Vec<(u64, char)>> = std::sync::Mutex::new(Vec::new());
    fn call(name: char) {
        CALLS.lock().unwrap().push((time::now().as_ticks(), name));
    }
    host::run_for(1.millis(), || {
        spawn(1, || TIMERS.run());
        spawn(2, || {
            let [a, b, c] = [|| call('a'), || call('b'), || call('c')].map(|f: fn()| TIMERS.add(f).unwrap());
            assert!(TIMERS.add(|| ()).is_err());
            a.start_periodic(at(100_000), 250.micros());
            b.start(at(350_000));
            c.start(at(500_000));
            c.start(at(50_000));
            time::delay_until(at(600_001));
            assert!(a.stop() && !a.stop() && !b.stop());
            b.start(at(700_000));
        });
    });
    let calls = std::mem::take(&mut *CALLS.lock().unwrap());
    assert_eq!(
        calls,
        [(50_000, 'c'), (100_000, 'a'), (350_000, 'a'), (350_000, 'b'), (600_000, 'a'), (700_000, 'b')]
    );
}

#[test]
fn a_late_timer_stays_on_its_grid() {
    static TIMERS: Timers<1> = Timers::new();
    static CALLS: std::sync::Mutex<Vec<u64>> = std::sync::Mutex::new(Vec::new());
    host::run_for(100.micros(), || {
        spawn(1, || TIMERS.run());
        spawn(2, || {
            let function = || {
                CALLS.lock().unwrap().push(time::now().as_ticks());
                time::delay(25.micros());
            };
            TIMERS.add(function).unwrap().start_periodic(at(10_000), 10.micros());
        });
    });
    // What is due while the function runs comes once, when it has ended; the next time is on the grid again.
    assert_eq!(*CALLS.lock().unwrap(), [10_000, 35_000, 60_000, 85_000]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    /// Whatever is set, in whatever order: every timer is called at its time, and in the order of the times.
    #[test]
    fn timers_are_called_in_order(dues in prop::collection::vec(1..1000_u64, 1..8)) {
        static CALLS: std::sync::Mutex<Vec<(usize, u64)>> = std::sync::Mutex::new(Vec::new());
        CALLS.lock().unwrap().clear();
        fn call<const N: usize>() {
            CALLS.lock().unwrap().push((N, time::now().as_ticks()));
        }
        let functions: [fn(); 8] = [call::<0>, call::<1>, call::<2>, call::<3>, call::<4>, call::<5>, call::<6>, call::<7>];
        let mut expected: Vec<_> = dues.iter().copied().enumerate().collect();
        host::run(move || {
            let timers = leak(Timers::<8>::new());
            spawn(1, || timers.run());
            for (due, function) in dues.into_iter().zip(functions) {
                timers.add(function).unwrap().start(at(due));
            }
        });
        expected.sort_by_key(|&(n, due)| (due, n));
        prop_assert_eq!(&*CALLS.lock().unwrap(), &expected);
    }
}

#[test]
fn a_deferred_interrupt_is_disabled_until_its_task_waits_again() {
    static LINE: Deferred = Deferred::new();
    let log = Log::default();
    let outer = log.clone();
    host::run(move || {
        interrupt::attach(50, Trigger::Level, &LINE).unwrap();
        let server = log.clone();
        spawn(1, move || {
            loop {
                LINE.wait();
                assert!(!host::raise(50), "it is disabled while it is served");
                server.add("served");
                time::delay(10.micros());
            }
        });
        spawn(2, move || {
            log.add("raise");
            assert!(host::raise(50));
            assert!(!host::raise(50));
            time::delay(10.micros());
            assert!(host::raise(50));
        });
    });
    assert_eq!(outer.names(), ["raise", "served", "served"]);
}

#[test]
fn the_idle_hook_is_called_when_nobody_can_run() {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    host::run(|| {
        idle::set_hook(|| _ = CALLS.fetch_add(1, Ordering::Relaxed));
        spawn(1, || {
            assert_eq!(CALLS.load(Ordering::Relaxed), 0);
            time::delay(1.micros());
            assert_eq!(CALLS.load(Ordering::Relaxed), 1);
        });
    });
}

#[test]
fn statistics_name_the_tasks() {
    host::run(|| {
        let seen = leak(Semaphore::new(0));
        spawn(3, || {
            time::delay(7.micros());
            seen.give();
        });
        spawn(4, || {
            seen.take();
            let all: Vec<_> = task::statistics().collect();
            let found: Vec<_> = all.iter().map(|s| (s.name, s.priority, s.switches, s.stack)).collect();
            assert_eq!(found, [("test", 4, 2, 4096), ("idle", 63, 1, 0)]);
            assert_eq!(
                all[1].cpu_time,
                7.micros::<1, 1_000_000_000>(),
                "time stands still but while all wait"
            );
        });
    });
}

#[test]
fn without_a_hypervisor_there_is_no_reservation_and_a_hint_is_harmless() {
    host::run(|| {
        spawn(1, || {
            assert_eq!(reservation::get(), Err(Error::NotSupported));
            assert_eq!(reservation::left(), Err(Error::NotSupported));
            reservation::job_done(at(500));
            time::delay_until(at(500));
            assert_eq!(time::now(), at(500));
        });
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    /// Whatever the sizes and priorities, all bytes arrive in order, and nobody sleeps for ever.
    #[test]
    fn a_channel_loses_nothing(
        writes in prop::collection::vec(1..1500_usize, 1..10),
        reads in prop::collection::vec(1..1500_usize, 1..10),
        reader_first: bool,
    ) {
        let local = leak(Local::new());
        let total: usize = writes.iter().sum();
        let received = leak(std::sync::Mutex::new(Vec::new()));
        host::run(move || {
            let (mut here, mut there) = local.ends().unwrap();
            assert!(local.ends().is_none());
            spawn(if reader_first { 1 } else { 3 }, move || {
                for size in reads.into_iter().cycle() {
                    let mut buffer = vec![0; size];
                    let count = there.read(&mut buffer).unwrap();
                    received.lock().unwrap().extend_from_slice(&buffer[..count]);
                }
            });
            spawn(2, move || {
                let mut bytes = (0..total).map(|n| (n * 7 % 251) as u8);
                for size in writes {
                    here.write_all(&bytes.by_ref().take(size).collect::<Vec<_>>()).unwrap();
                }
            });
        });
        let received = received.lock().unwrap();
        prop_assert_eq!(received.len(), total);
        prop_assert!(received.iter().enumerate().all(|(n, &byte)| byte == (n * 7 % 251) as u8));
    }
}

#[test]
fn pins_lead_to_the_other_end() {
    host::run(|| {
        let (here, there) = leak(Local::new()).ends().unwrap();
        let ((_, _, here), (_, _, there)) = (here.split(), there.split());
        let (mut out, mut other, mut back) = (here.output(3), here.output(4), there.output(3));
        spawn(1, move || {
            let mut input = there.input(3);
            assert!(input.is_low().unwrap());
            input.wait_for(true);
            assert_eq!(time::now(), at(20_000));
            input.wait_for(false);
            assert_eq!(time::now(), at(30_000));
            back.set_high().unwrap();
        });
        spawn(2, move || {
            time::delay(10.micros());
            other.set_high().unwrap();
            time::delay(10.micros());
            out.set_high().unwrap();
            assert!(out.is_set_high().unwrap() && other.is_set_high().unwrap());
            time::delay(10.micros());
            out.toggle().unwrap();
            assert!(here.input(3).is_high().unwrap() && here.input(4).is_low().unwrap());
        });
    });
}

#[test]
fn loopback_devices_answer_as_their_traits_say() {
    let mut words = [1, 2, 3];
    Spi.transfer_in_place(&mut words).unwrap();
    assert_eq!(words, [1, 2, 3]);
    let mut read = [9; 4];
    Spi.transaction(&mut [spi::Operation::Write(&[7]), spi::Operation::Transfer(&mut read, &[5, 6])])
        .unwrap();
    assert_eq!(read, [5, 6, 0, 0]);

    let mut bus = I2cMemory::<16>::new(0x50);
    assert_eq!(bus.write(0x51, &[0]), Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address)));
    bus.write(0x50, &[14, 1, 2, 3]).unwrap();
    bus.transaction(0x50, &mut [Operation::Write(&[4]), Operation::Write(&[8, 9])]).unwrap();
    let mut bytes = [0; 3];
    bus.write_read(0x50, &[14], &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3], "it wraps round");
    bus.write_read(0x50, &[4], &mut bytes[..2]).unwrap();
    assert_eq!(bytes[..2], [8, 9]);
}
