//! Debian packages by name, version and hash, and the list of those that are known to work.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, bail, ensure};

use super::cache::digest;

/// One binary package of the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version, with the epoch.
    pub version: String,
    /// The size of the `.deb` in bytes.
    pub size: u64,
    /// The SHA-256 of the `.deb`, in lower-case hexadecimal.
    pub sha256: String,
}

impl Package {
    /// Reads `name version size sha256`.
    pub fn parse(line: &str) -> Result<Self> {
        let [name, version, size, sha256] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("not `name version size sha256`: {line}");
        };
        let size = size.parse().with_context(|| format!("{name}: {size} is no size in bytes"))?;
        ensure!(
            sha256.len() == 64 && sha256.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')),
            "{name}: {sha256} is no SHA-256"
        );
        Ok(Self { name: name.into(), version: version.into(), size, sha256: sha256.into() })
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.name, self.version, self.size, self.sha256)
    }
}

/// What is fetched together and unpacked into one directory.
#[derive(Clone, Copy, Debug)]
pub struct Set {
    /// Its name in the list and in the cache.
    pub name: &'static str,
    /// The release to prefer; `None` is the stable one with its security updates.
    pub release: Option<&'static str>,
    /// The packages wanted; apt adds those that they depend on.
    pub install: &'static [&'static str],
    /// Of these and their dependencies, take those whose name begins so; empty is all.
    pub only: &'static [&'static str],
    /// Whether it is for the guests, and not for the host's architecture.
    pub guest: bool,
    /// To be counted up when setup makes something else of the same packages.
    pub recipe: u32,
}

/// All sets.
pub const SETS: [&Set; 4] = [&QEMU, &TOOLCHAIN, &GUEST, &XEN];

/// QEMU with the firmware of its devices.
pub const QEMU: Set = Set {
    name: "qemu",
    release: Some("bookworm-backports"),
    install: &["qemu-system-arm", "ipxe-qemu"],
    only: &[],
    guest: false,
    recipe: 1,
};

/// A Rust toolchain with the source of its libraries.
pub const TOOLCHAIN: Set = Set {
    name: "toolchain",
    release: None,
    install: &["rustc-web", "rust-web-src", "rust-web-clippy", "lld-22"],
    only: &[],
    guest: false,
    recipe: 2,
};

/// The Linux guest's kernel and its user space.
pub const GUEST: Set = Set {
    name: "guest",
    release: None,
    install: &["linux-image-arm64", "busybox-static"],
    only: &["linux-image-6", "busybox-static"],
    guest: true,
    recipe: 1,
};

/// Xen, to be compared with.
pub const XEN: Set = Set {
    name: "xen",
    release: None,
    install: &["xen-hypervisor-4.17-arm64"],
    only: &["xen-hypervisor-"],
    guest: true,
    recipe: 1,
};

/// The packages that are known to work: for each set and architecture.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PackageLock(pub BTreeMap<(String, String), Vec<Package>>);

impl PackageLock {
    /// The list that this program was built with.
    pub fn builtin() -> Result<Self> {
        Self::parse(include_str!("../../packages.lock")).context("xtask/packages.lock")
    }

    /// Reads lines of `set architecture name version size sha256`; `#` begins a comment.
    pub fn parse(text: &str) -> Result<Self> {
        let mut packages = BTreeMap::<_, Vec<Package>>::new();
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.starts_with('#')) {
            let parsed = line.split_once(' ').and_then(|(set, rest)| Some((set, rest.split_once(' ')?)));
            let Some((set, (architecture, package))) = parsed else {
                ensure!(line.trim().is_empty(), "line {number}: not `set architecture package`");
                continue;
            };
            let package = Package::parse(package).with_context(|| format!("line {number}"))?;
            packages.entry((set.to_owned(), architecture.to_owned())).or_default().push(package);
        }
        Ok(Self(packages))
    }

    /// The packages of a set.
    pub fn packages(&self, set: &Set, architecture: &str) -> &[Package] {
        self.0.get(&(set.name.to_owned(), architecture.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// A short name for what setup makes of these packages: another choice or another recipe has another name.
    pub fn key(&self, set: &Set, architecture: &str) -> String {
        let mut text = format!("{}\n", set.recipe);
        for package in self.packages(set, architecture) {
            text += &format!("{package}\n");
        }
        digest(text.as_bytes())[..12].to_owned()
    }
}

impl fmt::Display for PackageLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "# The Debian packages that `cargo xtask setup` is known to work with. It takes these as long as the\n\
             # archive has them, else the archive's current ones. Written by `cargo xtask setup --update-lock`.\n\
             # set architecture package version size sha256\n",
        )?;
        for ((set, architecture), packages) in &self.0 {
            for package in packages {
                writeln!(f, "{set} {architecture} {package}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_list_survives_being_written_and_read() {
        let text = format!(
            "# comment\nqemu amd64 libfdt1 1.6.1-4+b1 19036 {HASH}\n\nqemu amd64 zlib1g 1:1.2.13.dfsg-1 86684 {HASH}\n\
             guest arm64 busybox-static 1:1.35.0-4 822236 {HASH}\n"
        );
        let lock = PackageLock::parse(&text).unwrap();
        assert_eq!(lock.packages(&QEMU, "amd64").len(), 2);
        assert_eq!(lock.packages(&QEMU, "amd64")[1].version, "1:1.2.13.dfsg-1");
        assert!(lock.packages(&QEMU, "arm64").is_empty());
        assert_eq!(PackageLock::parse(&lock.to_string()).unwrap(), lock);
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = |line: &str| format!("{:#}", PackageLock::parse(&format!("# x\n{line}\n")).unwrap_err());
        assert!(error("qemu").contains("line 2"));
        assert!(error("qemu amd64 libfdt1 1.6.1").contains("line 2"));
        assert!(error(&format!("qemu amd64 libfdt1 1.6.1 many {HASH}")).contains("many is no size"));
        assert!(error("qemu amd64 libfdt1 1.6.1 10 abcd").contains("no SHA-256"));
    }

    #[test]
    fn another_choice_or_recipe_has_another_key() {
        let key = |version: &str, recipe: u32| {
            let lock = PackageLock::parse(&format!("qemu amd64 libfdt1 {version} 19036 {HASH}\n")).unwrap();
            lock.key(&Set { recipe, ..QEMU }, "amd64")
        };
        assert_eq!(key("1.0", 1), key("1.0", 1));
        assert_ne!(key("1.0", 1), key("1.1", 1));
        assert_ne!(key("1.0", 1), key("1.0", 2));
    }

    #[test]
    fn the_list_in_the_repository_is_whole() {
        let lock = PackageLock::builtin().unwrap();
        for set in SETS {
            for architecture in if set.guest { &["arm64"][..] } else { &["amd64", "arm64"] } {
                assert!(!lock.packages(set, architecture).is_empty(), "{} {architecture}", set.name);
            }
        }
    }
}
