//! Any workload, and any operations in any order.

use super::machine::*;
use crate::*;
use proptest::prelude::*;

/// A guest that works and sleeps for times out of a list, over and over.
fn pattern(times: Vec<(Ns, Ns)>) -> Guest {
    let mut n = 0;
    Box::new(move |now| {
        n += 1;
        let (work, sleep) = times[n / 2 % times.len()];
        if n % 2 == 1 { Step::Work(work) } else { Step::Sleep(now + sleep) }
    })
}

/// Times of work and sleep.
type Times = Vec<(Ns, Ns)>;

const BUSY: (Ns, Ns) = (S, 1);

/// A weight, and what each vCPU does.
fn vm(asleep: u32) -> impl Strategy<Value = (u32, Vec<Times>)> {
    let times = prop::collection::vec((10 * US..20 * MS, 1..20 * MS), 1..4);
    let guest = prop_oneof![2 => Just(vec![BUSY]), asleep => times];
    (prop_oneof![Just(256_u32), 1_u32..1000], prop::collection::vec(guest, 1..5))
}

/// A budget, period and deadline, and what the vCPU does.
fn reservation() -> impl Strategy<Value = (Ns, Ns, Ns, Times)> {
    let times = prop::collection::vec((10 * US..MS, 1..10 * MS), 1..4);
    (500 * US..10 * MS, 5..30_u64, 0..100_u64, times).prop_map(|(period, percent, tight, times)| {
        let budget = period * percent / 100;
        (budget, period, period - (period - budget) * tight / 200, times)
    })
}

fn machine(cpus: usize, reservations: Vec<(Ns, Ns, Ns, Times)>) -> Machine {
    let mut m = Machine::new(cpus);
    for (n, (budget, period, deadline, times)) in reservations.into_iter().enumerate() {
        m.reserve((n % cpus) as u8, budget, period, deadline, pattern(times));
    }
    m
}

/// Adds VMs, each with an affinity.
fn add_vms(m: &mut Machine, vms: impl IntoIterator<Item = ((u32, Vec<Times>), CpuSet)>) {
    for (n, ((weight, guests), affinity)) in vms.into_iter().enumerate() {
        m.vm(n as u8, Share { weight, cap: 0, affinity }, guests.into_iter().map(pattern).collect());
    }
}

/// The affinity of that number, or none.
fn affinity(masks: &[u64; 3], n: usize) -> CpuSet {
    masks.get(n).map_or(CpuSet::ALL, |&mask| CpuSet(mask | 1))
}

/// Half a second of VMs that never sleep, each with one of the affinities `masks` or without one.
fn shared(
    cpus: usize,
    vms: Vec<((u32, Vec<Times>), usize)>,
    masks: [u64; 3],
    reservations: Vec<(Ns, Ns, Ns, Times)>,
) -> Machine {
    let mut m = machine(cpus, reservations);
    add_vms(&mut m, vms.into_iter().map(|(vm, mask)| (vm, affinity(&masks, mask))));
    m.run(S / 2);
    assert!(m.starved <= 50 * US, "somebody waited {} ns while a CPU slept", m.starved);
    m
}

/// Half a second of VMs of which some sleep, beside the ideal of a machine on which nobody does.
fn sleepers(m: Machine, vms: impl IntoIterator<Item = (u32, Vec<Times>)>) -> Machine {
    bound_sleepers(m, vms.into_iter().map(|vm| (vm, CpuSet::ALL)))
}

/// The same, of VMs with an affinity.
fn bound_sleepers(mut m: Machine, vms: impl IntoIterator<Item = ((u32, Vec<Times>), CpuSet)>) -> Machine {
    m.strict = true;
    add_vms(&mut m, vms);
    m.run(S / 2);
    m
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(super::cases(100)))]

    #[test]
    fn shares_follow_the_ideal(
        cpus in 1_usize..=8,
        vms in prop::collection::vec((vm(0), 0_usize..4), 1..8),
        masks in prop::array::uniform3(1_u64..256),
        reservations in prop::collection::vec(reservation(), 0..4),
    ) {
        let picky = vms.iter().any(|&(_, mask)| mask < masks.len());
        let m = shared(cpus, vms, masks, if picky { Vec::new() } else { reservations });
        prop_assert!(m.behind <= 5e6 && m.ahead <= 5e6, "{} ms behind, {} ahead", m.behind / 1e6, m.ahead / 1e6);
    }

    /// Affinities differ, and some of their CPUs have reservations: nobody waits while a CPU sleeps. That lag is at most 5 ms is not
    /// promised here: more than that is printed, and more than twice as much is a fault.
    #[test]
    fn affinities_beside_reservations(
        cpus in 2_usize..=8,
        vms in prop::collection::vec((vm(0), 0_usize..4), 1..8),
        masks in prop::array::uniform3(1_u64..256),
        reservations in prop::collection::vec(reservation(), 1..4),
    ) {
        let m = shared(cpus, vms, masks, reservations);
        if m.behind > 5e6 || m.ahead > 5e6 {
            println!("{:.1} ms behind, {:.1} ahead", m.behind / 1e6, m.ahead / 1e6);
        }
        prop_assert!(m.behind <= 10e6 && m.ahead <= 10e6, "{} ms behind, {} ahead", m.behind / 1e6, m.ahead / 1e6);
    }

    #[test]
    fn sleepers_take_nothing_from_others(
        cpus in 1_usize..=8,
        vms in prop::collection::vec(vm(2), 1..8),
        reservations in prop::collection::vec(reservation(), 0..4),
    ) {
        let m = sleepers(machine(cpus, reservations), vms);
        prop_assert!(m.starved <= 50 * US, "somebody waited {} ns while a CPU slept", m.starved);
        prop_assert!(m.behind <= 5e6, "{} ms behind", m.behind / 1e6);
    }

    /// Affinities differ: that lag is at most 5 ms is not promised here, as above.
    #[test]
    fn sleepers_take_nothing_where_affinities_differ(
        cpus in 2_usize..=8,
        vms in prop::collection::vec((vm(2), 0_usize..4), 1..8),
        masks in prop::array::uniform3(1_u64..256),
    ) {
        let vms = vms.into_iter().map(|(vm, mask)| (vm, affinity(&masks, mask)));
        let m = bound_sleepers(machine(cpus, Vec::new()), vms);
        prop_assert!(m.starved <= 50 * US, "somebody waited {} ns while a CPU slept", m.starved);
        if m.behind > 5e6 {
            println!("{:.1} ms behind", m.behind / 1e6);
        }
        prop_assert!(m.behind <= 10e6, "{} ms behind", m.behind / 1e6);
    }
}

/// Two vCPUs of a VM that nearly always has CPUs for both: who of them ran less must go first when it waits, though they never wait
/// together. (5.2 ms behind when a round of theirs began only when both waited.)
#[test]
fn five_vms_with_sleepers_on_four_cpus() {
    let busy = || vec![BUSY];
    let vms = [
        (
            256,
            vec![
                busy(),
                vec![(12_443_771, 1_913_256), (2_480_682, 15_637_568), (548_563, 6_252_630)],
                busy(),
                busy(),
            ],
        ),
        (
            256,
            vec![
                vec![(12_096_944, 5_089_693), (90_217, 17_933_953), (14_816_570, 3_882_039)],
                vec![(5_522_623, 15_384_540), (1_127_963, 10_111_800)],
                busy(),
                busy(),
            ],
        ),
        (256, vec![vec![(8_599_999, 7_474_217)], busy()]),
        (
            254,
            vec![busy(), vec![(956_672, 4_978_705)], vec![(2_628_452, 12_328_477), (10_119_362, 8_090_217)]],
        ),
        (925, vec![busy(), busy()]),
    ];
    let m = sleepers(machine(4, vec![(606_575, 5_514_327, 5_268_940, vec![(165_873, 2_309_186)])]), vms);
    assert!(m.behind <= 2e6, "{} ms behind", m.behind / 1e6);
}

/// Beside one that naps, a VM gets the whole CPU that it is entitled to, always or while the other one sleeps. (5.7 to 40 ms behind after half a
/// second, and more later: of what the other one was ahead when it fell asleep, it bore a part, though it could not run more in return.)
#[test]
fn a_whole_cpu_beside_one_that_naps() {
    let busy = || vec![BUSY];
    for (weight, nap) in [(955, 26_137), (955, MS), (900, 26_137), (900, 100 * US), (800, MS)] {
        let vms = [
            (256, vec![busy(), busy(), busy(), vec![(10_508_125, 13_241_875)]]),
            (weight, vec![busy()]),
            (413, vec![vec![(821_792, nap)]]),
            (256, vec![busy()]),
            (2, vec![busy()]),
        ];
        let mut m = sleepers(machine(2, Vec::new()), vms);
        m.run(3 * S);
        assert!(m.behind <= 1.5e6, "{weight} beside naps of {nap} ns: {} ms behind", m.behind / 1e6);
    }
}

/// One with a CPU for itself naps, beside others that are bound to two. (77 ms behind after half a second: what it was ahead when it fell asleep
/// was divided by other rates than when it woke, and grew by a quarter at each nap.)
#[test]
fn a_nap_where_affinities_differ() {
    let two = CpuSet(0b1001);
    let vms = [
        ((256, vec![vec![(7_675_891, 17_388_958)], vec![BUSY], vec![BUSY]]), two),
        ((256, vec![vec![BUSY], vec![(10_937_886, 3_160_956), (2_800_078, 11_928_508)]]), two),
        ((256, vec![vec![(15_681_484, 141_493)]]), CpuSet::ALL),
        ((584, vec![vec![BUSY]]), two),
    ];
    let m = bound_sleepers(machine(4, Vec::new()), vms);
    assert!(m.behind <= 1e6, "{} ms behind", m.behind / 1e6);
}

/// Reservations displace vCPUs of a VM that else has a CPU for each of them: they take turns at that. (5.2 ms behind after half a second, and up to
/// 11 later: what runs for long where nobody waits was counted up to 67 ms only.)
#[test]
fn siblings_take_turns_at_being_displaced() {
    let reservations = vec![
        (544_093, 3_022_743, 3_022_743, vec![(420_648, 2_861_134), (765_452, 2_841_732)]),
        (1_895_697, 8_242_163, 8_242_163, vec![(790_273, 2_413_662)]),
    ];
    let m = sleepers(machine(5, reservations), [(256, vec![vec![BUSY]; 4])]);
    assert!(m.behind <= 1e6, "{} ms behind", m.behind / 1e6);
}

/// VMs with a weight, busy vCPUs and an affinity.
fn busy_vms(m: &mut Machine, vms: &[(u32, usize, u64)]) {
    add_vms(m, vms.iter().map(|&(weight, count, cpus)| ((weight, vec![vec![BUSY]; count]), CpuSet(cpus))));
}

/// CPUs, and the VMs.
type Bound = (usize, &'static [(u32, usize, u64)]);

/// The lag is small though few may run on some CPUs and many on others. (In their order, it was 6.4, 5.5, 5.4 and 5.1 ms after half a second,
/// and more later: those alone on a CPU stayed there while others who could go there took the CPUs of those who could not; and who had
/// nearly no weight and a CPU for itself made all rates inexact.)
#[test]
fn affinities_bind_and_the_lag_is_small() {
    let all: [Bound; 4] = [
        (
            8,
            &[
                (256, 2, 203),
                (992, 4, 211),
                (781, 2, 255),
                (18, 1, 255),
                (256, 2, 211),
                (256, 1, 203),
                (256, 1, 203),
            ],
        ),
        (7, &[(842, 4, 19), (973, 2, 255), (256, 4, 99), (385, 2, 99), (256, 1, 255)]),
        (
            8,
            &[
                (256, 3, 75),
                (606, 4, 203),
                (455, 2, 255),
                (256, 4, 75),
                (326, 1, 75),
                (9, 3, 203),
                (1, 3, 255),
            ],
        ),
        (
            8,
            &[
                (62, 2, 255),
                (63, 4, 255),
                (937, 4, 81),
                (256, 3, 223),
                (256, 3, 193),
                (815, 1, 255),
                (256, 3, 193),
            ],
        ),
    ];
    for (cpus, vms) in all {
        let mut m = Machine::new(cpus);
        busy_vms(&mut m, vms);
        m.run(2 * S);
        assert!(
            m.behind <= 3.5e6 && m.ahead <= 3.5e6,
            "{} ms behind, {} ahead",
            m.behind / 1e6,
            m.ahead / 1e6
        );
    }
}

/// CPUs, reservations, and the VMs as above.
type Beside = (usize, Vec<(Ns, Ns, Ns, Times)>, &'static [(u32, usize, u64)]);

/// The lag is small though reservations come and go on CPUs that not everybody may use. (In their order, after half a second: 14 ms behind,
/// as a CPU slept though two moves would have brought it to somebody who waited; 6 ms behind, as those were not told who had to make way when
/// a reservation came; and 25, 23 and 22 ms ahead, as somebody made way for others who could have gone where it could, and as two made room for
/// one CPU that slept, one of them for somebody who was ahead.)
#[test]
fn reservations_come_and_go_beside_affinities() {
    let all: [Beside; 5] = [
        (
            6,
            vec![
                (25_000, 500_000, 500_000, vec![(10_000, 451_601)]),
                (196_844, 1_968_448, 1_968_448, vec![(23_291, 1)]),
                (25_000, 500_000, 500_000, vec![(10_000, 1)]),
            ],
            &[(256, 1, 57), (256, 2, 255), (256, 3, 153)],
        ),
        (
            8,
            vec![
                (723_348, 4_018_604, 4_018_604, vec![(447_962, 373_222)]),
                (79_446, 882_741, 882_741, vec![(223_844, 220_734)]),
                (178_844, 1_277_460, 1_277_460, vec![(387_588, 1_311_469), (336_006, 4_736_140)]),
            ],
            &[(256, 3, 243), (256, 1, 203), (63, 2, 243), (1, 4, 173)],
        ),
        (
            8,
            vec![
                (331_355, 1_440_674, 1_440_674, vec![(10_000, 1_549_887)]),
                (51_782, 1_035_642, 1_035_642, vec![(163_389, 1)]),
            ],
            &[(256, 1, 131), (791, 4, 173), (256, 1, 17), (256, 2, 173), (256, 2, 255)],
        ),
        (
            6,
            vec![
                (362_169, 1_392_961, 1_305_344, vec![(578_182, 7_774_043), (166_844, 3_966_098)]),
                (266_666, 2_962_957, 2_019_256, vec![(963_978, 245_470)]),
                (
                    1_115_563,
                    7_968_310,
                    7_659_937,
                    vec![(944_643, 5_007_431), (857_000, 7_392_576), (496_551, 2_706_773)],
                ),
            ],
            &[(580, 2, 185), (653, 2, 255), (790, 1, 255), (256, 1, 161), (9, 3, 75)],
        ),
        (
            6,
            vec![
                (
                    1_288_117,
                    6_133_894,
                    5_140_510,
                    vec![(791_067, 923_547), (412_119, 9_200_375), (462_896, 7_622_643)],
                ),
                (316_464, 2_637_204, 2_126_642, vec![(806_546, 9_583_901)]),
                (1_404_825, 6_689_644, 4_443_596, vec![(618_296, 4_604_339), (784_222, 8_751_433)]),
            ],
            &[(342, 4, 153), (70, 2, 37), (526, 1, 35), (256, 1, 35), (1, 1, 153)],
        ),
    ];
    for (cpus, reservations, vms) in all {
        let mut m = machine(cpus, reservations);
        busy_vms(&mut m, vms);
        m.run(S / 2);
        let (behind, ahead) = (m.behind / 1e6, m.ahead / 1e6);
        assert!(behind <= 3.0 && ahead <= 3.0, "{behind} ms behind, {ahead} ahead");
    }
}
