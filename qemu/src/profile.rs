//! Where EL2's instructions go: by function, and by kind of instruction.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use addr2line::Loader;
use anyhow::{Context, Result, anyhow};
use object::{Object, ObjectSymbol};

/// The vector tables, of which one is in VBAR_EL2.
const VECTORS: &str = "mobivmm_vectors";
/// The image is loaded at a multiple of this.
const ALIGNMENT: u64 = 1 << 16;

/// What an instruction does, as far as its cost goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// MRS.
    SystemRead,
    /// MSR, of a register or a PSTATE field; cache and TLB maintenance.
    SystemWrite,
    /// DSB, DMB, ISB.
    Barrier,
    /// A load.
    Load,
    /// A store, also an atomic read-modify-write.
    Store,
    /// A branch, call or return.
    Branch,
    /// Arithmetic.
    Other,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::SystemRead,
        Self::SystemWrite,
        Self::Barrier,
        Self::Load,
        Self::Store,
        Self::Branch,
        Self::Other,
    ];

    /// A short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SystemRead => "mrs",
            Self::SystemWrite => "msr",
            Self::Barrier => "barrier",
            Self::Load => "load",
            Self::Store => "store",
            Self::Branch => "branch",
            Self::Other => "other",
        }
    }

    /// The class of an A64 instruction (Arm ARM, chapter "A64 Instruction Set Encoding").
    pub fn of(word: u32) -> Self {
        match word {
            _ if word >> 20 == 0xd53 => Self::SystemRead,
            _ if word >> 12 == 0xd5033 => Self::Barrier,
            // Hints do nothing that counts.
            _ if word >> 12 == 0xd5032 => Self::Other,
            _ if word >> 22 == 0x354 => Self::SystemWrite,
            _ if word >> 26 & 7 == 5 => Self::Branch,
            _ if word >> 25 & 5 == 4 => {
                let (simd, opc) = (word >> 26 & 1 == 1, word >> 22 & 3);
                let atomic = word >> 24 & 1 == 0 && word >> 21 & 1 == 1 && word >> 10 & 3 == 0;
                let load = match word >> 27 & 7 {
                    0b011 => true, // literal
                    0b111 if !simd => opc != 0 && !atomic,
                    _ => opc & 1 != 0,
                };
                if load { Self::Load } else { Self::Store }
            }
            _ => Self::Other,
        }
    }
}

/// Says of EL2's instructions what function they belong to and what they do.
pub struct Code {
    loader: Loader,
    image: Vec<u8>,
    vectors: Vec<u64>,
    base: Option<u64>,
    known: HashMap<u64, Place>,
}

/// What is known of an instruction.
#[derive(Clone, Debug)]
struct Place {
    /// The innermost function, which may be inlined, then those that it is inlined in.
    functions: Vec<String>,
    class: Class,
}

impl Code {
    /// Reads the EL2 program's ELF file, and the flat image that is made of it.
    ///
    /// # Errors
    /// One of them cannot be read.
    pub fn load(elf: &Path, image: &Path) -> Result<Self> {
        let loader = Loader::new(elf).map_err(|error| anyhow!("{}: {error}", elf.display()))?;
        let bytes = std::fs::read(elf).with_context(|| elf.display().to_string())?;
        let file = object::File::parse(&*bytes)?;
        let vectors =
            file.symbols().filter(|symbol| symbol.name().is_ok_and(|name| name.starts_with(VECTORS)));
        let vectors = vectors.map(|symbol| symbol.address()).collect();
        let image = std::fs::read(image).with_context(|| image.display().to_string())?;
        Ok(Self { loader, image, vectors, base: None, known: HashMap::new() })
    }

    /// Learns from VBAR_EL2 where the program was loaded.
    pub fn set_vbar(&mut self, vbar: u64) {
        if self.base.is_none() {
            let bases = self.vectors.iter().filter_map(|vectors| vbar.checked_sub(*vectors));
            self.base = bases.into_iter().find(|base| base.is_multiple_of(ALIGNMENT));
        }
    }

    /// Whether the instruction at `pc` belongs to a function, or to one inlined in one, whose name begins with `prefix`.
    pub fn is_in(&mut self, pc: u64, prefix: &str) -> bool {
        self.place(pc).functions.iter().any(|name| name.trim_start_matches('<').starts_with(prefix))
    }

    fn place(&mut self, pc: u64) -> &Place {
        let address = self.base.map_or(u64::MAX, |base| pc.wrapping_sub(base));
        let (loader, image) = (&self.loader, &self.image);
        self.known.entry(pc).or_insert_with(|| {
            let at = address as usize;
            let word =
                at.checked_add(4).and_then(|end| image.get(at..end)).and_then(|word| word.try_into().ok());
            let class = Class::of(u32::from_le_bytes(word.unwrap_or_default()));
            Place { functions: functions(loader, address), class }
        })
    }
}

fn functions(loader: &Loader, address: u64) -> Vec<String> {
    let mut names = Vec::new();
    if let Ok(mut frames) = loader.find_frames(address) {
        while let Ok(Some(frame)) = frames.next() {
            names.extend(frame.function.and_then(|name| Some(name.demangle().ok()?.into_owned())));
        }
    }
    if names.is_empty() {
        // Assembly has symbols only.
        names.push(loader.find_symbol(address).unwrap_or("?").to_owned());
    }
    names
}

/// How often instructions of a path were executed, by function.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    functions: BTreeMap<String, BTreeMap<Class, u64>>,
}

impl Profile {
    /// Counts an instruction that was executed so often.
    pub fn add(&mut self, code: &mut Code, pc: u64, times: u64) {
        let place = code.place(pc);
        let (inner, class) = (&place.functions[0], place.class);
        let name = match place.functions.last() {
            Some(outer) if outer != inner => format!("{inner}  [in {outer}]"),
            _ => inner.clone(),
        };
        *self.functions.entry(name).or_default().entry(class).or_default() += times;
    }

    /// By function and class of instruction, the most expensive function first.
    pub fn functions(&self) -> Vec<(&str, &BTreeMap<Class, u64>)> {
        let mut functions: Vec<_> = self.functions.iter().map(|(name, mix)| (name.as_str(), mix)).collect();
        functions.sort_by_key(|(name, mix)| (std::cmp::Reverse(mix.values().sum::<u64>()), *name));
        functions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_have_classes() {
        for (word, class) in [
            (0xd538_4240, Class::SystemRead),  // mrs x0, CurrentEL
            (0xd51c_4000, Class::SystemWrite), // msr spsr_el2, x0
            (0xd503_42df, Class::SystemWrite), // msr daifset, #2
            (0xd508_871f, Class::SystemWrite), // tlbi vmalle1
            (0xd503_3fdf, Class::Barrier),     // isb
            (0xd503_379f, Class::Barrier),     // dsb nsh
            (0xd503_201f, Class::Other),       // nop
            (0xf940_0000, Class::Load),        // ldr x0, [x0]
            (0x3940_0000, Class::Load),        // ldrb w0, [x0]
            (0xb980_0000, Class::Load),        // ldrsw x0, [x0]
            (0xf860_6800, Class::Load),        // ldr x0, [x0, x0]
            (0xf840_8400, Class::Load),        // ldr x0, [x0], #8
            (0x5800_0000, Class::Load),        // ldr x0, .
            (0xa940_0400, Class::Load),        // ldp x0, x1, [x0]
            (0xa8c1_7bfd, Class::Load),        // ldp x29, x30, [sp], #16
            (0x885f_fc20, Class::Load),        // ldaxr w0, [x1]
            (0xf900_0000, Class::Store),       // str x0, [x0]
            (0xf820_6800, Class::Store),       // str x0, [x0, x0]
            (0xa900_0400, Class::Store),       // stp x0, x1, [x0]
            (0x8802_fc20, Class::Store),       // stlxr w2, w0, [x1]
            (0x1400_0000, Class::Branch),      // b .
            (0xb400_0000, Class::Branch),      // cbz x0, .
            (0xd65f_03c0, Class::Branch),      // ret
            (0xd69f_03e0, Class::Branch),      // eret
            (0x8b00_0000, Class::Other),       // add x0, x0, x0
            (0xd280_0000, Class::Other),       // mov x0, #0
        ] {
            assert_eq!(Class::of(word), class, "{word:#x}");
        }
    }
}
