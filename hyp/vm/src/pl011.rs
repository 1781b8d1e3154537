//! The PL011 UART, r1p4 (Arm DDI 0183G), without DMA, modem lines and loop-back.
//!
//! Two ways in which it differs from the silicon, so that no guest loses a byte:
//!
//! * The receive FIFO goes on behind the guest-visible 16 entries, up to the runner's flow-control window. The receive
//!   and the timeout interrupt follow the FIFO's level and nothing else: clearing one leaves it asserted while its
//!   condition holds.
//! * It transmits and receives whether CR enables it or not: the firmware, which a guest has not, would have done that.

use abi::mux::RX_WINDOW;

/// Entries of the FIFOs that the guest's driver is told of.
const FIFO_DEPTH: usize = 16;

const DR: u64 = 0x00;
const RSR: u64 = 0x04;
const FR: u64 = 0x18;
const ILPR: u64 = 0x20;
const IBRD: u64 = 0x24;
const FBRD: u64 = 0x28;
const LCR_H: u64 = 0x2c;
const CR: u64 = 0x30;
const IFLS: u64 = 0x34;
const IMSC: u64 = 0x38;
const RIS: u64 = 0x3c;
const MIS: u64 = 0x40;
const ICR: u64 = 0x44;
const DMACR: u64 = 0x48;
const PERIPH_ID: u64 = 0xfe0;

/// PeriphID0 to 3 (part 0x011, Arm, revision 1: FIFOs of 16 entries) and PCellID0 to 3.
const IDS: [u32; 8] = [0x11, 0x10, 0x14, 0x00, 0x0d, 0xf0, 0x05, 0xb1];

const FR_BUSY: u32 = 1 << 3;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;
const FR_RXFF: u32 = 1 << 6;
const FR_TXFE: u32 = 1 << 7;
const LCR_H_FEN: u32 = 1 << 4;
const CR_RESET: u32 = 0x300;
const IFLS_RESET: u32 = 0x12;
const INT_RX: u32 = 1 << 4;
const INT_TX: u32 = 1 << 5;
const INT_RT: u32 = 1 << 6;

/// A first-in first-out buffer of bytes.
#[derive(Clone, Debug)]
struct Fifo<const N: usize> {
    bytes: [u8; N],
    first: usize,
    len: usize,
}

impl<const N: usize> Fifo<N> {
    const EMPTY: Self = Self { bytes: [0; N], first: 0, len: 0 };

    /// False if it is full.
    fn push(&mut self, byte: u8) -> bool {
        let free = self.len < N;
        if free {
            self.bytes[(self.first + self.len) % N] = byte;
            self.len += 1;
        }
        free
    }

    fn pop(&mut self) -> Option<u8> {
        let byte = *self.front().first()?;
        self.drop_front(1);
        Some(byte)
    }

    /// The oldest bytes: as many of them as are contiguous.
    fn front(&self) -> &[u8] {
        &self.bytes[self.first..N.min(self.first + self.len)]
    }

    /// Drops so many of the oldest bytes.
    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.first = (self.first + count) % N;
        self.len -= count;
    }
}

/// Where transmitted bytes go, and what is told about received ones.
pub trait Line {
    /// Takes bytes; returns how many.
    fn put(&self, bytes: &[u8]) -> usize;
    /// How many bytes [`Line::put`] would take.
    fn room(&self) -> usize;
    /// The guest has read so many bytes.
    fn taken(&self, bytes: usize);
}

/// The device's state.
#[derive(Clone, Debug)]
pub struct Pl011 {
    tx: Fifo<FIFO_DEPTH>,
    rx: Fifo<RX_WINDOW>,
    ilpr: u32,
    ibrd: u32,
    fbrd: u32,
    lcr_h: u32,
    cr: u32,
    ifls: u32,
    imsc: u32,
    dmacr: u32,
    /// RIS.TXRIS: set when the transmit FIFO drains to its trigger level.
    tx_interrupt: bool,
    /// The events for which the paravirtual console wants the interrupt ([`abi::smccc::CONSOLE_EVENTS`]).
    pv_events: u64,
}

impl Default for Pl011 {
    /// The state after reset.
    fn default() -> Self {
        Self {
            tx: Fifo::EMPTY,
            rx: Fifo::EMPTY,
            ilpr: 0,
            ibrd: 0,
            fbrd: 0,
            lcr_h: 0,
            cr: CR_RESET,
            ifls: IFLS_RESET,
            imsc: 0,
            dmacr: 0,
            tx_interrupt: false,
            pv_events: 0,
        }
    }
}

impl Pl011 {
    /// Resets all but what was received and not read.
    pub fn reset(&mut self) {
        let rx = core::mem::replace(&mut self.rx, Fifo::EMPTY);
        *self = Self { rx, ..Self::default() };
    }

    /// Whether the interrupt is asserted.
    pub fn interrupt(&self, line: &impl Line) -> bool {
        self.ris() & self.imsc != 0
            || self.pv_events & abi::smccc::CONSOLE_EVENT_RX != 0 && self.rx.len > 0
            || self.pv_events & abi::smccc::CONSOLE_EVENT_TX != 0
                && self.tx.len == 0
                && line.room() >= abi::smccc::CONSOLE_WRITE_MAX
    }

    /// A guest's read of a register. What does not exist reads as zero.
    pub fn read(&mut self, offset: u64, line: &impl Line) -> u32 {
        match offset {
            DR => self.receive(line).map_or(0, u32::from),
            FR => self.fr(),
            ILPR => self.ilpr,
            IBRD => self.ibrd,
            FBRD => self.fbrd,
            LCR_H => self.lcr_h,
            CR => self.cr,
            IFLS => self.ifls,
            IMSC => self.imsc,
            RIS => self.ris(),
            MIS => self.ris() & self.imsc,
            DMACR => self.dmacr,
            // No error can occur.
            RSR => 0,
            _ => match offset.checked_sub(PERIPH_ID) {
                Some(id) if id.is_multiple_of(4) => IDS.get(id as usize / 4).copied().unwrap_or(0),
                _ => 0,
            },
        }
    }

    /// A guest's write of a register. What does not exist is ignored.
    pub fn write(&mut self, offset: u64, value: u32, line: &impl Line) {
        match offset {
            DR => self.transmit(value as u8, line),
            ILPR => self.ilpr = value & 0xff,
            IBRD => self.ibrd = value & 0xffff,
            FBRD => self.fbrd = value & 0x3f,
            LCR_H => self.lcr_h = value & 0xff,
            CR => self.cr = value & 0xff87,
            IFLS => self.ifls = value & 0x3f,
            IMSC => self.imsc = value & 0x7ff,
            ICR => self.tx_interrupt &= value & INT_TX == 0,
            DMACR => self.dmacr = value & 0x7,
            _ => {}
        }
    }

    /// Takes bytes that arrive; returns how many. A sender that keeps to its window never sees fewer than it offers.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        bytes.iter().take_while(|&&byte| self.rx.push(byte)).count()
    }

    /// There is room in the console again: goes on transmitting.
    pub fn ready(&mut self, line: &impl Line) {
        if self.tx.len > 0 {
            self.drain(line);
        }
    }

    /// Paravirtual write: behind what the registers transmitted. Returns how many bytes were taken.
    pub fn pv_write(&mut self, bytes: &[u8], line: &impl Line) -> usize {
        self.ready(line);
        if self.tx.len > 0 { 0 } else { line.put(bytes) }
    }

    /// Paravirtual read. Returns how many bytes of `buffer` were filled.
    pub fn pv_read(&mut self, buffer: &mut [u8], line: &impl Line) -> usize {
        let mut count = 0;
        for (slot, byte) in buffer.iter_mut().zip(core::iter::from_fn(|| self.rx.pop())) {
            *slot = byte;
            count += 1;
        }
        if count > 0 {
            line.taken(count);
        }
        count
    }

    /// Sets the events for which the paravirtual console wants the interrupt.
    pub fn set_pv_events(&mut self, events: u64) {
        self.pv_events = events;
    }

    fn receive(&mut self, line: &impl Line) -> Option<u8> {
        let byte = self.rx.pop()?;
        line.taken(1);
        Some(byte)
    }

    fn transmit(&mut self, byte: u8, line: &impl Line) {
        if self.tx.len < self.depth() {
            self.tx.push(byte);
        }
        self.tx_interrupt = false;
        self.drain(line);
    }

    fn drain(&mut self, line: &impl Line) {
        while self.tx.len > 0 {
            let taken = line.put(self.tx.front());
            self.tx.drop_front(taken);
            if taken == 0 {
                break;
            }
        }
        self.tx_interrupt |= self.tx.len <= self.trigger(self.ifls, 0);
    }

    /// Entries of a FIFO: one if the FIFOs are off.
    fn depth(&self) -> usize {
        if self.lcr_h & LCR_H_FEN != 0 { FIFO_DEPTH } else { 1 }
    }

    /// The level of a trigger field of IFLS, or `off` if the FIFOs are off.
    fn trigger(&self, field: u32, off: usize) -> usize {
        if self.lcr_h & LCR_H_FEN == 0 {
            return off;
        }
        match field & 7 {
            0 => FIFO_DEPTH / 8,
            1 => FIFO_DEPTH / 4,
            2 => FIFO_DEPTH / 2,
            3 => FIFO_DEPTH * 3 / 4,
            _ => FIFO_DEPTH * 7 / 8,
        }
    }

    fn fr(&self) -> u32 {
        let flag = |flag, condition| if condition { flag } else { 0 };
        flag(FR_RXFE, self.rx.len == 0)
            | flag(FR_RXFF, self.rx.len >= self.depth())
            | flag(FR_TXFE, self.tx.len == 0)
            | flag(FR_TXFF, self.tx.len >= self.depth())
            | flag(FR_BUSY, self.tx.len > 0)
    }

    fn ris(&self) -> u32 {
        let received = match self.rx.len {
            0 => 0,
            level if level >= self.trigger(self.ifls >> 3, 1) => INT_RX,
            _ => INT_RT,
        };
        received | if self.tx_interrupt { INT_TX } else { 0 }
    }
}

#[cfg(test)]
mod tests;
