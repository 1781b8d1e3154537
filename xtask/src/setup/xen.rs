//! Debian's Xen, to be compared with. Only `cargo xtask bench --against` needs it, so nothing else brings it.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::SetupOptions;
use super::apt;
use super::archive::Archive;
use super::cache::{Cache, remove};
use super::packages::{PackageLock, XEN};
use super::report::{note, step};

/// Where Xen lies in the cache's part, and in the package.
const FILE: &str = "xen";
const PACKAGED: &str = "boot/xen-4.17-arm64";

const ADVICE: &str =
    "name Xen's arm64 Image with --xen or MOBIVMM_XEN, or compare with KVM alone: `--against kvm`";

/// Xen's arm64 Image: the user's own, or else Debian's, which is brought if it is not in the cache.
///
/// # Errors
/// It could not be had, and what the user can do about it.
pub fn xen(options: &SetupOptions) -> Result<PathBuf> {
    if let Some(xen) = &options.xen {
        fs::metadata(xen)
            .with_context(|| format!("cannot read {}", xen.display()))
            .context("--xen or MOBIVMM_XEN names a file that cannot be used")?;
        return Ok(xen.clone());
    }
    let (cache, lock) = (Cache::locate(options.cache.as_deref())?, PackageLock::builtin()?);
    let archive = Archive { cache: &cache, lock: &lock, mirror: options.debian_mirror.trim_end_matches('/') };
    let name = archive.part(&XEN);
    if let Some(part) = cache.find(&name) {
        return Ok(part.join(FILE));
    }
    if let Some(program) = apt::missing_program() {
        bail!(
            "setup would bring Xen from Debian's archive, but {program} is not installed\n  You can {ADVICE}."
        );
    }
    let _lock = cache.lock()?;
    cache.drop_damaged(false)?;
    // While this one waited for the lock, another setup may have brought it.
    if let Some(part) = cache.find(&name) {
        return Ok(part.join(FILE));
    }
    note(format_args!("Xen is missing: bringing it into {}", cache.root().display()));
    bring(archive).with_context(|| format!("cannot bring Xen; to do without it you can {ADVICE}"))?;
    cache.find(&name).map(|part| part.join(FILE)).context("Xen vanished from the cache while setup ran")
}

fn bring(archive: Archive<'_>) -> Result<()> {
    let packages = archive.fetch(&XEN)?;
    let (scratch, whole) = (archive.cache.scratch(XEN.name)?, archive.cache.scratch("xen-unpacked")?);
    step("unpacking Xen", || {
        packages.iter().try_for_each(|(_, file)| apt::unpack(file, &whole))?;
        fs::rename(whole.join(PACKAGED), scratch.join(FILE))
            .with_context(|| format!("no {PACKAGED} in the package"))
    })?;
    remove(&whole)?;
    let packages: Vec<_> = packages.into_iter().map(|(package, _)| package).collect();
    archive.cache.publish(&scratch, &archive.part(&XEN), &packages).map(drop)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: SetupOptions,
    }

    #[test]
    fn the_users_own_xen_is_taken_if_it_is_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let with = |path: &std::path::Path| {
            xen(&Line::parse_from(["setup".as_ref(), "--xen".as_ref(), path.as_os_str()]).options)
        };
        assert_eq!(with(file.path()).unwrap(), file.path());
        let error = with(&file.path().with_extension("gone")).unwrap_err();
        assert!(format!("{error:#}").starts_with("--xen or MOBIVMM_XEN names a file that cannot be used"));
    }
}
