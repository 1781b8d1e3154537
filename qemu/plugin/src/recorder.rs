//! What is recorded, where, and how it gets into the file.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};

use events::{Event, FLUSH, Guest, Kind};

use crate::api::{self, Array, Counter, Register};
use crate::decode::{Special, special};

/// Marks between which steps are recorded.
const STEPS_ON: u16 = 0xfff0;
const STEPS_OFF: u16 = 0xfff1;

/// Instructions below EL2, on a machine of several CPUs.
pub static BELOW: AtomicU64 = AtomicU64::new(0);

/// The plugin's arguments.
pub struct Options {
    out: String,
    entries: bool,
    steps: bool,
    /// From reset on, not from a mark.
    all_steps: bool,
    watch: Vec<u64>,
}

impl Options {
    /// Reads `key=value` arguments.
    pub fn parse(arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { out: String::new(), entries: true, steps: false, all_steps: false, watch: Vec::new() };
        for argument in arguments {
            let wrong = || format!("{argument}: no such argument");
            let (key, value) = argument.split_once('=').ok_or_else(wrong)?;
            match (key, value) {
                ("out", _) => options.out = value.into(),
                ("entries" | "steps", "on" | "off") => {
                    let on = value == "on";
                    *(if key == "steps" { &mut options.steps } else { &mut options.entries }) = on;
                }
                ("steps", "all") => (options.steps, options.all_steps) = (true, true),
                ("watch", _) => {
                    let digits = value.strip_prefix("0x").ok_or_else(wrong)?;
                    options.watch.push(u64::from_str_radix(digits, 16).map_err(|_| wrong())?);
                }
                _ => return Err(wrong()),
            }
        }
        if options.out.is_empty() { Err("out=FILE is missing".into()) } else { Ok(options) }
    }
}

/// An instruction with a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    Entry {
        vector: u16,
    },
    Return,
    Mask(bool),
    SetDaif(u8),
    Wait,
    Clock(u8),
    Mark(u16),
    Watch(u16),
    Look,
    /// A run of instructions at EL2.
    Run {
        pc: u64,
        count: u32,
    },
}

/// Bits of a packed [`Site`] that hold its number; those above hold what it is.
const KIND: u32 = 60;
/// Bits of a virtual address that are kept.
const PC_BITS: u32 = 48;

impl Site {
    /// As a number that QEMU keeps for us.
    pub fn pack(self) -> u64 {
        let (kind, value) = match self {
            Self::Entry { vector } => (0, vector.into()),
            Self::Return => (1, 0),
            Self::Mask(masked) => (2, masked.into()),
            Self::SetDaif(register) => (3, register.into()),
            Self::Wait => (4, 0),
            Self::Clock(register) => (5, register.into()),
            Self::Mark(id) => (6, id.into()),
            Self::Watch(index) => (7, index.into()),
            Self::Look => (8, 0),
            // A block has at most 512 instructions.
            Self::Run { pc, count } => (9, pc & ((1 << PC_BITS) - 1) | u64::from(count) << PC_BITS),
        };
        kind << KIND | value
    }

    /// From [`Self::pack`]'s number.
    pub fn unpack(packed: u64) -> Self {
        let value = packed & ((1 << KIND) - 1);
        match packed >> KIND {
            0 => Self::Entry { vector: value as u16 },
            1 => Self::Return,
            2 => Self::Mask(value != 0),
            3 => Self::SetDaif(value as u8),
            4 => Self::Wait,
            5 => Self::Clock(value as u8),
            6 => Self::Mark(value as u16),
            7 => Self::Watch(value as u16),
            8 => Self::Look,
            _ => {
                // Addresses are sign-extended.
                let unused = u64::BITS - PC_BITS;
                let pc = ((value << unused) as i64 >> unused) as u64;
                Self::Run { pc, count: (value >> PC_BITS) as u32 }
            }
        }
    }
}

/// The registers that are read. Handles are QEMU's pointers, which are never followed here.
#[derive(Default)]
struct Registers {
    handles: HashMap<&'static str, usize>,
    general: Vec<usize>,
}

const REGISTERS: [&str; 12] = [
    "cpsr",
    "VBAR_EL2",
    "ESR_EL2",
    "FAR_EL2",
    "HPFAR_EL2",
    "SPSR_EL2",
    "ELR_EL2",
    "VTTBR_EL2",
    "TPIDR_EL2",
    "CNTV_CVAL_EL0",
    "CNTVOFF_EL2",
    "x0",
];

/// Where instructions are counted.
enum Counts {
    /// In QEMU's scoreboard, at this address: below EL2, then at EL2 or above. There is one CPU.
    Inline(usize),
    /// At EL2 or above, by CPU, with the CPU's TPIDR_EL2.
    ByCpu(Vec<(u64, u64)>),
}

/// The plugin's state.
pub struct Recorder {
    options: Options,
    out: BufWriter<File>,
    registers: Registers,
    /// A byte array that takes register values: its address.
    buffer: usize,
    counts: Counts,
    /// Where CNTPCT_EL0 has just been read to a register.
    clocks: HashMap<u64, u8>,
    /// By how much CNTPCT_EL0 was ahead of the instructions when it was read last.
    idle: Option<u64>,
    stepping: bool,
}

impl Recorder {
    /// Opens the file. A FIFO must have its reader.
    pub fn new(options: Options, several_cpus: bool) -> Result<Self, String> {
        let out = File::create(&options.out).map_err(|error| format!("{}: {error}", options.out))?;
        // SAFETY: it is never freed.
        let buffer = unsafe { api::g_byte_array_new() };
        let counts = if several_cpus {
            Counts::ByCpu(Vec::new())
        } else {
            // SAFETY: two counters for each CPU; it is never freed.
            let score = unsafe { api::qemu_plugin_scoreboard_new(2 * size_of::<u64>()) };
            Counts::Inline(score.expose_provenance())
        };
        Ok(Self {
            stepping: options.all_steps,
            options,
            out: BufWriter::with_capacity(1 << 16, out),
            registers: Registers::default(),
            buffer: buffer.expose_provenance(),
            counts,
            clocks: HashMap::new(),
            idle: None,
        })
    }

    /// Whether the registers' handles are known.
    pub fn has_registers(&self) -> bool {
        !self.registers.handles.is_empty()
    }

    /// Takes the handles of all registers, by QEMU's names for them.
    pub fn set_registers(&mut self, handles: &HashMap<String, usize>) {
        let found = |name: &'static str| {
            let handle = handles.get(name);
            if handle.is_none() {
                eprintln!("mobivmm plugin: this CPU has no {name}");
            }
            Some((name, *handle?))
        };
        self.registers.handles = REGISTERS.into_iter().filter_map(found).collect();
        self.registers.general = (0..31).filter_map(|n| handles.get(&format!("x{n}")).copied()).collect();
    }

    /// PSTATE.EL of the CPU that runs this thread.
    pub fn exception_level(&mut self) -> u64 {
        self.register("cpsr") >> 2 & 3
    }

    /// Whether runs of instructions at EL2 are recorded.
    pub fn wants_steps(&self) -> bool {
        self.options.steps
    }

    /// The inline counter of instructions at EL2 and above, or of those below; `None` if they are counted by calls.
    pub fn counter(&self, el2: bool) -> Option<Counter> {
        let Counts::Inline(score) = self.counts else { return None };
        let offset = usize::from(el2) * size_of::<u64>();
        Some(Counter { score: std::ptr::with_exposed_provenance_mut(score), offset })
    }

    /// The index of the CPU that runs this thread.
    fn cpu(&mut self) -> usize {
        let own = self.register("TPIDR_EL2");
        let Counts::ByCpu(cpus) = &mut self.counts else { return 0 };
        cpus.iter().position(|(at, _)| *at == own).unwrap_or_else(|| {
            cpus.push((own, 0));
            cpus.len() - 1
        })
    }

    /// Instructions so far: below EL2, at EL2 or above, and those of a CPU there.
    fn counts(&self, cpu: usize) -> [u64; 3] {
        match &self.counts {
            Counts::ByCpu(cpus) => {
                let el2 = cpus.iter().map(|(_, count)| count).sum();
                [BELOW.load(Ordering::Relaxed), el2, cpus.get(cpu).map_or(0, |(_, count)| *count)]
            }
            Counts::Inline(_) => {
                // SAFETY: the scoreboard is never freed.
                let sum = |counter| unsafe { api::qemu_plugin_u64_sum(counter) };
                let [below, el2] = [false, true].map(|el2| self.counter(el2).map_or(0, sum));
                [below, el2, el2]
            }
        }
    }

    /// What is to be recorded at an instruction.
    pub fn sites(&mut self, el2: bool, pc: u64, word: u32) -> Vec<Site> {
        let mut sites = Vec::new();
        if !el2 {
            if let Some(index) = self.options.watch.iter().position(|&at| at == pc) {
                sites.push(Site::Watch(index as u16));
            }
            if let Some(Special::Mark(id)) = special(word) {
                sites.push(Site::Mark(id));
            }
            return sites;
        }
        if let Some(register) = self.clocks.get(&pc) {
            sites.push(Site::Clock(*register));
        }
        if let Some(Special::Counter(register)) = special(word) {
            // QEMU ends the block after it: the next one has not been translated yet.
            self.clocks.insert(pc + 4, register);
        }
        if !self.options.entries {
            return sites;
        }
        // The vectors are 2 KiB at VBAR_EL2, one every 128 bytes.
        let offset = pc.wrapping_sub(self.register("VBAR_EL2"));
        if offset < 0x800 && offset.is_multiple_of(0x80) {
            sites.push(Site::Entry { vector: offset as u16 });
        }
        match special(word) {
            Some(Special::Return) => sites.push(Site::Return),
            Some(Special::Wait) => sites.push(Site::Wait),
            Some(Special::Mask(masked)) => sites.push(Site::Mask(masked)),
            Some(Special::SetDaif(register)) => sites.push(Site::SetDaif(register)),
            Some(Special::Look) => sites.push(Site::Look),
            Some(Special::Counter(_) | Special::Mark(_)) | None => {}
        }
        sites
    }

    /// A CPU is about to execute the instruction of `site`: records it, or counts the run that it begins.
    pub fn execute(&mut self, site: Site) {
        let cpu = self.cpu();
        let kind = match site {
            Site::Entry { vector } => Kind::Entry {
                vector,
                esr: self.register("ESR_EL2"),
                far: self.register("FAR_EL2"),
                hpfar: self.register("HPFAR_EL2"),
            },
            Site::Return => Kind::Return {
                vmid: self.vmid(),
                spsr: self.register("SPSR_EL2"),
                elr: self.register("ELR_EL2"),
                vbar: self.register("VBAR_EL2"),
            },
            Site::Mask(masked) => Kind::Mask { masked },
            Site::SetDaif(register) => Kind::Mask { masked: self.general(register) & 0x80 != 0 },
            Site::Wait => Kind::Wait,
            Site::Look => Kind::Look,
            Site::Clock(register) => Kind::Clock { ticks: self.general(register) },
            Site::Mark(id) => Kind::Mark { id, guest: self.guest() },
            Site::Watch(index) => Kind::Watch { index, guest: self.guest() },
            Site::Run { pc, count } => {
                if self.stepping {
                    self.record(cpu, Kind::Steps { pc, count });
                }
                if let Counts::ByCpu(cpus) = &mut self.counts {
                    cpus[cpu].1 += u64::from(count);
                }
                return;
            }
        };
        self.record(cpu, kind);
    }

    fn record(&mut self, cpu: usize, kind: Kind) {
        let [below, el2, own] = self.counts(cpu);
        let total = below + el2;
        if let Kind::Clock { ticks } = kind {
            let ahead = Some(ticks.wrapping_sub(total));
            if std::mem::replace(&mut self.idle, ahead) == ahead {
                return;
            }
        }
        let event = Event { cpu: cpu as u8, total, el2, own, kind };
        if let Err(error) = self.out.write_all(&event.encode()) {
            eprintln!("mobivmm plugin: {}: {error}", self.options.out);
            std::process::exit(1);
        }
        if let Kind::Mark { id, .. } = kind {
            match id {
                STEPS_ON => self.stepping = true,
                STEPS_OFF => self.stepping = false,
                _ => {}
            }
            if id >= FLUSH {
                self.flush();
            }
        }
    }

    /// Has all that was recorded written out.
    pub fn flush(&mut self) {
        if let Err(error) = self.out.flush() {
            eprintln!("mobivmm plugin: {}: {error}", self.options.out);
        }
    }

    fn guest(&self) -> Guest {
        Guest {
            vmid: self.vmid(),
            x0: self.register("x0"),
            cval: self.register("CNTV_CVAL_EL0"),
            offset: self.register("CNTVOFF_EL2"),
        }
    }

    fn vmid(&self) -> u16 {
        (self.register("VTTBR_EL2") >> 48) as u16
    }

    /// A general register; 31 is zero.
    fn general(&self, n: u8) -> u64 {
        self.registers.general.get(usize::from(n)).map_or(0, |&handle| self.read(handle))
    }

    /// A register by name; 0 if this CPU does not have it.
    fn register(&self, name: &'static str) -> u64 {
        self.registers.handles.get(name).map_or(0, |&handle| self.read(handle))
    }

    fn read(&self, handle: usize) -> u64 {
        let buffer: *mut Array<u8> = std::ptr::with_exposed_provenance_mut(self.buffer);
        let register: *mut Register = std::ptr::with_exposed_provenance_mut(handle);
        let mut value = [0; 8];
        // SAFETY: the handle is QEMU's, this runs in a callback of the CPU that reads registers, and the recorder's lock is held, so
        // nobody else uses the buffer, which QEMU has extended by the register's bytes.
        unsafe {
            api::g_byte_array_set_size(buffer, 0);
            api::qemu_plugin_read_register(register, buffer);
            let bytes = std::slice::from_raw_parts((*buffer).data, (*buffer).len as usize);
            let len = bytes.len().min(value.len());
            value[..len].copy_from_slice(&bytes[..len]);
        }
        u64::from_le_bytes(value)
    }
}
