use core::fmt::Write;

use super::*;

/// Memory in place of registers: reads return what was last written.
#[repr(align(4096))]
struct Registers([u32; 0x400]);

fn uart(registers: &mut Registers) -> Pl011 {
    // SAFETY: the block is memory that only the driver uses while the test runs.
    Pl011 { mmio: unsafe { Mmio::new(registers.0.as_mut_ptr() as u64) } }
}

fn get(registers: &Registers, offset: usize) -> u32 {
    // SAFETY: in bounds; volatile, since the driver wrote it behind the compiler's back.
    unsafe { (&raw const registers.0[offset / 4]).read_volatile() }
}

#[test]
fn divisors_are_those_of_the_manual() {
    assert_eq!(divisor(24_000_000), Some((13, 1)));
    assert_eq!(divisor(48_000_000), Some((26, 3)));
    assert_eq!(divisor(1_000_000), None);
    assert_eq!(divisor(u32::MAX), Some((2330, 11)));
}

#[test]
fn init_keeps_the_rate_of_firmware_when_the_clock_is_unknown() {
    let mut registers = Registers([0; 0x400]);
    registers.0[IBRD / 4] = 26;
    registers.0[FBRD / 4] = 3;
    uart(&mut registers).init(None);
    assert_eq!((get(&registers, IBRD), get(&registers, FBRD)), (26, 3));
    assert_eq!(get(&registers, CR), CR_ON);
    uart(&mut registers).init(Some(24_000_000));
    assert_eq!((get(&registers, IBRD), get(&registers, FBRD)), (13, 1));
}

#[test]
fn a_full_fifo_takes_no_byte_and_stops_the_polled_writer() {
    let mut registers = Registers([0; 0x400]);
    registers.0[FR / 4] = FR_TXFF;
    let mut full = uart(&mut registers);
    assert!(!full.try_write(b'x'));
    assert!(full.write_str("x").is_err());
    assert_eq!(get(&registers, DR), 0);
    registers.0[FR / 4] = 0;
    assert!(uart(&mut registers).try_write(b'x'));
    assert_eq!(get(&registers, DR), b'x'.into());
}

#[test]
fn reading_an_empty_fifo_gives_nothing() {
    let mut registers = Registers([0; 0x400]);
    registers.0[FR / 4] = FR_RXFE;
    registers.0[DR / 4] = b'a'.into();
    assert_eq!(uart(&mut registers).try_read(), None);
    registers.0[FR / 4] = 0;
    assert_eq!(uart(&mut registers).try_read(), Some(b'a'));
}

#[test]
fn each_interrupt_is_masked_alone() {
    let mut registers = Registers([0; 0x400]);
    let mut uart = uart(&mut registers);
    uart.set_rx_interrupt(true);
    uart.set_tx_interrupt(true);
    uart.set_rx_interrupt(false);
    assert_eq!(get(&registers, IMSC), INT_TX);
}
