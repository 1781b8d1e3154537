use super::*;

#[test]
fn the_records_fill_their_page() {
    assert_eq!((record(0), offset(0)), (bus::STOLEN_TIME.start, 8));
    assert_eq!(record(63), bus::STOLEN_TIME.end - 64);
    assert_eq!(bus::STOLEN_TIME.start + offset(63), record(63) + 8);
}
