//! What a directory of the cache holds: the packages that it came from, and its files with their sizes and hashes.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::cache::digest_file;
use super::packages::Package;

/// The manifest's name in the directory that it describes.
const NAME: &str = "MANIFEST";

/// The contents of a directory of the cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Where it came from.
    pub packages: Vec<Package>,
    /// Path below the directory, size in bytes and SHA-256 of each file.
    pub files: Vec<(PathBuf, u64, String)>,
}

impl Manifest {
    /// Describes the directory as it is and leaves the description in it.
    pub fn write(directory: &Path, packages: &[Package]) -> Result<()> {
        let mut paths = Vec::new();
        collect(directory, Path::new(""), &mut paths)?;
        paths.sort();
        let mut text = String::new();
        for package in packages {
            writeln!(text, "package {package}")?;
        }
        for path in &paths {
            let file = directory.join(path);
            writeln!(text, "file {} {} {}", fs::metadata(&file)?.len(), digest_file(&file)?, path.display())?;
        }
        let file = directory.join(NAME);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Reads the directory's description.
    pub fn load(directory: &Path) -> Result<Self> {
        let file = directory.join(NAME);
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let mut manifest = Self::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("package", package)) => manifest.packages.push(Package::parse(package)?),
                Some(("file", file)) => {
                    let [size, sha256, path] = file.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                        bail!("not `file size sha256 path`: {line}");
                    };
                    let size = size.parse().with_context(|| format!("{path}: {size} is no size"))?;
                    manifest.files.push((path.into(), size, sha256.into()));
                }
                _ => bail!("neither a package nor a file: {line}"),
            }
        }
        ensure!(!manifest.files.is_empty(), "no files are listed");
        Ok(manifest)
    }

    /// Checks that all files are there and have their sizes: cheap enough for every run.
    pub fn check(&self, directory: &Path) -> Result<()> {
        for (path, size, _) in &self.files {
            let file = directory.join(path);
            let found = fs::metadata(&file).with_context(|| format!("{} is missing", file.display()))?.len();
            ensure!(found == *size, "{} has {found} bytes instead of {size}", file.display());
        }
        Ok(())
    }

    /// Checks the files' contents too.
    pub fn verify(&self, directory: &Path) -> Result<()> {
        self.check(directory)?;
        for (path, _, sha256) in &self.files {
            let file = directory.join(path);
            ensure!(digest_file(&file)? == *sha256, "{} has been changed", file.display());
        }
        Ok(())
    }
}

/// Collects the regular files below `directory`, as paths below `root`.
fn collect(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let whole = root.join(directory);
    for entry in fs::read_dir(&whole).with_context(|| format!("cannot list {}", whole.display()))? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        match entry.file_type()? {
            kind if kind.is_dir() => collect(root, &path, files)?,
            kind if kind.is_file() => files.push(path),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> (tempfile::TempDir, Manifest) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("bin")).unwrap();
        fs::write(directory.path().join("bin/a b"), "12345").unwrap();
        fs::write(directory.path().join("c"), "").unwrap();
        let package = Package { name: "x".into(), version: "1:2".into(), size: 3, sha256: "0".repeat(64) };
        Manifest::write(directory.path(), &[package]).unwrap();
        let manifest = Manifest::load(directory.path()).unwrap();
        (directory, manifest)
    }

    #[test]
    fn an_untouched_directory_passes() {
        let (directory, manifest) = example();
        assert_eq!(manifest.packages[0].version, "1:2");
        let paths: Vec<_> =
            manifest.files.iter().map(|(path, size, _)| (path.to_str().unwrap(), *size)).collect();
        assert_eq!(paths, [("bin/a b", 5), ("c", 0)]);
        manifest.check(directory.path()).unwrap();
        manifest.verify(directory.path()).unwrap();
    }

    #[test]
    fn missing_and_truncated_files_are_seen_at_once() {
        let (directory, manifest) = example();
        fs::write(directory.path().join("bin/a b"), "1234").unwrap();
        assert!(manifest.check(directory.path()).unwrap_err().to_string().contains("4 bytes instead of 5"));
        fs::remove_file(directory.path().join("bin/a b")).unwrap();
        assert!(manifest.check(directory.path()).unwrap_err().to_string().contains("is missing"));
    }

    #[test]
    fn changed_contents_are_seen_by_verifying() {
        let (directory, manifest) = example();
        fs::write(directory.path().join("bin/a b"), "12346").unwrap();
        manifest.check(directory.path()).unwrap();
        assert!(manifest.verify(directory.path()).unwrap_err().to_string().contains("has been changed"));
    }

    #[test]
    fn a_truncated_description_is_refused() {
        assert!(Manifest::parse("").is_err());
        assert!(Manifest::parse("file 12").is_err());
        assert!(Manifest::parse("fil").is_err());
    }
}
