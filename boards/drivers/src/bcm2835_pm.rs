//! The power manager of the BCM2835 and its successors (`soc/bcm/brcm,bcm2835-pm.yaml`): its watchdog is the only way to
//! turn off or reset a Raspberry Pi from its Arm cores without PSCI. Broadcom documents no register of it; what stands
//! here is common knowledge of Linux (`drivers/watchdog/bcm2835_wdt.c`), U-Boot and QEMU.

use crate::mmio::Mmio;

const RSTC: usize = 0x1c;
const RSTS: usize = 0x20;
const WDOG: usize = 0x24;

/// In the upper byte of every write.
const PASSWORD: u32 = 0x5a << 24;
/// RSTC: what happens when the watchdog expires.
const RSTC_CONFIG: u32 = 3 << 4;
const RSTC_FULL_RESET: u32 = 2 << 4;
/// RSTS: the boot partition, in every other bit; firmware takes partition 63 as a request to halt.
const RSTS_PARTITION: u32 = 0x555;
/// 16 µs units.
const SOON: u32 = 10;

/// The power manager.
#[derive(Debug)]
pub struct Bcm2835Pm {
    mmio: Mmio<0x100>,
}

impl Bcm2835Pm {
    /// The power manager with these registers; `None` if there are not enough.
    pub fn new(device: &arch::mmu::DeviceMemory) -> Option<Self> {
        Some(Self { mmio: Mmio::within(device, 0)? })
    }

    /// Resets the machine about 160 µs from now.
    fn reset(&mut self) {
        self.mmio.write(WDOG, PASSWORD | SOON);
        let others = self.mmio.read(RSTC) & !(0xff << 24 | RSTC_CONFIG);
        self.mmio.write(RSTC, PASSWORD | others | RSTC_FULL_RESET);
    }

    /// Resets the machine into firmware's halt.
    pub fn halt(&mut self) {
        let status = self.mmio.read(RSTS) & !(0xff << 24);
        self.mmio.write(RSTS, PASSWORD | status | RSTS_PARTITION);
        self.reset();
    }
}
