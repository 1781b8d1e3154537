//! The Linux guest's parts: Debian's arm64 kernel, an initramfs made of its busybox, the Raspberry Pi 4's device tree.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::unpack;
use super::archive::Archive;
use super::cache::{Cache, digest, write_whole};
use super::packages::GUEST;
use super::report::step;
use super::{Search, SetupOptions};

/// The Linux guest's files.
#[derive(Clone, Debug)]
pub struct Guest {
    /// An uncompressed arm64 Image.
    pub kernel: PathBuf,
    /// The gzipped initramfs.
    pub initramfs: PathBuf,
    /// The Raspberry Pi 4's device tree blob.
    pub dtb_rpi4: Option<PathBuf>,
}

/// Where the files lie in the cache's part.
const KERNEL: &str = "Image";
const BUSYBOX: &str = "busybox";
const DTB_RPI4: &str = "bcm2711-rpi-4-b.dtb";

/// Looks for the files.
///
/// # Errors
/// The user named one that will not do.
pub fn search(options: &SetupOptions, archive: Archive<'_>) -> Result<Search<Guest>> {
    let part = archive.cache.find(&archive.part(&GUEST));
    let cached = |name: &str| part.as_ref().map(|part| part.join(name));
    let Some(kernel) = options.kernel.clone().or_else(|| cached(KERNEL)) else {
        return Ok(Search::Missing("there is no kernel in the cache".into()));
    };
    if options.kernel.is_some() {
        check_kernel(&kernel).context("--kernel or MOBIVMM_KERNEL names a kernel that cannot be used")?;
    }
    let initramfs = match (&options.initramfs, options.busybox.clone().or_else(|| cached(BUSYBOX))) {
        (Some(initramfs), _) => {
            let meta =
                fs::metadata(initramfs).with_context(|| format!("cannot read {}", initramfs.display()));
            meta.context("--initramfs or MOBIVMM_INITRAMFS names a file that cannot be used")?;
            initramfs.clone()
        }
        (None, Some(busybox)) => make_initramfs(archive.cache, &busybox)
            .with_context(|| format!("cannot make an initramfs of {}", busybox.display()))?,
        (None, None) => return Ok(Search::Missing("there is no busybox in the cache".into())),
    };
    // A kernel of the user's own goes with a device tree of the user's own.
    let theirs = if options.kernel.is_none() { cached(DTB_RPI4) } else { None };
    if let Some(blob) = &options.dtb_rpi4 {
        let meta = fs::metadata(blob).with_context(|| format!("cannot read {}", blob.display()));
        meta.context("--dtb-rpi4 or MOBIVMM_DTB_RPI4 names a file that cannot be used")?;
    }
    Ok(Search::Found(Guest { kernel, initramfs, dtb_rpi4: options.dtb_rpi4.clone().or(theirs) }))
}

/// Brings Debian's kernel and busybox.
pub fn bring(archive: Archive<'_>) -> Result<()> {
    let packages = archive.fetch(&GUEST)?;
    let scratch = archive.cache.scratch(GUEST.name)?;
    let whole = archive.cache.scratch("guest-unpacked")?;
    step("unpacking the Linux guest's kernel and busybox", || {
        packages.iter().try_for_each(|(_, file)| unpack(file, &whole))?;
        let take = |from: &Path, name: &str| {
            fs::rename(from, scratch.join(name))
                .with_context(|| format!("no {} in the packages", from.display()))
        };
        take(&only(&whole.join("boot"), "vmlinuz-")?, KERNEL)?;
        let blobs = only(&whole.join("usr/lib"), "linux-image-")?.join("broadcom");
        take(&blobs.join(DTB_RPI4), DTB_RPI4)?;
        take(&whole.join("bin/busybox"), BUSYBOX)?;
        check_kernel(&scratch.join(KERNEL))
    })?;
    super::cache::remove(&whole)?;
    let packages: Vec<_> = packages.into_iter().map(|(package, _)| package).collect();
    archive.cache.publish(&scratch, &archive.part(&GUEST), &packages).map(drop)
}

/// The initramfs of this busybox; made anew only if the busybox or what we put beside it has changed.
fn make_initramfs(cache: &Cache, busybox: &Path) -> Result<PathBuf> {
    let busybox = fs::read(busybox).context("cannot read it")?;
    let archive = linux_guest::archive(&busybox)?;
    let name = format!("initramfs/{}.cpio.gz", &digest(&archive)[..16]);
    let file = cache.root().join(name);
    if !file.exists() {
        step("making the Linux guest's initramfs", || write_whole(&file, &linux_guest::compress(&archive)?))?;
    }
    Ok(file)
}

fn check_kernel(kernel: &Path) -> Result<()> {
    let read = || {
        let mut header = Vec::new();
        File::open(kernel)?.take(64).read_to_end(&mut header)?;
        std::io::Result::Ok(header)
    };
    let header = read().with_context(|| format!("cannot read {}", kernel.display()))?;
    linux_guest::check_kernel(&header).with_context(|| format!("{}", kernel.display()))
}

/// The only entry of a directory with such a name.
fn only(directory: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    let mut entries = entries.flatten().map(|entry| entry.path()).filter(named);
    match (entries.next(), entries.next()) {
        (Some(path), None) => Ok(path),
        (None, _) => bail!("the package has no {prefix}*"),
        (Some(_), Some(_)) => bail!("the packages have more than one {prefix}*"),
    }
}
