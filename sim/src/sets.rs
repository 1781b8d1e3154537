//! Machine files made from a seed, for tests: the same text for the simulator and for QEMU.

use rand::{RngExt, SeedableRng};
use rand_xorshift::XorShiftRng;
use sched::Ns;
use std::fmt::Write as _;

/// A job does a little less than its budget: EL2's work at its begin and end, and at an exit in between, may be the VM's own.
const MARGIN: Ns = 10_000;
const US: Ns = 1_000;

/// Reservations with periods of 0.5 to 50 ms that take 40 to 95 % of one to four `cpus` in sum, half of them with a deadline
/// before the period's end and half of them sporadic, beside two VMs with shares that use all that they can get.
pub fn machine_file(seed: u64, cpus: usize) -> String {
    let mut rng = XorShiftRng::seed_from_u64(seed);
    let mut text = header("task-set", seed);
    // With the two others there are sixteen VMs at most.
    let count = rng.random_range(2 * cpus..=(4 * cpus).min(14));
    let total = rng.random_range(0.4..0.95) * cpus as f64;
    for (n, utilisation) in utilisations(&mut rng, count, total).into_iter().enumerate() {
        let period = period(&mut rng);
        let budget = whole((period as f64 * utilisation) as Ns).max(20 * US);
        let deadline =
            if rng.random() { period } else { whole(rng.random_range(budget..=period)).max(budget) };
        let work = rng.random_range(budget / 2..=budget - MARGIN);
        let kind = if rng.random() { "periodic" } else { "sporadic" };
        vm(&mut text, &format!("rt{n}"), 1);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "schedule = {{ budget = \"{budget}ns\", period = \"{period}ns\", deadline = \"{deadline}ns\" }}\n\
             workload = {{ kind = \"{kind}\", work = \"{work}ns\", period = \"{period}ns\" }}"
        );
    }
    vm(&mut text, "busy", cpus);
    vm(&mut text, "io", 2);
    text + "workload = { kind = \"bursty\" }\n"
}

/// An RTOS with two to five tasks that take up to four fifths of its reservation, beside a reservation that is always used
/// up, so that 90 % of a CPU are reserved, and a busy VM.
pub fn rtos_file(seed: u64) -> String {
    let mut rng = XorShiftRng::seed_from_u64(seed);
    let mut text = header("rtos", seed);
    let server = whole(rng.random_range(500 * US..=5_000 * US));
    let share: f64 = rng.random_range(0.3..0.8);
    let budget = whole((server as f64 * share) as Ns);
    vm(&mut text, "rtos", 1);
    let _ = write!(
        text,
        "schedule = {{ budget = \"{budget}ns\", period = \"{server}ns\" }}\nworkload = {{ tasks = ["
    );
    let (count, load) = (rng.random_range(2..=5), rng.random_range(0.2..0.8) * share);
    for (n, utilisation) in utilisations(&mut rng, count, load).into_iter().enumerate() {
        let period = whole(rng.random_range(4 * server..=40 * server));
        let wcet = whole((period as f64 * utilisation) as Ns).max(10 * US);
        let _ =
            write!(text, " {{ wcet = \"{wcet}ns\", period = \"{period}ns\", priority = {} }},", count - n);
    }
    let _ = writeln!(text, " ] }}");
    vm(&mut text, "rival", 1);
    let period = period(&mut rng);
    let budget = whole((period as f64 * (0.9 - share)) as Ns).max(20 * US);
    let _ = writeln!(
        text,
        "schedule = {{ budget = \"{budget}ns\", period = \"{period}ns\" }}\nworkload = {{ kind = \"busy\" }}"
    );
    vm(&mut text, "busy", 2);
    text
}

fn header(kind: &str, seed: u64) -> String {
    format!("# Made from the seed {seed}.\n[machine]\nname = \"{kind}-{seed}\"\n")
}

fn vm(text: &mut String, name: &str, vcpus: usize) {
    let kernel = "rtos-guest:control-loop";
    let _ = writeln!(
        text,
        "\n[[vm]]\nname = \"{name}\"\nkernel = \"{kernel}\"\nmemory = \"16MiB\"\nvcpus = {vcpus}"
    );
}

/// Rounds down to microseconds.
fn whole(time: Ns) -> Ns {
    time / US * US
}

/// 0.5 to 50 ms, as many of each order of magnitude.
fn period(rng: &mut XorShiftRng) -> Ns {
    whole((0.5e6 * 100_f64.powf(rng.random())) as Ns)
}

/// `count` parts of `total`, all divisions equally likely, none above 0.9 (E. Bini and G. Buttazzo's UUniFast, "Measuring the
/// Performance of Schedulability Tests", Real-Time Systems 30, 2005; a division with too large a part is drawn again).
fn utilisations(rng: &mut XorShiftRng, count: usize, total: f64) -> Vec<f64> {
    loop {
        let mut left = total;
        let parts = (1..=count).map(|n| {
            let rest =
                if n == count { 0.0 } else { left * rng.random::<f64>().powf(1.0 / (count - n) as f64) };
            std::mem::replace(&mut left, rest) - rest
        });
        let parts: Vec<f64> = parts.collect();
        if parts.iter().all(|part| *part <= 0.9) {
            return parts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machines::{Machine, Schedule};

    #[test]
    fn the_sets_are_as_described() {
        let (mut lowest, mut highest) = (f64::MAX, 0.0_f64);
        for seed in 0..200 {
            let machine = Machine::parse("set.toml".as_ref(), &machine_file(seed, 4)).unwrap();
            let mut sum = 0.0;
            for vm in &machine.vms {
                if let Schedule::Reservation { budget_ns, period_ns, .. } = vm.schedule {
                    assert!((500 * US..=50_000 * US).contains(&period_ns));
                    sum += budget_ns as f64 / period_ns as f64;
                }
            }
            (lowest, highest) = (lowest.min(sum), highest.max(sum));
            Machine::parse("rtos.toml".as_ref(), &rtos_file(seed)).unwrap();
        }
        assert!((1.5..2.0).contains(&lowest) && (3.5..4.0).contains(&highest), "{lowest} {highest}");
    }
}
