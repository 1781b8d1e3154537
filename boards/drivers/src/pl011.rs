//! Arm PL011 UART (Arm DDI 0183G, "TRM" below).
//!
//! Nothing waits but the [`fmt::Write`] for boot and panics, and that for a bounded time. Interrupts are conditions, not
//! events: transmit while the FIFO is at most an eighth full after having been fuller, receive while it is a quarter
//! full or has been idle with bytes in it. They go away as bytes are moved; none needs to be cleared.

use core::fmt;

use crate::mmio::Mmio;

// TRM, table 3-1.
const DR: usize = 0x00;
const FR: usize = 0x18;
const IBRD: usize = 0x24;
const FBRD: usize = 0x28;
const LCR_H: usize = 0x2c;
const CR: usize = 0x30;
const IFLS: usize = 0x34;
const IMSC: usize = 0x38;
const ICR: usize = 0x44;

/// DR: framing error, parity error, break.
const DR_BAD: u32 = 7 << 8;
const FR_BUSY: u32 = 1 << 3;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
/// LCR_H: eight bits, no parity, one stop bit, FIFOs on.
const LCR_8N1_FIFO: u32 = 3 << 5 | 1 << 4;
/// CR: UARTEN, TXE, RXE.
const CR_ON: u32 = 1 | 1 << 8 | 1 << 9;
/// IFLS: receive at a quarter, which leaves a millisecond at 115,200 baud to fetch the rest; transmit at an eighth.
const IFLS_LEVELS: u32 = 1 << 3;
/// IMSC: the FIFO's level, and bytes in it that no further one has followed for 32 bit times.
const INT_RX: u32 = 1 << 4 | 1 << 6;
const INT_TX: u32 = 1 << 5;
const INT_ALL: u32 = 0x7ff;

const BAUD: u32 = 115_200;
/// Reads of FR before the sender is given up: far above the 87 µs that a byte takes.
const PATIENCE: u32 = 1_000_000;

/// A PL011.
#[derive(Debug)]
pub struct Pl011 {
    mmio: Mmio<0x100>,
}

impl Pl011 {
    /// The PL011 with these registers; `None` if there are not enough.
    #[cfg(target_os = "none")]
    pub fn new(device: &arch::mmu::DeviceMemory) -> Option<Self> {
        Some(Self { mmio: Mmio::within(device, 0)? })
    }

    /// Turns the UART on: 8N1 with empty FIFOs, all interrupts masked; what has come in so far is lost. The rate becomes
    /// 115,200 baud if the frequency of its clock is known, and else stays as firmware set it.
    pub fn init(&mut self, clock_hz: Option<u32>) {
        // Order: TRM, section 3.3.8. What is being sent goes out first.
        self.wait_while(FR_BUSY);
        self.mmio.write(CR, 0);
        self.mmio.write(IMSC, 0);
        self.mmio.write(ICR, INT_ALL);
        if let Some((integer, fraction)) = clock_hz.and_then(divisor) {
            self.mmio.write(IBRD, integer);
            self.mmio.write(FBRD, fraction);
        }
        self.mmio.write(IFLS, IFLS_LEVELS);
        // Also takes over the divisor (TRM, section 3.3.7).
        self.mmio.write(LCR_H, LCR_8N1_FIFO);
        self.mmio.write(CR, CR_ON);
    }

    /// Sends a byte if the transmit FIFO has room.
    pub fn try_write(&mut self, byte: u8) -> bool {
        let room = self.mmio.read(FR) & FR_TXFF == 0;
        if room {
            self.mmio.write(DR, byte.into());
        }
        room
    }

    /// The next byte received, if there is one. Characters with a wrong frame, and breaks, are dropped.
    pub fn try_read(&mut self) -> Option<u8> {
        while self.mmio.read(FR) & FR_RXFE == 0 {
            let data = self.mmio.read(DR);
            if data & DR_BAD == 0 {
                return Some(data as u8);
            }
        }
        None
    }

    /// Whether the UART interrupts when the transmit FIFO has run almost empty. To be turned on with more than an eighth of its depth in
    /// it, which may be 16 or 32: it takes crossing the level to interrupt.
    pub fn set_tx_interrupt(&mut self, on: bool) {
        self.mask(INT_TX, on);
    }

    /// Whether the UART interrupts when there is something to read.
    pub fn set_rx_interrupt(&mut self, on: bool) {
        self.mask(INT_RX, on);
    }

    fn mask(&mut self, interrupts: u32, on: bool) {
        let others = self.mmio.read(IMSC) & !interrupts;
        self.mmio.write(IMSC, if on { others | interrupts } else { others });
    }

    /// False if the flag was still set when patience ended.
    fn wait_while(&self, flag: u32) -> bool {
        (0..PATIENCE).any(|_| self.mmio.read(FR) & flag == 0)
    }
}

/// Polled, without interrupts. An error means that the UART did not drain.
impl fmt::Write for Pl011 {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if !self.wait_while(FR_TXFF) {
                return Err(fmt::Error);
            }
            self.mmio.write(DR, byte.into());
        }
        Ok(())
    }
}

/// IBRD and FBRD for [`BAUD`] (TRM, section 3.3.6): clock / (16 × rate) in 64ths, rounded. `None` if out of their range.
fn divisor(clock_hz: u32) -> Option<(u32, u32)> {
    let divisor = (u64::from(clock_hz) * 4 + u64::from(BAUD / 2)) / u64::from(BAUD);
    let (integer, fraction) = ((divisor / 64) as u32, (divisor % 64) as u32);
    (1..=0xffff).contains(&integer).then_some((integer, fraction))
}

#[cfg(test)]
mod tests;
