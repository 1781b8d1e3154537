//! The demand test against the definition, the search against all partitions, and every refusal's words.

use super::demand::{Task, Verdict, test as demand_test};
use super::*;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

const FREE: Overhead = Overhead { irq_off_max: 0, vm_switch: 0 };
const VIRT: Overhead = Overhead { irq_off_max: 1_000, vm_switch: 800 };

fn cpus(n: usize) -> CpuSet {
    CpuSet::first(n)
}

fn book(n: usize, overhead: Overhead) -> Admission {
    Admission::new(cpus(n), overhead, Limits::HOST)
}

fn reserved(budget: Ns, period: Ns, deadline: Ns) -> Demand {
    Demand::Reserved(Reservation { budget, period, deadline })
}

/// Numbers the demands from vCPU 0; all may run everywhere.
fn anywhere(demands: &[Demand]) -> Vec<Request> {
    let request = |(n, &demand)| Request { vcpu: VcpuId(n as u16), affinity: CpuSet::ALL, demand };
    demands.iter().enumerate().map(request).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The processor-demand criterion as it is defined: every length up to the hyperperiod and the longest deadline. From
/// there on everything repeats, with no more demand than time.
fn meets_all_deadlines(tasks: &[Task], blocking: Ns) -> bool {
    let Some(shortest) = tasks.iter().map(|task| task.deadline).min() else { return true };
    let hyperperiod = tasks.iter().fold(1, |all, task| all / gcd(all, task.period) * task.period);
    let longest = tasks.iter().map(|task| task.deadline).max().unwrap_or(0);
    let demand = |length: Ns| -> Ns {
        let jobs = |task: &Task| (length + task.period - task.deadline) / task.period;
        tasks.iter().map(|task| jobs(task) * task.cost).sum()
    };
    let used: Ns = tasks.iter().map(|task| hyperperiod / task.period * task.cost).sum();
    used <= hyperperiod
        && (shortest..=hyperperiod + longest).all(|length| blocking + demand(length) <= length)
}

fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let task = (1_u64..=12).prop_flat_map(|period| {
        (1..=period).prop_flat_map(move |deadline| {
            (1..=deadline.div_ceil(2)).prop_map(move |cost| Task { cost, period, deadline })
        })
    });
    prop::collection::vec(task, 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn the_demand_test_says_what_the_definition_says(tasks in tasks(), blocking in 0_u64..4) {
        // A CPU without any spare time is refused without a closer look.
        let used: f64 = tasks.iter().map(|task| task.cost as f64 / task.period as f64).sum();
        let fits = meets_all_deadlines(&tasks, blocking) && used < 1.0 - 1e-6;
        // Enough for the least that can be spare with such periods.
        let verdict = demand_test(&tasks, blocking, 1_000_000);
        prop_assert_eq!(verdict, if fits { Verdict::Fits } else { Verdict::Misses });
    }

    #[test]
    fn who_is_admitted_fits_and_who_is_not_changes_nothing(
        set in prop::collection::vec(request(), 1..12),
        late in request(),
    ) {
        let requests: Vec<_> = set.iter().zip(0..).map(|(&r, n)| Request { vcpu: VcpuId(n), ..r }).collect();
        let mut book = book(3, Overhead { irq_off_max: 1, vm_switch: 1 });
        let before = format!("{book:?}");
        match book.admit(&requests) {
            Ok(()) => sound(&book, &requests)?,
            Err(_) => prop_assert_eq!(before, format!("{:?}", book)),
        }
        let before = book;
        if book.admit(&[Request { vcpu: VcpuId(60), ..late }]).is_ok() {
            for request in &requests {
                prop_assert_eq!(before.cpu_of(request.vcpu), book.cpu_of(request.vcpu));
            }
        }
    }

    #[test]
    fn a_smaller_effort_only_admits_less(set in prop::collection::vec(request(), 1..20)) {
        let requests: Vec<_> = set.iter().zip(0..).map(|(&r, n)| Request { vcpu: VcpuId(n), ..r }).collect();
        let overhead = Overhead { irq_off_max: 1, vm_switch: 1 };
        let (mut host, mut el2) = (book(3, overhead), Admission::new(cpus(3), overhead, Limits::EL2));
        let (on_host, at_el2) = (host.admit(&requests), el2.admit(&requests));
        match at_el2 {
            Ok(()) => prop_assert!(on_host.is_ok()),
            Err(refusal) if on_host.is_ok() => {
                let gave_up = matches!(refusal.reason, Reason::GaveUp { .. });
                prop_assert!(gave_up, "{}", refusal);
            }
            Err(_) => {}
        }
    }
}

fn request() -> impl Strategy<Value = Request> {
    let reservation = (10_u64..200, 1_u64..100, 50_u64..=100).prop_map(|(period, budget, deadline)| {
        let deadline = (period * deadline / 100).max(1);
        reserved((deadline * budget / 100).max(1), period, deadline)
    });
    let demand = prop_oneof![1 => Just(Demand::Share), 6 => reservation, 1 => Just(Demand::Exclusive)];
    (demand, 1_u64..8).prop_map(|(demand, affinity)| Request {
        vcpu: VcpuId(0),
        affinity: CpuSet(affinity),
        demand,
    })
}

/// Asserts what the book promises, from the definitions.
fn sound(book: &Admission, requests: &[Request]) -> Result<(), TestCaseError> {
    let on = |cpu| requests.iter().filter(move |request| book.cpu_of(request.vcpu) == Some(cpu));
    for cpu in cpus(3).iter() {
        let exclusive = on(cpu).any(|request| request.demand == Demand::Exclusive);
        prop_assert!(!exclusive || on(cpu).count() == 1);
        let reservations = on(cpu).filter_map(|request| match request.demand {
            Demand::Reserved(reservation) => Some(reservation),
            _ => None,
        });
        let used: f64 = reservations.clone().map(|r| r.budget as f64 / r.period as f64).sum();
        prop_assert!(used <= 0.95 + 1e-6);
        // Every deadline within ten of the longest periods; the definition's hyperperiod would be too long.
        let demand = |length: Ns| -> Ns {
            reservations.clone().map(|r| (length + r.period - r.deadline) / r.period * (r.budget + 2)).sum()
        };
        let shortest = reservations.clone().map(|r| r.deadline).min().unwrap_or(u64::MAX);
        prop_assert!((shortest..2000.max(shortest)).all(|length| demand(length) < length));
    }
    for request in requests {
        let cpu = book.cpu_of(request.vcpu);
        prop_assert_eq!(cpu.is_none(), request.demand == Demand::Share);
        prop_assert!(cpu.is_none_or(|cpu| request.affinity.contains(cpu)));
        let shared = CpuSet(cpus(3).0 & !book.exclusive().0);
        prop_assert!(request.demand != Demand::Share || !request.affinity.and(shared).is_empty());
    }
    Ok(())
}

/// Whether any partition of `set` onto `count` CPUs keeps all deadlines, by looking at all of them.
fn some_partition(set: &[Reservation], count: usize, overhead: Overhead) -> bool {
    let fits = |members: usize| {
        let member = |&n: &usize| members >> n & 1 != 0;
        let tasks = (0..set.len()).filter(member).map(|n| Task {
            cost: set[n].budget + 2 * overhead.vm_switch,
            period: set[n].period,
            deadline: set[n].deadline,
        });
        let used: f64 =
            (0..set.len()).filter(member).map(|n| set[n].budget as f64 / set[n].period as f64).sum();
        used <= 0.95
            && demand_test(&tasks.collect::<Vec<_>>(), overhead.irq_off_max, u32::MAX) == Verdict::Fits
    };
    let all = (1 << set.len()) - 1;
    let alone: Vec<_> = (0..=all).map(fits).collect();
    // Which subsets have a place on one CPU, on two, ...
    let mut placed = alone.clone();
    for _ in 1..count {
        let split = |members: usize| {
            (0..=members).any(|part| part & !members == 0 && alone[part] && placed[members & !part])
        };
        placed = (0..=all).map(split).collect();
    }
    placed[all]
}

/// Sets of seven reservations with periods of 0.5 to 50 ms that take 85 to 95 % of three CPUs in sum.
fn nearly_full() -> impl Strategy<Value = Vec<Reservation>> {
    let shape = (1_u64..100, 500_u64..50_000, 60_u64..=100);
    (prop::collection::vec(shape, 7), 850_u64..950).prop_map(|(shapes, permille)| {
        let sum: u64 = shapes.iter().map(|(part, ..)| part).sum();
        let reservation = |&(part, us, deadline): &(u64, u64, u64)| {
            let period = us * 1000;
            let budget = (period * part / sum * 3 * permille / 1000).clamp(1000, period * 9 / 10);
            Reservation { budget, period, deadline: (period * deadline / 100).max(budget + 5000).min(period) }
        };
        shapes.iter().map(reservation).collect()
    })
}

#[test]
fn at_least_95_percent_of_what_can_be_placed_is_placed() {
    let mut runner = TestRunner::deterministic();
    let (mut possible, mut host, mut el2) = (0, 0, 0);
    for _ in 0..1000 {
        let set = nearly_full().new_tree(&mut runner).unwrap().current();
        let demands: Vec<_> = set.iter().copied().map(Demand::Reserved).collect();
        let admits = |limits| Admission::new(cpus(3), VIRT, limits).admit(&anywhere(&demands)).is_ok();
        let (on_host, at_el2) = (admits(Limits::HOST), admits(Limits::EL2));
        if some_partition(&set, 3, VIRT) {
            possible += 1;
            host += u32::from(on_host);
            el2 += u32::from(at_el2);
        } else {
            assert!(!on_host && !at_el2, "{set:?}");
        }
    }
    println!("{possible} of 1000 can be placed: the host places {host}, EL2 {el2}");
    assert!(possible > 100, "{possible}");
    assert!(host * 100 >= possible * 95, "host: {host} of {possible}");
    assert!(el2 * 100 >= possible * 95, "EL2: {el2} of {possible}");
}

#[test]
fn rounding_costs_less_than_a_millionth_of_a_cpu() {
    // Thirds and sevenths are not whole billionths; the sum of 64 is too large by less than 64 of them.
    for period in [3_000, 7_000, 9_999_999_999] {
        let (budget, count) = (period / 70, 64);
        let exact = count as f64 * budget as f64 / period as f64;
        let rounded = count * Reservation { budget, period, deadline: period }.utilisation().0;
        assert!((0.0..1e-6).contains(&(rounded as f64 / 1e9 - exact)), "{period}");
    }
    // 95 % are admitted to the last nanosecond, and not one more.
    let mut book = book(1, FREE);
    book.admit(&anywhere(&[reserved(475_000, 1_000_000, 1_000_000); 2])).unwrap();
    let one_more =
        Request { vcpu: VcpuId(9), affinity: CpuSet::ALL, demand: reserved(1, 1_000_000_000, 1_000_000_000) };
    assert!(book.admit(&[one_more]).is_err());
}

#[test]
fn first_fit_decreasing() {
    let demands = [200, 500, 700, 300].map(|us| reserved(us * 1000, 1_000_000, 1_000_000));
    let mut book = book(4, VIRT);
    book.admit(&anywhere(&demands)).unwrap();
    // 700 to CPU 0, 500 to CPU 1, 300 to CPU 1, 200 to CPU 0.
    assert_eq!([0, 1, 2, 3].map(|v| book.cpu_of(VcpuId(v)).unwrap().0), [0, 1, 0, 1]);
    assert_eq!(book.load(CpuId(0)).reserved, Utilisation(900_000_000));
    book.remove(VcpuId(2));
    assert_eq!(book.load(CpuId(0)).reserved, Utilisation(200_000_000));
    assert_eq!(book.cpu_of(VcpuId(2)), None);
}

#[test]
fn exclusive_cpus_are_taken_from_the_top_and_leave_shares_a_cpu() {
    let mut requests =
        anywhere(&[Demand::Share, Demand::Exclusive, reserved(300, 1000, 1000), Demand::Exclusive]);
    // The share may only run on CPU 3.
    requests[0].affinity = CpuSet::only(CpuId(3));
    let mut book = book(4, FREE);
    book.admit(&requests).unwrap();
    assert_eq!(book.exclusive(), CpuSet(0b0110));
    assert_eq!(book.cpu_of(VcpuId(2)), Some(CpuId(0)));
    assert_eq!(book.cpu_of(VcpuId(0)), None);
}

#[test]
fn an_early_choice_is_revised() {
    // First fit puts 45 and 40 % together, and then one of the 25 % has no place.
    let sizes = [45, 40, 30, 25, 25, 25];
    let demands = sizes.map(|percent| reserved(percent * 10_000, 1_000_000, 1_000_000));
    let mut book = book(2, FREE);
    book.admit(&anywhere(&demands)).unwrap();
    assert_eq!(book.load(CpuId(0)).reserved, Utilisation(950_000_000));
    assert_eq!(book.load(CpuId(1)).reserved, Utilisation(950_000_000));
}

#[track_caller]
fn refused(book: &mut Admission, requests: &[Request], request: usize, text: &str) {
    let refusal = book.admit(requests).unwrap_err();
    assert_eq!((refusal.request, refusal.to_string().as_str()), (request, text));
}

#[test]
fn refusals_tell_over_capacity_from_no_partition_and_give_the_sums() {
    let ms = |us: Ns| reserved(us * 1000, 1_000_000, 1_000_000);
    refused(
        &mut book(2, VIRT),
        &anywhere(&[ms(600), ms(600), ms(600)]),
        2,
        "no partition found: 600us in every 1ms (60.00 %) fits nowhere, however the others are placed; \
         CPU 0 60.00 %, CPU 1 60.00 %, of 95.00 % that can be reserved",
    );
    refused(
        &mut book(2, VIRT),
        &anywhere(&[ms(700), ms(700), ms(700)]),
        2,
        "over capacity: CPU 0,1 are asked for 210.00 % reserved; \
         CPU 0 70.00 %, CPU 1 70.00 %, of 95.00 % that can be reserved",
    );
    let mut pinned = anywhere(&[ms(500), ms(500), ms(100)]);
    pinned[0].affinity = CpuSet::only(CpuId(1));
    pinned[1].affinity = CpuSet::only(CpuId(1));
    refused(
        &mut book(4, VIRT),
        &pinned,
        1,
        "over capacity: CPU 1 is asked for 100.00 % reserved; \
         CPU 0 0.00 %, CPU 1 50.00 %, CPU 2 0.00 %, CPU 3 0.00 %, of 95.00 % that can be reserved",
    );
    refused(
        &mut book(2, VIRT),
        &anywhere(&[Demand::Share, Demand::Exclusive, Demand::Exclusive]),
        2,
        "over capacity: CPU 0,1 are asked for 0.00 % reserved, 2 exclusive, 1 shared; \
         CPU 0 0.00 %, CPU 1 exclusive, of 95.00 % that can be reserved",
    );
    refused(
        &mut book(1, VIRT),
        &anywhere(&[reserved(90_000, 1_000_000, 92_000)]),
        0,
        "over capacity: not even an empty CPU has 90us in every 1ms by 92us (9.00 %), 1600ns for the switches of a job \
         and 1us with interrupts masked; CPU 0 0.00 %, of 95.00 % that can be reserved",
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = reserved(1, 2, 2);
    let mut requests = anywhere(&[good; 2]);
    requests[1].vcpu = VcpuId(64);
    let reason = |requests: &[Request]| book(2, FREE).admit(requests).unwrap_err().reason;
    assert_eq!(reason(&requests), Reason::OutOfRange);
    requests[1].vcpu = VcpuId(0);
    assert_eq!(reason(&requests), Reason::Exists);
    requests[0].affinity = CpuSet::only(CpuId(2));
    assert_eq!(reason(&requests), Reason::NoCpu);
    for demand in [reserved(0, 2, 2), reserved(2, 2, 1), reserved(1, 2, 3), reserved(1, MAX_PERIOD + 1, 2)] {
        assert_eq!(reason(&anywhere(&[demand])), Reason::Malformed, "{demand}");
    }
}

#[test]
fn a_test_that_runs_out_of_steps_says_so() {
    let tasks =
        [(40, 100, 60), (30, 101, 100)].map(|(cost, period, deadline)| Task { cost, period, deadline });
    assert_eq!(demand_test(&tasks, 0, 0), Verdict::GaveUp);
    assert_eq!(demand_test(&tasks, 0, 100), Verdict::Fits);
    let limits = Limits { demand_steps: 1, trials: 100 };
    let mut book = Admission::new(cpus(1), FREE, limits);
    let demands = [reserved(40, 100, 60), reserved(30, 101, 100), reserved(20, 103, 103)];
    let reason = book.admit(&anywhere(&demands)).unwrap_err().reason;
    assert!(matches!(reason, Reason::GaveUp { .. }), "{reason}");
}
