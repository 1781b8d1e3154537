//! Debian's archive through a private state of apt: its own sources, lists and configuration, all in the cache. apt
//! verifies the archive's signature and the hash of what it downloads. It needs no root and changes nothing of the
//! host's; of the host's configuration only what concerns the network (proxies, credentials) remains in force.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::cache::{Cache, write_whole};
use super::packages::{Package, Set};
use super::process::{find, output};
use super::report::note;

/// The keys that sign Debian's archive, where Debian's package puts them.
const KEYRING: &str = "usr/share/keyrings/debian-archive-keyring.gpg";

/// What the host has and need not be fetched: its C library and compiler serve the fetched programs too. The second
/// is a virtual package that it provides.
const HOST: [(&str, &str); 6] = [
    ("adduser", ""),
    ("binutils", ""),
    ("debconf", "debconf-2.0"),
    ("gcc", "c-compiler"),
    ("libc6", ""),
    ("libc6-dev", "libc-dev"),
];

/// A package and the file that it comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The package.
    pub package: Package,
    /// The name of its `.deb`.
    pub file: String,
}

/// Debian's archive for one architecture.
pub struct Apt {
    configuration: PathBuf,
}

impl Apt {
    /// Prepares the private state and reads the archive's current lists of packages into it.
    ///
    /// # Errors
    /// The archive cannot be reached, or its signature is wrong.
    pub fn update(cache: &Cache, architecture: &str, mirror: &str) -> Result<Self> {
        let state = cache.root().join("apt").join(architecture);
        let shown = state.display().to_string();
        ensure!(
            !shown.contains(|c: char| c.is_whitespace() || "\"'[]".contains(c)),
            "apt cannot work in {shown}: its configuration allows no blanks, quotes and brackets in a path; \
             name another directory with --cache or MOBIVMM_CACHE"
        );
        for directory in ["lists/partial", "cache/archives/partial"] {
            let directory = state.join(directory);
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let keyring = keyring(&state)?;
        write_whole(&state.join("sources.list"), sources(mirror, &keyring).as_bytes())?;
        write_whole(&state.join("status"), host_status(architecture).as_bytes())?;
        let configuration = state.join("apt.conf");
        write_whole(&configuration, apt_configuration(&shown, architecture).as_bytes())?;

        let apt = Self { configuration };
        output(apt.command("apt-get").arg("update")).with_context(|| {
            format!("cannot read the package lists of {mirror}; is there a network, or a proxy to be set in http_proxy?")
        })?;
        Ok(apt)
    }

    /// What these packages would be downloaded as; `None` if the archive no longer has all of them.
    pub fn offers(&self, packages: &[Package]) -> Result<Option<Vec<Download>>> {
        let mut command = self.command("apt-get");
        command.args(["download", "--print-uris"]).args(packages.iter().map(exact));
        let offered = match output(&mut command) {
            Ok(offered) => parse_uris(&offered)?,
            Err(error) if error.to_string().contains("was not found") => return Ok(None),
            Err(error) if error.to_string().contains("Unable to locate") => return Ok(None),
            Err(error) => return Err(error),
        };
        for package in packages {
            let Some(found) = offered.iter().find(|offer| offer.package.name == package.name) else {
                return Ok(None);
            };
            ensure!(
                found.package == *package,
                "{} {} in the archive has SHA-256 {}, but xtask/packages.lock expects {}: the same version must be \
                 the same file, so one of the two has been tampered with",
                package.name,
                package.version,
                found.package.sha256,
                package.sha256
            );
        }
        Ok(Some(offered))
    }

    /// What the archive has now for this set, dependencies included.
    pub fn current(&self, set: &Set) -> Result<Vec<Download>> {
        let mut command = self.command("apt-get");
        command.args(["install", "--print-uris", "--yes"]);
        if let Some(release) = set.release {
            command.args(["--target-release", release]);
        }
        let mut downloads = parse_uris(&output(command.args(set.install))?)?;
        downloads.retain(|download| {
            set.only.is_empty() || set.only.iter().any(|prefix| download.package.name.starts_with(prefix))
        });
        downloads.sort_by(|a, b| a.package.name.cmp(&b.package.name));
        ensure!(!downloads.is_empty(), "the archive has no packages for {}", set.install.join(", "));
        Ok(downloads)
    }

    /// Downloads into a directory.
    pub fn download(&self, downloads: &[Download], directory: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command.arg("download").args(downloads.iter().map(|download| exact(&download.package)));
        output(command.current_dir(directory)).map(drop)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-qq").arg("-c").arg(&self.configuration).env("LC_ALL", "C");
        command
    }
}

/// The package in this version, as apt wants it named.
fn exact(package: &Package) -> String {
    format!("{}={}", package.name, package.version)
}

/// Reads apt's list of downloads: `'URI' name_version_architecture.deb size SHA256:hash`, with `%3a` for the colon.
fn parse_uris(list: &str) -> Result<Vec<Download>> {
    let download = |line: &str| {
        let [_, file, size, hash] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let (name, rest) = file.split_once('_')?;
        let (version, _) = rest.rsplit_once('_')?;
        let line = format!("{name} {} {size} {}", version.replace("%3a", ":"), hash.strip_prefix("SHA256:")?);
        Some(Download { package: Package::parse(&line).ok()?, file: file.to_owned() })
    };
    list.lines()
        .filter(|line| line.starts_with('\''))
        .map(|line| {
            download(line)
                .with_context(|| format!("apt-get printed a download that is not understood: {line}"))
        })
        .collect()
}

fn sources(mirror: &str, keyring: &Path) -> String {
    let options = format!("[signed-by={} target=Packages]", keyring.display());
    let (debian, security) = (format!("{mirror}/debian"), format!("{mirror}/debian-security"));
    format!(
        "deb {options} {debian} bookworm main\n\
         deb {options} {debian} bookworm-updates main\n\
         deb {options} {debian} bookworm-backports main\n\
         deb {options} {security} bookworm-security main\n"
    )
}

/// A dpkg status with nothing but what the host has: so the choice of packages is the same on every host.
fn host_status(architecture: &str) -> String {
    HOST.iter()
        .map(|(name, provides)| {
            let provides = if provides.is_empty() { String::new() } else { format!("Provides: {provides}\n") };
            format!(
                "Package: {name}\nStatus: install ok installed\nArchitecture: {architecture}\nMulti-Arch: same\n\
                 Version: 999\n{provides}Maintainer: the host\nDescription: of the host\n\n"
            )
        })
        .collect()
}

fn apt_configuration(state: &str, architecture: &str) -> String {
    format!(
        r#"#clear APT::Architectures;
#clear APT::Default-Release;
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::ForceHash "SHA256";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Cache "{state}/cache";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::Etc::SourceList "{state}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State "{state}";
Dir::State::Lists "{state}/lists";
Dir::State::status "{state}/status";
"#
    )
}

/// The keys of Debian's archive: the host's, or on Debian's derivatives those from the package of that name, which
/// the host's own apt fetches and verifies.
fn keyring(state: &Path) -> Result<PathBuf> {
    let own = Path::new("/").join(KEYRING);
    if own.exists() {
        return Ok(own);
    }
    let unpacked = state.join("keyring");
    if !unpacked.join(KEYRING).exists() {
        note("fetching the keys of Debian's archive: the package debian-archive-keyring");
        fetch_keyring(state, &unpacked).context(
            "Debian's packages cannot be verified without the keys of its archive: install them as root with \
             `apt-get install debian-archive-keyring`, then try again",
        )?;
    }
    Ok(unpacked.join(KEYRING))
}

fn fetch_keyring(state: &Path, unpacked: &Path) -> Result<()> {
    output(Command::new("apt-get").args(["-qq", "download", "debian-archive-keyring"]).current_dir(state))?;
    let named = |name: &str| name.starts_with("debian-archive-keyring_") && name.ends_with(".deb");
    let files = fs::read_dir(state)?.flatten().map(|entry| entry.path());
    let mut files = files.filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(named));
    let Some(package) = files.next() else { bail!("apt-get download left no package") };
    unpack(&package, unpacked)
}

/// Unpacks a package's files, without running anything of it.
pub fn unpack(package: &Path, directory: &Path) -> Result<()> {
    output(Command::new("dpkg-deb").arg("-x").arg(package).arg(directory)).map(drop)
}

/// Which of the programs that Debian's packages take is missing.
pub fn missing_program() -> Option<&'static str> {
    ["apt-get", "dpkg-deb"].into_iter().find(|program| find(program).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apts_list_of_downloads_is_understood() {
        let hash = "072d908f38f51090ca28ca5afa3b46b2957dc61fe35094c0b851426859a49a51";
        let list = format!(
            "Reading package lists...\n\
             'http://deb.debian.org/debian/pool/main/z/zlib/zlib1g_1.2.13.dfsg-1_amd64.deb' \
             zlib1g_1%3a1.2.13.dfsg-1_amd64.deb 86684 SHA256:{hash}\n"
        );
        let downloads = parse_uris(&list).unwrap();
        assert_eq!(downloads.len(), 1);
        assert_eq!(downloads[0].file, "zlib1g_1%3a1.2.13.dfsg-1_amd64.deb");
        assert_eq!(exact(&downloads[0].package), "zlib1g=1:1.2.13.dfsg-1");
        assert_eq!(downloads[0].package.sha256, hash);
    }

    #[test]
    fn a_download_without_a_sha256_is_refused() {
        assert!(parse_uris("'http://x/y_1_all.deb' y_1_all.deb 10 MD5Sum:abcd\n").is_err());
        assert!(parse_uris("'http://x/y_1_all.deb' y_1_all.deb\n").is_err());
    }
}
