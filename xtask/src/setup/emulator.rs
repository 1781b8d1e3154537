//! QEMU: the user's, the system's if it is new enough, or Debian's from the cache.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use super::packages::QEMU;
use super::process::{find, output};
use super::program::{Host, Launcher, unpack_programs};
use super::report::step;
use super::{Search, SetupOptions};

const PROGRAM: &str = "qemu-system-aarch64";

/// The first version that has the machine `raspi4b`.
const OLDEST: [u32; 2] = [9, 0];

/// Looks for a QEMU that will do.
///
/// # Errors
/// The user named one that will not.
pub fn search(options: &SetupOptions, archive: Archive<'_>) -> Result<Search<PathBuf>> {
    if let Some(qemu) = &options.qemu {
        check(qemu).context("--qemu or MOBIVMM_QEMU names a QEMU that cannot be used")?;
        return Ok(Search::Found(qemu.clone()));
    }
    if let Some(part) = archive.cache.find(&archive.part(&QEMU)) {
        return Ok(Search::Found(script(&part)));
    }
    Ok(match find(PROGRAM).map(|qemu| (check(&qemu), qemu)) {
        Some((Ok(()), qemu)) => Search::Found(qemu),
        Some((Err(reason), _)) => Search::Missing(format!("{reason:#}")),
        None => Search::Missing(format!("{PROGRAM} is not installed")),
    })
}

/// Brings Debian's QEMU.
pub fn bring(archive: Archive<'_>) -> Result<()> {
    let host = Host::current()?;
    let packages = archive.fetch(&QEMU)?;
    let scratch = archive.cache.scratch(QEMU.name)?;
    step("unpacking QEMU", || unpack_programs(&packages, &scratch))?;
    let launcher = Launcher {
        script: &format!("bin/{PROGRAM}"),
        program: &format!("usr/bin/{PROGRAM}"),
        arguments: "-L \"$root/usr/share/qemu\" -L \"$root/usr/lib/ipxe/qemu\" ",
        environment: &format!(
            "QEMU_MODULE_DIR=\"$root/{}/qemu\"\nexport QEMU_MODULE_DIR\n",
            host.libraries()
        ),
        ..Launcher::default()
    };
    host.launcher(&scratch, &launcher)?;
    check(&script(&scratch))
        .context("Debian's QEMU does not run here; its C library is that of Debian 12")?;
    let packages: Vec<_> = packages.into_iter().map(|(package, _)| package).collect();
    let part = archive.part(&QEMU);
    archive.cache.publish(&scratch, &part, &packages).map(drop)
}

fn script(part: &Path) -> PathBuf {
    part.join("bin").join(PROGRAM)
}

/// Checks that this QEMU has the machines that we run on.
fn check(qemu: &Path) -> Result<()> {
    let banner = output(Command::new(qemu).arg("--version"))?;
    let first = banner.lines().next().unwrap_or_default();
    let found = version(first)
        .with_context(|| format!("{} is no QEMU: it calls itself {first:?}", qemu.display()))?;
    let [major, minor] = found;
    ensure!(
        found >= OLDEST,
        "{} is QEMU {major}.{minor}, but {}.{} or newer is needed",
        qemu.display(),
        OLDEST[0],
        OLDEST[1]
    );
    let machines = output(Command::new(qemu).args(["-machine", "help"]))?;
    for machine in ["virt", "raspi4b"] {
        let has = machines.lines().any(|line| line.split_whitespace().next() == Some(machine));
        ensure!(has, "{} was built without the machine {machine}", qemu.display());
    }
    Ok(())
}

/// The first two numbers of QEMU's version.
fn version(banner: &str) -> Option<[u32; 2]> {
    let version = banner.split_once("QEMU emulator version ")?.1;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_banner() {
        assert_eq!(version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"), Some([10, 0]));
        assert_eq!(version("QEMU emulator version 7.2.19\nCopyright"), Some([7, 2]));
        assert_eq!(version("QEMU emulator version 9.1.50 (v9.1.0-rc1)"), Some([9, 1]));
        assert_eq!(version("busybox"), None);
        assert_eq!(version("QEMU emulator version next"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!([10, 0] >= OLDEST);
        assert!([9, 0] >= OLDEST);
        assert!([8, 2] < OLDEST);
    }
}
