//! Explains EL2's backtraces.
//!
//! After a line that begins with `PANIC` the hypervisor prints one line a frame, `  #N 0xADDRESS`: a return address, counted
//! from the start of the image.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use addr2line::Loader;
use anyhow::{Result, anyhow};
use regex::Regex;

/// Bytes of an A64 instruction.
const INSTRUCTION: u64 = 4;

/// The debug information of the EL2 program.
pub struct Symbols {
    loader: Loader,
    source_root: PathBuf,
}

impl Symbols {
    /// Reads the ELF file of the EL2 program, which is linked at address 0. Paths below `source_root` are shown relative
    /// to it.
    ///
    /// # Errors
    /// If it is no ELF file or has no usable debug information.
    pub fn load(elf: &Path, source_root: &Path) -> Result<Self> {
        let loader = Loader::new(elf).map_err(|error| anyhow!("{}: {error}", elf.display()))?;
        Ok(Self { loader, source_root: source_root.into() })
    }

    /// What a line of a backtrace is about, as `function (file:line)`, and after it what that is inlined in. `None` if
    /// it is no such line, or the address is nowhere.
    pub(crate) fn explain(&self, line: &str) -> Option<String> {
        // The call lies before the return address, which may belong to the next line or even function.
        let call = frame_address(line)?.checked_sub(INSTRUCTION)?;
        let mut frames = self.loader.find_frames(call).ok()?;
        let mut found = Vec::new();
        while let Ok(Some(frame)) = frames.next() {
            let name =
                frame.function.as_ref().and_then(|function| Some(function.demangle().ok()?.into_owned()));
            let place =
                frame.location.and_then(|at| Some(format!("{}:{}", self.relative(at.file?), at.line?)));
            found.push(format!("{} ({})", name.as_deref().unwrap_or("?"), place.as_deref().unwrap_or("?")));
        }
        (!found.is_empty()).then(|| found.join(", inlined in "))
    }

    fn relative<'a>(&self, file: &'a str) -> &'a str {
        Path::new(file).strip_prefix(&self.source_root).ok().and_then(Path::to_str).unwrap_or(file)
    }
}

fn frame_address(line: &str) -> Option<u64> {
    static FRAME: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"^\s*#\d+ 0x([0-9a-fA-F]{1,16})$").expect("a constant"));
    u64::from_str_radix(&FRAME.captures(line)?[1], 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object, ObjectSymbol};

    #[inline(never)]
    fn a_function_to_be_found(n: u64) -> u64 {
        std::hint::black_box(n) + 1
    }

    #[test]
    fn a_frame_is_explained_by_function_and_place() {
        a_function_to_be_found(1);
        // The test program itself, which like EL2's is linked at 0.
        let program = std::env::current_exe().unwrap();
        let bytes = std::fs::read(&program).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let wanted =
            |symbol: &object::Symbol| symbol.name().is_ok_and(|name| name.contains("a_function_to_be_found"));
        let address = file.symbols().find(wanted).unwrap().address();

        let symbols =
            Symbols::load(&program, Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        let found = symbols.explain(&format!("  #0 {:#x}", address + INSTRUCTION)).unwrap();
        assert!(found.contains("::a_function_to_be_found (qemu/src/symbols.rs:"), "{found}");
        assert!(!found.contains("inlined"), "{found}");
        for nowhere in ["  #1 0xffffffffffff0000", "  #1 0x0"] {
            assert_eq!(symbols.explain(nowhere), None);
        }
    }

    #[test]
    fn only_frames_are_frames() {
        assert_eq!(frame_address("  #12 0x1aF"), Some(0x1AF));
        for line in ["", "#x 0x1", "  #0 1f", "  #0 0x11111111111111111", "see #0 0x1", "  #0 0x1 x"] {
            assert_eq!(frame_address(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_file_without_symbols_is_refused_by_name() {
        let error = Symbols::load(Path::new("/no/such.elf"), Path::new("/")).err().unwrap();
        assert!(error.to_string().starts_with("/no/such.elf: "), "{error}");
    }
}
