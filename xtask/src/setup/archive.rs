//! Brings the packages of a set from Debian's archive.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::apt::{Apt, Download};
use super::cache::{Cache, digest_file};
use super::packages::{Package, PackageLock, Set};
use super::report::{note, step};

/// Where the packages come from and into.
#[derive(Clone, Copy)]
pub struct Archive<'a> {
    /// Receives them.
    pub cache: &'a Cache,
    /// Those that are known to work.
    pub lock: &'a PackageLock,
    /// The server, without `/debian`.
    pub mirror: &'a str,
}

impl Archive<'_> {
    /// The name in the cache of what a set becomes.
    pub fn part(&self, set: &Set) -> String {
        let architecture = architecture(set);
        format!("{}-{architecture}-{}", set.name, self.lock.key(set, architecture))
    }

    /// Downloads a set's packages and returns them with their files, which lie in a scratch directory.
    pub fn fetch(&self, set: &Set) -> Result<Vec<(Package, PathBuf)>> {
        let architecture = architecture(set);
        let lists = format!("reading Debian's package lists for {architecture}");
        let apt = step(lists, || Apt::update(self.cache, architecture, self.mirror))?;
        let downloads = self.choose(&apt, set, architecture)?;

        let scratch = self.cache.scratch(&format!("{}-packages", set.name))?;
        let size: u64 = downloads.iter().map(|download| download.package.size).sum();
        let what = format!(
            "downloading {} packages ({} MB): {}",
            downloads.len(),
            size / 1_000_000,
            set.install.join(", ")
        );
        step(what, || apt.download(&downloads, &scratch))?;
        downloads.into_iter().map(|download| verified(download, &scratch)).collect()
    }

    /// The packages that are known to work, or else what the archive has now.
    fn choose(&self, apt: &Apt, set: &Set, architecture: &str) -> Result<Vec<Download>> {
        let known = self.lock.packages(set, architecture);
        if !known.is_empty()
            && let Some(downloads) = apt.offers(known)?
        {
            return Ok(downloads);
        }
        let current = apt.current(set)?;
        let changed: Vec<String> = current
            .iter()
            .filter(|download| !known.contains(&download.package))
            .map(|download| format!("{} {}", download.package.name, download.package.version))
            .collect();
        note(format_args!(
            "the archive no longer has all of the packages for {} that xtask/packages.lock lists as known to work; \
             taking the current ones instead: {}",
            set.name,
            changed.join(", ")
        ));
        Ok(current)
    }
}

/// Reads the archive's current packages for all sets and architectures.
pub fn current(cache: &Cache, mirror: &str, sets: &[&Set]) -> Result<PackageLock> {
    let mut lock = PackageLock::default();
    for architecture in ["amd64", "arm64"] {
        let lists = format!("reading Debian's package lists for {architecture}");
        let apt = step(lists, || Apt::update(cache, architecture, mirror))?;
        for set in sets.iter().filter(|set| !set.guest || architecture == GUEST_ARCHITECTURE) {
            let packages = apt.current(set)?.into_iter().map(|download| download.package).collect();
            lock.0.insert((set.name.to_owned(), architecture.to_owned()), packages);
        }
    }
    Ok(lock)
}

const GUEST_ARCHITECTURE: &str = "arm64";

/// Debian's name for the architecture that a set is for.
fn architecture(set: &Set) -> &'static str {
    match std::env::consts::ARCH {
        _ if set.guest => GUEST_ARCHITECTURE,
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn verified(download: Download, directory: &Path) -> Result<(Package, PathBuf)> {
    let file = directory.join(&download.file);
    let size = fs::metadata(&file).with_context(|| format!("apt-get left no {}", file.display()))?.len();
    let package = download.package;
    ensure!(
        size == package.size && digest_file(&file)? == package.sha256,
        "{} is not the {} {} that the archive announced",
        file.display(),
        package.name,
        package.version
    );
    Ok((package, file))
}
