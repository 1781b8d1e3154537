//! The bench guests on KVM: Debian's Linux at EL2, with a program of ours that does nothing but what KVM asks of user space.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use linux_guest::{Entry, pack};
use qemu::Config;

use super::rows::Case;
use super::tree::Tree;

/// A guest's RAM, as `tests/kvm-runner` makes it.
const MEMORY: u64 = 16 << 20;
/// Major and minor numbers of the devices (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);
const KVM: (u32, u32) = (10, 232);

/// Linux, and our program that starts the guests on it.
pub struct Kvm {
    /// An arm64 Image.
    pub kernel: PathBuf,
    /// The static program's ELF file.
    pub runner: PathBuf,
}

/// Makes `config` start Linux with a guest for each of the case's VMs; files go beside `beside`.
///
/// # Errors
/// A file cannot be read or written.
pub fn prepare(config: &mut Config, kvm: &Kvm, case: &Case, guest: &[u8], beside: &Path) -> Result<()> {
    let runner = fs::read(&kvm.runner).with_context(|| kvm.runner.display().to_string())?;
    let mut trees = Vec::new();
    for (n, (role, vcpus)) in case.vms.iter().enumerate() {
        let arguments = ("bootargs", role.as_str());
        let tree = Tree { cpus: *vcpus, memory: MEMORY, conduit: "hvc", arguments, guests: &[] };
        trees.push((format!("tree-{n}"), tree.blob()?));
    }
    let fixed = [
        ("dev", Entry::Directory(0o755)),
        ("dev/console", Entry::CharDevice(0o600, CONSOLE.0, CONSOLE.1)),
        ("dev/kvm", Entry::CharDevice(0o600, KVM.0, KVM.1)),
        ("init", Entry::File(0o755, &runner)),
        ("guest", Entry::File(0o644, guest)),
    ];
    let trees = trees.iter().map(|(name, tree)| (name.as_str(), Entry::File(0o644, tree)));
    let initramfs = beside.with_extension("cpio");
    fs::write(&initramfs, pack(fixed.into_iter().chain(trees))?)
        .with_context(|| initramfs.display().to_string())?;
    config.image = kvm.kernel.clone();
    config.bundle = Some(initramfs);
    config.bootargs = arguments(case);
    Ok(())
}

/// Linux' command line; what follows `--` is the runner's.
fn arguments(case: &Case) -> Vec<String> {
    let vms = case.vms.iter().enumerate().map(|(n, (_, vcpus))| {
        let policy = if n == 0 { case.scheduler } else { "" };
        format!("vcpus={vcpus}{policy}")
    });
    let linux = ["console=ttyAMA0", "quiet", "rdinit=/init", "--"].map(String::from);
    linux.into_iter().chain(vms).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_measured_vm_has_a_policy() {
        let case = Case {
            cpu: "max",
            cpus: 1,
            vms: vec![("task".into(), 1), ("burn".into(), 1)],
            scheduler: ",fifo",
        };
        assert!(arguments(&case).join(" ").ends_with(" -- vcpus=1,fifo vcpus=1"));
    }
}
