//! The console's device: MobiVMM's hypercalls, or a PL011.

use core::cell::RefCell;
use core::ptr::NonNull;

use abi::smccc::{
    CONSOLE_EVENT_RX, CONSOLE_EVENT_TX, CONSOLE_EVENTS, CONSOLE_READ, CONSOLE_READ_MAX, CONSOLE_WRITE,
    CONSOLE_WRITE_MAX,
};
use arm_pl011_uart::{
    DataBits, Interrupts, LineConfig, PL011Registers, Parity, StopBits, Uart, UniqueMmioPointer,
};
use critical_section::Mutex;
use heapless::Deque;

use super::smccc;
use crate::dt;

/// There is input.
pub(crate) const RX: u64 = CONSOLE_EVENT_RX;
/// There is room for output.
pub(crate) const TX: u64 = CONSOLE_EVENT_TX;

/// What a PL011 is set to; QEMU's takes no notice.
const BAUD: u32 = 115_200;
const UART_CLOCK: u32 = 24_000_000;

enum Device {
    /// Takes all output and has no input.
    None,
    /// With input that was read but not asked for yet.
    Paravirtual(Deque<u8, CONSOLE_READ_MAX>),
    Pl011(Uart<'static>),
}

static DEVICE: Mutex<RefCell<Device>> = Mutex::new(RefCell::new(Device::None));

/// Chooses the device.
pub(super) fn set_up(paravirtual: bool, uart: Option<dt::Uart>) {
    let pl011 = |uart: dt::Uart| {
        let registers: NonNull<PL011Registers> =
            NonNull::new(core::ptr::with_exposed_provenance_mut(uart.registers.base))?;
        // SAFETY: the device tree says that a PL011 is there; it is mapped for good, and this is its only driver.
        let mut uart = Uart::new(unsafe { UniqueMmioPointer::new(registers) });
        let line = LineConfig { data_bits: DataBits::Bits8, parity: Parity::None, stop_bits: StopBits::One };
        uart.enable(line, BAUD, UART_CLOCK).ok()?;
        uart.set_interrupt_masks(Interrupts::empty());
        Some(Device::Pl011(uart))
    };
    let device = if paravirtual { Some(Device::Paravirtual(Deque::new())) } else { uart.and_then(pl011) };
    critical_section::with(|cs| *DEVICE.borrow_ref_mut(cs) = device.unwrap_or(Device::None));
}

fn with<R>(f: impl FnOnce(&mut Device) -> R) -> R {
    critical_section::with(|cs| f(&mut DEVICE.borrow_ref_mut(cs)))
}

/// Writes as much of `bytes` as there is room for; returns how much.
pub(crate) fn write(bytes: &[u8]) -> usize {
    with(|device| match device {
        Device::None => bytes.len(),
        Device::Paravirtual(_) => {
            let bytes = &bytes[..bytes.len().min(CONSOLE_WRITE_MAX)];
            let mut args = [0; 7];
            args[0] = bytes.len() as u64;
            for (word, chunk) in args[1..].iter_mut().zip(bytes.chunks(8)) {
                let mut padded = [0; 8];
                padded[..chunk.len()].copy_from_slice(chunk);
                *word = u64::from_le_bytes(padded);
            }
            bytes.len().min(smccc::call(CONSOLE_WRITE, args)[0] as usize)
        }
        Device::Pl011(uart) => {
            let mut written = 0;
            while written < bytes.len() && !uart.is_tx_fifo_full() {
                uart.write_word(bytes[written]);
                written += 1;
            }
            written
        }
    })
}

/// Reads as much input as there is and `buffer` holds; returns how much.
pub(crate) fn read(buffer: &mut [u8]) -> usize {
    with(|device| match device {
        Device::None => 0,
        Device::Paravirtual(input) => {
            if input.is_empty() {
                let result = smccc::call(CONSOLE_READ, [0; 7]);
                let bytes = result[1..]
                    .iter()
                    .flat_map(|word| word.to_le_bytes())
                    .take((result[0] as i64).clamp(0, CONSOLE_READ_MAX as i64) as usize);
                input.extend(bytes);
            }
            let mut read = 0;
            while read < buffer.len()
                && let Some(byte) = input.pop_front()
            {
                buffer[read] = byte;
                read += 1;
            }
            read
        }
        Device::Pl011(uart) => {
            let mut read = 0;
            // A byte with a framing, parity or overrun error is lost.
            while read < buffer.len() && !uart.is_rx_fifo_empty() {
                if let Ok(Some(byte)) = uart.read_word() {
                    buffer[read] = byte;
                    read += 1;
                }
            }
            read
        }
    })
}

/// Opens the interrupt for these events ([`RX`], [`TX`]) and no others. It is a level.
pub(crate) fn listen(events: u64) {
    with(|device| match device {
        Device::None => {}
        Device::Paravirtual(_) => {
            smccc::call(CONSOLE_EVENTS, [events, 0, 0, 0, 0, 0, 0]);
        }
        Device::Pl011(uart) => {
            let mut masks = Interrupts::empty();
            masks.set(Interrupts::RXI | Interrupts::RTI, events & RX != 0);
            masks.set(Interrupts::TXI, events & TX != 0);
            uart.set_interrupt_masks(masks);
        }
    });
}
