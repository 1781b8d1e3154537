//! Explains EL2's backtraces.
//!
//! After a line that begins with `PANIC` the hypervisor prints one line a frame, `  #N 0xADDRESS`: the distance of the
//! instruction from the start of the image (that of the call, not that of its return address).

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use addr2line::Loader;
use anyhow::{Result, anyhow};
use regex::Regex;

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
        Ok(Self {
            loader,
            source_root: source_root.into(),
        })
    }

    /// The functions that a line of a backtrace is about, innermost first (more than one where calls were inlined);
    /// none if it is no such line.
    pub(crate) fn explain(&self, line: &str) -> Vec<String> {
        frame_address(line).map_or_else(Vec::new, |address| self.functions(address))
    }

    fn functions(&self, address: u64) -> Vec<String> {
        let mut found = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame
                    .function
                    .as_ref()
                    .and_then(|f| f.demangle().ok().map(|name| name.into_owned()));
                let place = frame
                    .location
                    .and_then(|l| Some(format!("{}:{}", self.relative(l.file?), l.line?)));
                found.push(format!(
                    "{} ({})",
                    name.as_deref().unwrap_or("?"),
                    place.as_deref().unwrap_or("?")
                ));
            }
        }
        found
    }

    fn relative<'a>(&self, file: &'a str) -> &'a str {
        Path::new(file)
            .strip_prefix(&self.source_root)
            .ok()
            .and_then(Path::to_str)
            .unwrap_or(file)
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
        let wanted = |symbol: &object::Symbol| {
            symbol
                .name()
                .is_ok_and(|name| name.contains("a_function_to_be_found"))
        };
        let address = file.symbols().find(wanted).unwrap().address();

        let symbols =
            Symbols::load(&program, Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()).unwrap();
        let found = symbols.explain(&format!("  #0 {address:#x}"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("::a_function_to_be_found"), "{found:?}");
        assert!(found[0].contains("qemu/src/symbols.rs:"), "{found:?}");
        assert!(symbols.explain("  #1 0xffffffffffff0000").is_empty());
    }

    #[test]
    fn only_frames_are_frames() {
        assert_eq!(frame_address("  #12 0x1aF"), Some(0x1AF));
        for line in [
            "",
            "#x 0x1",
            "  #0 1f",
            "  #0 0x11111111111111111",
            "see #0 0x1",
            "  #0 0x1 x",
        ] {
            assert_eq!(frame_address(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_file_without_symbols_is_refused_by_name() {
        let error = Symbols::load(Path::new("/no/such.elf"), Path::new("/"))
            .err()
            .unwrap();
        assert!(error.to_string().starts_with("/no/such.elf: "), "{error}");
    }
}
