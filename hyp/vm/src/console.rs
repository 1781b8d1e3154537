//! A VM's console: the PL011 between the guest, the host's console and the interrupt controller.

use crate::bus::UART_INTID;
use crate::handle::Host;
use crate::pl011::{Line, Pl011};
use crate::vm::Vm;

/// The host's end of the line.
struct HostLine<'a, H>(&'a Vm, &'a H);

impl<H: Host> Line for HostLine<'_, H> {
    fn put(&self, bytes: &[u8]) -> usize {
        self.1.console_put(self.0, bytes).min(bytes.len())
    }

    fn room(&self) -> usize {
        self.1.console_room(self.0)
    }

    fn taken(&self, bytes: usize) {
        self.1.console_taken(self.0, bytes);
    }
}

/// Does something to the UART, and makes its interrupt line fit. The line is set with the UART locked, so that two
/// CPUs' changes reach the vGIC in the order in which they happened.
fn with<H: Host, R>(vm: &Vm, host: &H, f: impl FnOnce(&mut Pl011, &HostLine<'_, H>) -> R) -> R {
    let line = HostLine(vm, host);
    let mut uart = vm.uart.lock();
    let result = f(&mut uart, &line);
    let level = uart.interrupt(&line);
    vm.line(host, 0, UART_INTID, level);
    result
}

/// A guest's read of a PL011 register. Only the data register's read changes anything.
pub(crate) fn read(vm: &Vm, offset: u64, host: &impl Host) -> u64 {
    if offset == 0 {
        return with(vm, host, |uart, line| uart.read(offset, line)).into();
    }
    vm.uart.lock().read(offset, &HostLine(vm, host)).into()
}

/// A guest's write of a PL011 register.
pub(crate) fn write(vm: &Vm, offset: u64, value: u64, host: &impl Host) {
    with(vm, host, |uart, line| uart.write(offset, value as u32, line));
}

/// CONSOLE_WRITE.
pub(crate) fn pv_write(vm: &Vm, bytes: &[u8], host: &impl Host) -> usize {
    with(vm, host, |uart, line| uart.pv_write(bytes, line))
}

/// CONSOLE_READ.
pub(crate) fn pv_read(vm: &Vm, buffer: &mut [u8], host: &impl Host) -> usize {
    with(vm, host, |uart, line| uart.pv_read(buffer, line))
}

/// CONSOLE_EVENTS.
pub(crate) fn pv_events(vm: &Vm, events: u64, host: &impl Host) {
    with(vm, host, |uart, _| uart.set_pv_events(events));
}

impl Vm {
    /// Bytes typed into the VM's console. Returns how many were taken: all, while the sender keeps to
    /// [`abi::mux::RX_WINDOW`] bytes beyond those that [`Host::console_taken`] gave back.
    pub fn console_input(&self, bytes: &[u8], host: &impl Host) -> usize {
        with(self, host, |uart, _| uart.input(bytes))
    }

    /// The host's console has room again, after it took less than it was offered.
    pub fn console_ready(&self, host: &impl Host) {
        with(self, host, |uart, line| uart.ready(line));
    }
}
