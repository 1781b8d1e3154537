//! Limits on the source and the image.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;

use crate::{Lab, Test};

/// Bytes of the EL2 image.
const IMAGE_LIMIT: u64 = 256 << 10;
/// Lines of Rust of hyp/, the whole of EL2: tests, comments and empty lines left out. The core alone, before channels between VMs
/// came in, was held to 9,000; the design aims at 12,000.
const HYP_LINES: usize = 12_760;
/// Lines of one file.
const FILE_LINES: usize = 700;
/// The crates of hyp/ that may have `unsafe`.
const UNSAFE_CRATES: [&str; 2] = ["arch", "lock"];

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("rules_image_size", image_size),
        Test::new("rules_lines_of_code", lines_of_code),
        Test::new("rules_unsafe_code", unsafe_code),
    ]
}

fn image_size(lab: &Lab<'_>, _: &str) -> Result<()> {
    let len = fs::metadata(&lab.image).context("no EL2 image")?.len();
    ensure!(len <= IMAGE_LIMIT, "the EL2 image has {len} bytes: more than {IMAGE_LIMIT}");
    Ok(())
}

fn lines_of_code(lab: &Lab<'_>, _: &str) -> Result<()> {
    let mut hyp = 0;
    for file in sources(&lab.root)? {
        let text = fs::read_to_string(&file)?;
        let lines = text.lines().count();
        let path = file.strip_prefix(&lab.root)?;
        ensure!(lines <= FILE_LINES, "{} has {lines} lines: more than {FILE_LINES}", path.display());
        if path.starts_with("hyp")
            && path.extension().is_some_and(|extension| extension == "rs")
            && !is_apart(path)
        {
            hyp += lines_without_tests(&text);
        }
    }
    ensure!(hyp > 1_000, "{hyp} lines in hyp/: they are looked for in the wrong place");
    ensure!(hyp <= HYP_LINES, "hyp/ has {hyp} lines of Rust without tests: more than {HYP_LINES}");
    Ok(())
}

/// Which crates may have `unsafe` at all. That each use says why it is right is clippy's to check (`undocumented_unsafe_blocks`).
fn unsafe_code(lab: &Lab<'_>, _: &str) -> Result<()> {
    for entry in fs::read_dir(lab.root.join("hyp"))? {
        let directory = entry?.path();
        let roots = ["src/lib.rs", "src/main.rs"].map(|file| directory.join(file));
        let Some(root) = roots.iter().find(|file| file.exists()) else {
            continue;
        };
        let forbids = fs::read_to_string(root)?.contains("#![forbid(unsafe_code)]");
        let may = UNSAFE_CRATES.iter().any(|name| directory.ends_with(name));
        ensure!(forbids || may, "{} does not forbid unsafe code", root.display());
    }
    // Not a reference that is `'static`.
    let mutable_static = Regex::new(r"(^|[^'])\bstatic mut\b")?;
    for file in sources(&lab.root)? {
        let text = fs::read_to_string(&file)?;
        let line = text.lines().find(|line| is_code(line) && mutable_static.is_match(line));
        if let Some(line) = line {
            bail!("{}: {line}", file.display());
        }
    }
    Ok(())
}

/// The workspace's Rust and assembler files.
fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut directories) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let skip = name.starts_with('.') || name == "target";
            if path.is_dir() && !skip {
                directories.push(path);
            } else if name.ends_with(".rs") || name.ends_with(".S") {
                files.push(path);
            }
        }
    }
    Ok(files)
}

/// Whether a file is no part of EL2: in a directory of tests or of fuzz targets, a module of test code, or a build script.
fn is_apart(path: &Path) -> bool {
    const NAMES: [&str; 5] = ["tests", "fuzz", "tests.rs", "testing.rs", "build.rs"];
    path.components().any(|part| NAMES.iter().any(|name| part.as_os_str() == *name))
}

/// The number of lines of code outside `#[cfg(test)] mod … { }`, which end at a brace in the first column.
fn lines_without_tests(text: &str) -> usize {
    let (mut count, mut inside, mut last) = (0, false, "");
    for line in text.lines() {
        inside |= last == "#[cfg(test)]" && line.starts_with("mod ") && line.ends_with('{');
        count += usize::from(!inside && is_code(line));
        inside &= line != "}";
        last = line;
    }
    count
}

/// Whether there is more on a line than a comment.
fn is_code(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_and_comments_do_not_count() {
        assert_eq!(lines_without_tests("a\n\n#[cfg(test)]\nmod tests {\n    b {\n    }\n}\n  // no\nc\n"), 3);
        assert_eq!(lines_without_tests("a\n#[cfg(test)]\nmod tests;\nc\n"), 4);
        assert!(
            is_apart(Path::new("hyp/vm/src/exit/tests.rs"))
                && is_apart(Path::new("hyp/vgic/tests/vgic/v2.rs"))
        );
        assert!(is_apart(Path::new("hyp/mobivmm/build.rs")));
        assert!(!is_apart(Path::new("hyp/vm/src/exit.rs")));
    }
}
