//! The bench guests on Xen: as its own first domains (dom0less), without a dom0.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use qemu::Config;

use super::rows::Case;
use super::tree::{Guest, RAM, Tree};

/// Where QEMU puts the guests' images: above Xen and its device tree.
const IMAGES: u64 = RAM + 0x2000_0000;
/// How far they are apart.
const STRIDE: u64 = 0x20_0000;
/// A domain's RAM.
const MEMORY: u64 = 16 << 20;

/// Makes `config` start Xen with this scheduler and a guest for each of the case's VMs; files go beside `beside`.
///
/// # Errors
/// A file cannot be written.
pub fn prepare(config: &mut Config, xen: PathBuf, case: &Case, guest: &[u8], beside: &Path) -> Result<()> {
    let write =
        |file: &Path, bytes: &[u8]| fs::write(file, bytes).with_context(|| file.display().to_string());
    let image = beside.with_extension("img");
    write(&image, guest)?;
    let places = (0..).map(|n| IMAGES + n * STRIDE);
    let mut guests = Vec::new();
    for ((role, vcpus), at) in case.vms.iter().zip(places) {
        let image_at = (at, guest.len() as u64);
        guests.push(Guest { arguments: role, vcpus: *vcpus, image: image_at, memory: MEMORY });
        let mut loader = OsString::from(format!("loader,addr={at:#x},force-raw=on,file="));
        loader.push(image.display().to_string().replace(',', ",,"));
        config.extra.extend(["-device".into(), loader]);
    }
    // Clearing all free memory at boot is not what is measured.
    let arguments = format!("console=dtuart dtuart=/pl011@9000000 bootscrub=0 sched={}", case.scheduler);
    let tree = Tree {
        cpus: case.cpus,
        memory: 1 << 30,
        conduit: "smc",
        arguments: ("xen,xen-bootargs", &arguments),
        guests: &guests,
    };
    let blob = beside.with_extension("dtb");
    write(&blob, &tree.blob()?)?;
    config.extra.extend(["-dtb".into(), blob.into()]);
    config.image = xen;
    Ok(())
}
