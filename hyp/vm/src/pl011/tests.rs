use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

struct Wire {
    out: RefCell<Vec<u8>>,
    room: Cell<usize>,
    taken: Cell<usize>,
}

impl Wire {
    fn new() -> Self {
        Self { out: RefCell::default(), room: Cell::new(usize::MAX / 2), taken: Cell::new(0) }
    }
}

impl Line for Wire {
    fn put(&self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room.get());
        self.out.borrow_mut().extend(&bytes[..count]);
        self.room.set(self.room.get() - count);
        count
    }
    fn room(&self) -> usize {
        self.room.get()
    }
    fn taken(&self, bytes: usize) {
        self.taken.set(self.taken.get() + bytes);
    }
}

/// As Linux's driver sets it up: FIFOs on, everything enabled.
fn uart(wire: &Wire) -> Pl011 {
    let mut uart = Pl011::default();
    uart.write(LCR_H, 0x70, wire);
    uart.write(CR, 0x301, wire);
    uart.write(IFLS, 0x12, wire);
    uart
}

#[test]
fn a_driver_finds_the_primecell() {
    let (mut uart, wire) = (Pl011::default(), Wire::new());
    let id = (0..8).map(|n| uart.read(PERIPH_ID + 4 * n, &wire)).collect::<Vec<_>>();
    assert_eq!(id[..4].iter().rev().fold(0, |id, byte| id << 8 | byte), 0x0014_1011);
    assert_eq!(id[4..].iter().rev().fold(0, |id, byte| id << 8 | byte), 0xb105_f00d);
    assert_eq!((uart.read(FR, &wire), uart.read(CR, &wire), uart.read(IFLS, &wire)), (0x90, 0x300, 0x12));
}

#[test]
fn registers_keep_their_bits_and_others_read_zero() {
    let (mut uart, wire) = (Pl011::default(), Wire::new());
    for offset in (0..0x1000).step_by(4).chain([1, 2, 0xffe, 0x1000, u64::MAX]) {
        uart.write(offset, 0, &wire);
        uart.write(offset, u32::MAX, &wire);
        let expected = match offset {
            FR => 0x90,
            ILPR => 0xff,
            IBRD => 0xffff,
            FBRD => 0x3f,
            LCR_H => 0xff,
            CR => 0xff87,
            IFLS => 0x3f,
            IMSC => 0x7ff,
            DMACR => 7,
            RIS | MIS => INT_TX,
            PERIPH_ID..0x1000 if offset % 4 == 0 => continue,
            _ => 0,
        };
        assert_eq!(uart.read(offset, &wire), expected, "{offset:#x}");
    }
}

#[test]
fn reception_interrupts_by_level_and_by_timeout() {
    let wire = Wire::new();
    let mut uart = uart(&wire);
    uart.write(IMSC, INT_RX | INT_RT, &wire);
    assert!(!uart.interrupt(&wire));
    assert_eq!(uart.input(b"1234567"), 7);
    assert_eq!(uart.read(MIS, &wire), INT_RT);
    uart.write(ICR, 0x7ff, &wire);
    assert!(uart.interrupt(&wire), "clearing does not lose what is still there");
    uart.input(b"8");
    assert_eq!(uart.read(MIS, &wire), INT_RX, "half full");
    uart.write(LCR_H, 0x60, &wire);
    assert_eq!((uart.read(RIS, &wire), uart.read(FR, &wire) & FR_RXFF), (INT_RX, FR_RXFF), "one entry");
    for byte in *b"12345678" {
        assert!(uart.interrupt(&wire));
        assert_eq!(uart.read(DR, &wire), byte.into());
    }
    assert!(!uart.interrupt(&wire));
    assert_eq!((uart.read(FR, &wire) & FR_RXFE, uart.read(DR, &wire)), (FR_RXFE, 0));
    assert_eq!(wire.taken.get(), 8);
}

#[test]
fn transmission_interrupts_when_the_fifo_has_drained() {
    let wire = Wire::new();
    let mut uart = uart(&wire);
    uart.write(IMSC, INT_TX, &wire);
    assert!(!uart.interrupt(&wire), "an edge, which has not been yet");
    wire.room.set(2);
    for byte in b"abcdefghijklmnopqr" {
        uart.write(DR, u32::from(*byte), &wire);
    }
    assert_eq!(*wire.out.borrow(), b"ab");
    assert_eq!(uart.read(FR, &wire) & (FR_TXFF | FR_BUSY | FR_TXFE), FR_TXFF | FR_BUSY);
    assert!(!uart.interrupt(&wire));
    wire.room.set(7);
    uart.ready(&wire);
    assert!(!uart.interrupt(&wire), "9 of 16 left");
    wire.room.set(1);
    uart.ready(&wire);
    assert!(uart.interrupt(&wire), "8 left");
    uart.write(ICR, INT_TX, &wire);
    assert!(!uart.interrupt(&wire));
    wire.room.set(100);
    uart.ready(&wire);
    assert_eq!(*wire.out.borrow(), b"abcdefghijklmnopqr");
    assert_eq!(uart.read(FR, &wire) & (FR_TXFF | FR_BUSY | FR_TXFE), FR_TXFE);
}

#[test]
fn input_ends_at_the_window() {
    let wire = Wire::new();
    let mut uart = uart(&wire);
    assert_eq!(uart.input(&[7; 300]), RX_WINDOW);
    assert_eq!(uart.input(&[8]), 0);
    uart.read(DR, &wire);
    assert_eq!(uart.input(&[8, 8]), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Input(Vec<u8>),
    Read,
    PvRead(usize),
    Write(u8),
    PvWrite(Vec<u8>),
    Room(usize),
    Clear,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    let step = prop_oneof![
        bytes().prop_map(Step::Input),
        Just(Step::Read),
        (0usize..25).prop_map(Step::PvRead),
        any::<u8>().prop_map(Step::Write),
        bytes().prop_map(Step::PvWrite),
        (0usize..40).prop_map(Step::Room),
        Just(Step::Clear),
    ];
    prop::collection::vec(step, 0..200)
}

proptest! {
    /// Whatever comes in is read in order, whatever was written comes out in order, and neither is forgotten: as long
    /// as there is something to read, the interrupt says so.
    #[test]
    fn nothing_is_lost(steps in steps(), fifo: bool, ifls in 0u32..64) {
        let wire = Wire::new();
        let mut uart = uart(&wire);
        uart.write(LCR_H, if fifo { 0x10 } else { 0 }, &wire);
        uart.write(IFLS, ifls, &wire);
        uart.write(IMSC, INT_RX | INT_RT, &wire);
        wire.room.set(0);
        let (mut coming, mut sent, mut read) = (VecDeque::new(), Vec::new(), 0);
        for step in steps {
            match step {
                Step::Input(bytes) => {
                    let taken = uart.input(&bytes);
                    prop_assert_eq!(taken, bytes.len().min(RX_WINDOW - coming.len()));
                    coming.extend(&bytes[..taken]);
                }
                Step::Read => match coming.pop_front() {
                    Some(byte) => {
                        prop_assert_eq!(uart.read(FR, &wire) & FR_RXFE, 0);
                        prop_assert_eq!(uart.read(DR, &wire), u32::from(byte));
                        read += 1;
                    }
                    None => prop_assert_eq!(uart.read(FR, &wire) & FR_RXFE, FR_RXFE),
                },
                Step::PvRead(size) => {
                    let mut buffer = vec![0; size];
                    let count = uart.pv_read(&mut buffer, &wire);
                    prop_assert_eq!(count, size.min(coming.len()));
                    prop_assert_eq!(&buffer[..count], coming.drain(..count).collect::<Vec<u8>>());
                    read += count;
                }
                // A driver looks before it writes.
                Step::Write(byte) => if uart.read(FR, &wire) & FR_TXFF == 0 {
                    uart.write(DR, byte.into(), &wire);
                    sent.push(byte);
                },
                Step::PvWrite(bytes) => sent.extend(&bytes[..uart.pv_write(&bytes, &wire)]),
                Step::Room(room) => {
                    wire.room.set(room);
                    uart.ready(&wire);
                }
                Step::Clear => uart.write(ICR, 0x7ff, &wire),
            }
            prop_assert_eq!(uart.interrupt(&wire), !coming.is_empty());
            prop_assert!(sent.starts_with(&wire.out.borrow()));
            prop_assert_eq!(wire.taken.get(), read);
        }
        wire.room.set(usize::MAX / 2);
        uart.ready(&wire);
        prop_assert_eq!(&*wire.out.borrow(), &sent);
    }
}
