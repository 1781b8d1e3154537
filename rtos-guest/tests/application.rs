//! Whole applications in virtual time: the API as its users see it.

mod common;

use std::sync::{Arc, Mutex};

use common::{Log, leak, spawn};
use mobi_rtos::interrupt::{self, Trigger};
use mobi_rtos::sem::TimedOut;
use mobi_rtos::task::SpawnError;
use mobi_rtos::time::{self, Delay, Duration, ExtU64, Instant};
use mobi_rtos::{Priority, Queue, Semaphore, Task, host};

use embedded_hal::delay::DelayNs;
use proptest::prelude::*;

#[test]
fn tasks_run_in_order_of_priority_and_preempt_when_woken() {
    let log = Log::default();
    host::run(|| {
        let go = leak(Semaphore::new(0));
        for priority in [7, 3, 5] {
            let log = log.clone();
            spawn(priority, move || {
                go.take();
                log.add(format!("task {priority}"));
            });
        }
        let log = log.clone();
        spawn(4, move || {
            log.add("give");
            (0..3).for_each(|_| go.give());
            log.add("given");
        });
    });
    // 3 preempts the giver at once; 5 and 7 wait for its end.
    assert_eq!(log.names(), ["give", "task 3", "given", "task 5", "task 7"]);
}

#[test]
fn a_spawned_task_preempts_its_less_urgent_parent_and_memory_is_used_again() {
    let log = Log::default();
    let outer = log.clone();
    host::run(move || {
        spawn(10, move || {
            let task = leak(Task::<4096>::new());
            let child = log.clone();
            let run = move || {
                child.add("child");
                time::delay(1.micros());
            };
            assert_eq!(task.spawn("child", Priority::new(2), run), Ok(()));
            log.add("parent");
            assert_eq!(task.spawn("child", Priority::new(3), || ()), Err(SpawnError::StackInUse));
            let other = leak(Task::<4096>::new());
            assert_eq!(other.spawn("other", Priority::new(10), || ()), Err(SpawnError::PriorityInUse));
            time::delay(2.micros());
            // The child has ended: its priority and its stack are free again.
            assert_eq!(task.spawn("child", Priority::new(2), move || log.add("second child")), Ok(()));
        });
    });
    assert_eq!(outer.names(), ["child", "parent", "second child"]);
}

#[test]
fn a_periodic_task_stays_on_its_grid_and_delays_end_when_they_should() {
    let log = Log::default();
    let outer = log.clone();
    host::run_for(1.millis(), move || {
        let periodic = log.clone();
        spawn(1, move || {
            let mut release = Instant::from_ticks(0);
            loop {
                release += 250.micros();
                time::delay_until(release);
                periodic.add("period");
            }
        });
        spawn(2, move || {
            Delay.delay_us(300);
            Delay.delay_ns(7);
            log.add("delayed");
            time::delay_until(Instant::from_ticks(1));
            log.add("not delayed");
        });
    });
    let log = outer.take();
    let at = |what| log.iter().filter(move |(_, w)| w == what).map(|&(t, _)| t).collect::<Vec<_>>();
    assert_eq!(at("period"), [250_000, 500_000, 750_000, 1_000_000]);
    assert_eq!(at("delayed"), [300_007]);
    assert_eq!(at("not delayed"), [300_007]);
}

#[test]
fn time_outs() {
    host::run(|| {
        let sem = leak(Semaphore::new(0));
        let queue = leak(Queue::<u8, 1>::new());
        spawn(1, || {
            assert_eq!(sem.take_timeout(50.micros()), Err(TimedOut));
            assert_eq!(time::now().as_ticks(), 50_000);
            assert_eq!(sem.take_timeout(50.micros()), Ok(()));
            assert_eq!(time::now().as_ticks(), 70_000);
            assert_eq!(sem.take_until(Instant::from_ticks(10)), Err(TimedOut), "a deadline in the past");
            assert_eq!(queue.receive_timeout(10.micros()), Err(TimedOut));
            assert_eq!(queue.try_send(1), Ok(()));
            assert_eq!(queue.try_send(2), Err(2));
            assert_eq!(queue.send_timeout(3, 10.micros()), Err(3));
            assert_eq!(time::now().as_ticks(), 90_000);
            assert_eq!((queue.receive(), queue.try_receive()), (1, None));
        });
        spawn(2, || {
            time::delay_until(Instant::from_ticks(70_000));
            sem.give();
        });
    });
}

#[test]
fn interrupts_wake_tasks_and_a_handler_runs_to_its_end_first() {
    static SAMPLES: Queue<u32, 4> = Queue::new();
    static DONE: Semaphore = Semaphore::new(0);
    fn handler(intid: u32) {
        for n in 0..3 {
            SAMPLES.try_send(intid * 10 + n).unwrap();
        }
        DONE.give();
    }
    let log = Log::default();
    let outer = log.clone();
    host::run(move || {
        interrupt::attach(40, Trigger::Level, &handler).unwrap();
        assert!(interrupt::attach(40, Trigger::Edge, &handler).is_err());
        let receiver = log.clone();
        spawn(1, move || {
            for _ in 0..3 {
                let sample = SAMPLES.receive();
                assert!(DONE.try_take() || sample > 400, "the handler had not ended");
                receiver.add(sample.to_string());
            }
        });
        spawn(2, move || {
            host::raise(40);
            log.add("back");
        });
    });
    assert_eq!(outer.names(), ["400", "401", "402", "back"]);
}

#[test]
fn a_critical_section_postpones_the_switch() {
    let log = Log::default();
    let outer = log.clone();
    host::run(move || {
        let sem = leak(Semaphore::new(0));
        let woken = log.clone();
        spawn(1, move || {
            sem.take();
            woken.add("woken");
        });
        spawn(2, move || {
            critical_section::with(|_| {
                sem.give();
                log.add("inside");
            });
            log.add("after");
        });
    });
    assert_eq!(outer.names(), ["inside", "woken", "after"]);
}

#[test]
#[should_panic(expected = "critical section")]
fn waiting_in_a_critical_section_is_an_error() {
    host::run(|| spawn(1, || critical_section::with(|_| Semaphore::new(0).take())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever the priorities and paces of senders and receivers, each message arrives once, those of one sender in
    /// order.
    #[test]
    fn queues_lose_nothing(
        senders in prop::collection::vec((0..1000_u64, 1..40_u32), 1..4),
        receivers in prop::collection::vec(0..1000_u64, 1..4),
        mut priorities in Just((1..=6).collect::<Vec<u8>>()).prop_shuffle(),
    ) {
        let received = Arc::new(Mutex::new(Vec::new()));
        let expected: Vec<(usize, u32)> = senders.iter().enumerate().flat_map(|(s, &(_, n))| (0..n).map(move |m| (s, m))).collect();
        host::run(|| {
            let queue = leak(Queue::<(usize, u32), 3>::new());
            for (sender, (pace, messages)) in senders.into_iter().enumerate() {
                spawn(priorities.pop().unwrap(), move || {
                    for message in 0..messages {
                        queue.send((sender, message));
                        time::delay(Duration::from_ticks(pace));
                    }
                });
            }
            for pace in receivers.iter().copied() {
                let received = received.clone();
                spawn(priorities.pop().unwrap(), move || loop {
                    let message = queue.receive();
                    received.lock().unwrap().push(message);
                    time::delay(Duration::from_ticks(pace));
                });
            }
        });
        let mut received = received.lock().unwrap().clone();
        if receivers.len() == 1 {
            for sender in 0..3 {
                prop_assert!(received.iter().filter(|m| m.0 == sender).is_sorted());
            }
        }
        received.sort_unstable();
        prop_assert_eq!(received, expected);
    }
}
