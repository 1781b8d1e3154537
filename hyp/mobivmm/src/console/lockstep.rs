//! The wire under a deterministic clock: each chunk of output is answered at once, by semihosting, while virtual time stands still.
//! The protocol is in [`abi::mux`].

use abi::mux::{Decoder, Encoder, Event, LOCKSTEP_IN, LOCKSTEP_OUT};
use drivers::semihosting::{File, Mode};

pub struct Lockstep {
    out: File,
    input: File,
    pub encoder: Encoder,
    decoder: Decoder,
}

impl Lockstep {
    /// Opens both directions; `None` if the runner is not there.
    pub fn open() -> Option<Self> {
        let out = File::open(LOCKSTEP_OUT, Mode::Write)?;
        let input = File::open(LOCKSTEP_IN, Mode::Read)?;
        Some(Self { out, input, encoder: Encoder::default(), decoder: Decoder::default() })
    }

    /// Sends the chunk and calls `each` for what the reply holds.
    pub fn exchange(&mut self, chunk: &mut heapless::Vec<u8, 256>, mut each: impl FnMut(Event)) {
        self.encoder.sync(|byte| _ = chunk.push(byte));
        let mut length = [0; 2];
        if !self.out.write_all(chunk) || !self.input.read_exact(&mut length) {
            return;
        }
        let mut left = usize::from(u16::from_le_bytes(length));
        let mut buffer = [0; 64];
        while left > 0 {
            let part = left.min(buffer.len());
            if !self.input.read_exact(&mut buffer[..part]) {
                return;
            }
            buffer[..part].iter().filter_map(|&byte| self.decoder.push(byte)).for_each(&mut each);
            left -= part;
        }
    }
}
