//! Devices without hardware, for tests of drivers on embedded-hal: an SPI whose output is its input, and a memory on an
//! I2C bus. (A serial line and pins that lead back are the two ends of a [`Local`](crate::pv::channel::Local) channel.)

use core::convert::Infallible;

use embedded_hal::i2c::{self, ErrorKind, I2c, NoAcknowledgeSource};
use embedded_hal::spi::{self, SpiBus, SpiDevice};

use crate::time::{self, ExtU64};

/// An SPI whose MOSI is wired to its MISO: it reads what it writes at the same time. Where it only reads, it writes zeros.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spi;

impl spi::ErrorType for Spi {
    type Error = Infallible;
}

impl SpiBus for Spi {
    fn read(&mut self, words: &mut [u8]) -> Result<(), Infallible> {
        words.fill(0);
        Ok(())
    }

    fn write(&mut self, _words: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn transfer(&mut self, read: &mut [u8], write: &[u8]) -> Result<(), Infallible> {
        let sent = write.iter().copied().chain(core::iter::repeat(0));
        read.iter_mut().zip(sent).for_each(|(word, sent)| *word = sent);
        Ok(())
    }

    fn transfer_in_place(&mut self, _words: &mut [u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl SpiDevice for Spi {
    fn transaction(&mut self, operations: &mut [spi::Operation<'_, u8>]) -> Result<(), Infallible> {
        for operation in operations {
            match operation {
                spi::Operation::Read(words) => SpiBus::read(self, words)?,
                spi::Operation::Write(words) => SpiBus::write(self, words)?,
                spi::Operation::Transfer(read, write) => SpiBus::transfer(self, read, write)?,
                spi::Operation::TransferInPlace(words) => SpiBus::transfer_in_place(self, words)?,
                spi::Operation::DelayNs(ns) => time::delay(u64::from(*ns).nanos()),
            }
        }
        Ok(())
    }
}

/// An I2C bus with one device, a memory of `SIZE` bytes (256 at the most): the first byte that is written to it is an
/// address in it, further ones go there and behind; reading goes on from where that ended.
#[derive(Clone, Debug)]
pub struct I2cMemory<const SIZE: usize> {
    device: u8,
    bytes: [u8; SIZE],
    next: usize,
}

impl<const SIZE: usize> I2cMemory<SIZE> {
    /// A memory of zeros with the 7-bit address `device`.
    pub const fn new(device: u8) -> Self {
        const { assert!(SIZE > 0 && SIZE <= 256) };
        Self { device, bytes: [0; SIZE], next: 0 }
    }

    fn advance(&mut self) -> &mut u8 {
        let at = self.next;
        self.next = (at + 1) % SIZE;
        &mut self.bytes[at]
    }
}

impl<const SIZE: usize> i2c::ErrorType for I2cMemory<SIZE> {
    type Error = ErrorKind;
}

impl<const SIZE: usize> I2c for I2cMemory<SIZE> {
    /// # Errors
    /// `NoAcknowledge` if the address is not the memory's.
    fn transaction(&mut self, device: u8, operations: &mut [i2c::Operation<'_>]) -> Result<(), ErrorKind> {
        if device != self.device {
            return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
        }
        // Operations of one kind that follow each other are one transfer.
        let mut writing = false;
        for operation in operations {
            match operation {
                i2c::Operation::Read(bytes) => {
                    writing = false;
                    bytes.iter_mut().for_each(|byte| *byte = *self.advance());
                }
                i2c::Operation::Write(bytes) => {
                    for &byte in bytes.iter() {
                        if writing {
                            *self.advance() = byte;
                        } else {
                            self.next = usize::from(byte) % SIZE;
                            writing = true;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
