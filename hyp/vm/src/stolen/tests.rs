use super::*;

#[test]
fn the_records_fill_their_page() {
    assert_eq!((record(0), offset(0)), (bus::STOLEN_TIME.start, 8));
    assert_eq!(record(63), bus::STOLEN_TIME.end - 64);
    assert_eq!(bus::STOLEN_TIME.start + offset(63), record(63) + 8);
}

#[test]
fn what_could_run_and_did_not_is_stolen() {
    let waiting = Waiting::new();
    waiting.wakes(|| 100);
    waiting.wakes(|| 120); // Woken is woken.
    assert_eq!(waiting.runs(130), 30);
    assert_eq!(waiting.runs(150), 0);
    waiting.wakes(|| panic!("it runs"));
    waiting.leaves(200);
    waiting.wakes(|| 210);
    assert_eq!(waiting.runs(300), 100, "pre-empted for 100 ns");
}

#[test]
fn sleep_is_not_stolen() {
    let waiting = Waiting::new();
    assert_eq!(waiting.runs(10), 0, "it was off");
    waiting.sleeps(Some(1000));
    waiting.leaves(20);
    assert_eq!(waiting.runs(1005), 5, "late after a timed sleep");
    waiting.sleeps(Some(5000));
    waiting.wakes(|| 2000);
    assert_eq!(waiting.runs(2001), 1, "woken before its time");
    waiting.sleeps(Some(5000));
    assert_eq!(waiting.runs(3000), 0, "it did not sleep after all");
    waiting.leaves(4000);
    waiting.sleeps(None);
    assert_eq!(waiting.runs(9000), 0, "turned off");
}
