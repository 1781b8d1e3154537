//! The directory that setup keeps everything in. Nothing outside of it is changed.
//!
//! A part appears under its name only when it is whole: it is put together in a scratch directory and renamed. One
//! setup at a time works in the cache; others wait for it.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::manifest::Manifest;
use super::packages::Package;
use super::report::note;

/// What the names of scratch directories begin with.
const SCRATCH: &str = "tmp-";

/// The cache's place.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The place that the user named, or else the usual one (XDG Base Directory Specification 0.8).
    pub fn locate(named: Option<&Path>) -> Result<Self> {
        let root = match (named, absolute("XDG_CACHE_HOME"), absolute("HOME")) {
            (Some(root), ..) => std::path::absolute(root)?,
            (None, Some(base), _) => base.join("mobivmm"),
            (None, None, Some(home)) => home.join(".cache/mobivmm"),
            (None, None, None) => bail!("no place for the cache: neither HOME nor MOBIVMM_CACHE is set"),
        };
        Ok(Self { root })
    }

    /// The cache's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a part lies, if it is there and whole.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        let directory = self.root.join(name);
        let whole = Manifest::load(&directory).and_then(|manifest| manifest.check(&directory));
        whole.is_ok().then_some(directory)
    }

    /// Takes the cache for this process, and clears what an interrupted setup left.
    pub fn lock(&self) -> Result<CacheLock<'_>> {
        let hint = "name a directory that can be written with --cache or MOBIVMM_CACHE";
        let made = fs::create_dir_all(&self.root);
        made.with_context(|| format!("cannot create the cache {}; {hint}", self.root.display()))?;
        let path = self.root.join("lock");
        let file = File::create(&path).with_context(|| format!("cannot write {}; {hint}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                note(format_args!("waiting for another setup that works in {}", self.root.display()));
                file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        self.clear_scratch()?;
        Ok(CacheLock { cache: self, _file: file })
    }

    fn clear_scratch(&self) -> Result<()> {
        for entry in fs::read_dir(&self.root)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// An empty scratch directory; to be called with the lock held.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let directory = self.root.join(format!("{SCRATCH}{name}"));
        remove(&directory)?;
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        Ok(directory)
    }

    /// Makes a whole part of a scratch directory.
    pub fn publish(&self, scratch: &Path, name: &str, packages: &[Package]) -> Result<PathBuf> {
        Manifest::write(scratch, packages)?;
        let directory = self.root.join(name);
        remove(&directory)?;
        fs::rename(scratch, &directory)
            .with_context(|| format!("cannot rename to {}", directory.display()))?;
        Ok(directory)
    }

    /// Removes the parts that are damaged: whose files are missing, have not their recorded sizes or, if `thorough`,
    /// have not their recorded contents.
    pub fn drop_damaged(&self, thorough: bool) -> Result<()> {
        for directory in fs::read_dir(&self.root)?.flatten().map(|entry| entry.path()) {
            let Ok(manifest) = Manifest::load(&directory) else {
                continue;
            };
            let whole = if thorough { manifest.verify(&directory) } else { manifest.check(&directory) };
            match whole {
                Err(damage) => {
                    note(format_args!("{damage:#}: removing {}", directory.display()));
                    remove(&directory)?;
                }
                Ok(()) if thorough => {
                    note(format_args!("{}: {} files are right", directory.display(), manifest.files.len()));
                }
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// The right to change the cache. When it is dropped, the scratch directories go, whether their use succeeded or not.
#[derive(Debug)]
pub struct CacheLock<'a> {
    cache: &'a Cache,
    _file: File,
}

impl Drop for CacheLock<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.cache.clear_scratch() {
            note(format_args!("{error:#}"));
        }
    }
}

/// Writes a file that is either whole or not there.
pub fn write_whole(file: &Path, contents: &[u8]) -> Result<()> {
    let directory = file.parent().context("a file without a directory")?;
    let write = || {
        fs::create_dir_all(directory)?;
        let temporary = file.with_added_extension(format!("{}", std::process::id()));
        File::create(&temporary)?.write_all(contents)?;
        fs::rename(&temporary, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// The SHA-256 of these bytes, in lower-case hexadecimal.
pub fn digest(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// The SHA-256 of a file, in lower-case hexadecimal.
pub fn digest_file(path: &Path) -> Result<String> {
    let hash = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hexadecimal(&hash.finalize())),
                length => hash.update(&buffer[..length]),
            }
        }
    };
    hash().with_context(|| format!("cannot read {}", path.display()))
}

/// Removes a directory and all in it, if it is there.
pub fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::locate(Some(&directory.path().join("cache"))).unwrap();
        (directory, cache)
    }

    #[test]
    fn digests_are_those_of_fips_180() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc"), abc);
        let (_directory, cache) = cache();
        let file = cache.root().join("f");
        write_whole(&file, b"abc").unwrap();
        assert_eq!(digest_file(&file).unwrap(), abc);
    }

    #[test]
    fn a_part_appears_only_when_whole() {
        let (_directory, cache) = cache();
        let _lock = cache.lock().unwrap();
        let scratch = cache.scratch("x").unwrap();
        fs::write(scratch.join("file"), "contents").unwrap();
        assert_eq!(cache.find("x"), None);
        let part = cache.publish(&scratch, "x", &[]).unwrap();
        assert_eq!(cache.find("x"), Some(part.clone()));
        fs::write(part.join("file"), "").unwrap();
        assert_eq!(cache.find("x"), None);
    }

    #[test]
    fn what_an_interrupted_setup_left_is_cleared() {
        let (_directory, cache) = cache();
        drop(cache.lock().unwrap());
        let scratch = cache.scratch("x").unwrap();
        let _lock = cache.lock().unwrap();
        assert!(!scratch.exists());
    }

    #[test]
    fn damage_is_found_and_removed() {
        let (_directory, cache) = cache();
        let _lock = cache.lock().unwrap();
        let part = |name: &str| {
            let scratch = cache.scratch(name).unwrap();
            fs::write(scratch.join("file"), "contents").unwrap();
            cache.publish(&scratch, name, &[]).unwrap()
        };
        let (good, bad) = (part("good"), part("bad"));
        fs::write(bad.join("file"), "c0ntents").unwrap();
        assert!(cache.find("bad").is_some(), "sizes alone do not tell");
        cache.drop_damaged(false).unwrap();
        assert!(good.exists() && bad.exists());
        cache.drop_damaged(true).unwrap();
        assert!(good.exists() && !bad.exists());
        fs::remove_file(good.join("file")).unwrap();
        cache.drop_damaged(false).unwrap();
        assert!(!good.exists());
    }

    #[test]
    fn a_cache_that_cannot_be_written_says_what_to_do() {
        let (directory, _) = cache();
        fs::write(directory.path().join("file"), "").unwrap();
        let cache = Cache::locate(Some(&directory.path().join("file/cache"))).unwrap();
        assert!(format!("{:#}", cache.lock().unwrap_err()).contains("MOBIVMM_CACHE"));
    }
}
