//! What lies in the initramfs.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use crate::archive::{Entry, pack};
use crate::elf::check_static_aarch64;

/// Major and minor number of the device that is the console (Linux, Documentation/admin-guide/devices.txt).
const CONSOLE: (u32, u32) = (5, 1);

const DIRECTORIES: [&str; 9] = ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"];

const FILES: [(&str, u32, &[u8]); 5] = [
    ("etc/group", 0o644, include_bytes!("../rootfs/etc/group")),
    ("etc/inittab", 0o644, include_bytes!("../rootfs/etc/inittab")),
    ("etc/passwd", 0o644, include_bytes!("../rootfs/etc/passwd")),
    ("etc/profile", 0o644, include_bytes!("../rootfs/etc/profile")),
    ("etc/rc", 0o755, include_bytes!("../rootfs/etc/rc")),
];

/// The applets that `rootfs/` itself starts, and those that stop the guest.
const REQUIRED: &str = "cttyhack dmesg hostname init ip mkdir mount poweroff reboot sh sync";

/// The applets that a person at the shell or a test may want, if this busybox has them.
const USEFUL: &str = "
    [ arch arping ascii awk base64 basename blockdev brctl bunzip2 bzip2 cat chgrp chmod chown chroot chrt clear cmp
    cp cpio crc32 cut date dc dd devmem df diff dirname du echo ed egrep env expr factor false fgrep find fold free
    fsync getopt grep groups gunzip gzip halt head hexdump hwclock id ifconfig insmod ionice kill killall less ln ls
    lsmod md5sum mkfifo mknod mktemp modprobe more mv nc netstat nice nproc nslookup od patch pidof ping printf
    ps pwd readlink realpath renice reset rm rmdir rmmod route sed seq setsid sha256sum shred shuf sleep sort stat
    stty swapon sysctl tail tar taskset tee test time timeout top touch tr true tty udhcpc umount uname uniq unshare
    uptime usleep vi watch wc wget which xargs xxd yes zcat";

/// The initramfs with this busybox, which has to be a static AArch64 program, as an uncompressed cpio archive.
///
/// The same busybox gives the same bytes.
///
/// # Errors
/// Why this busybox will not do.
pub fn archive(busybox: &[u8]) -> Result<Vec<u8>> {
    check_static_aarch64(busybox)?;
    let names = strings(busybox);
    for name in REQUIRED.split_whitespace() {
        ensure!(
            names.contains(name.as_bytes()),
            "this busybox has no applet `{name}`, which the initramfs needs"
        );
    }
    let mut applets: Vec<&str> = REQUIRED.split_whitespace().chain(USEFUL.split_whitespace()).collect();
    applets.retain(|name| names.contains(name.as_bytes()));
    applets.sort_unstable();

    let links: Vec<String> = applets.iter().map(|name| format!("bin/{name}")).collect();
    let entries = DIRECTORIES
        .into_iter()
        .map(|path| (path, Entry::Directory(0o755)))
        .chain([
            ("dev/console", Entry::CharDevice(0o600, CONSOLE.0, CONSOLE.1)),
            ("bin/busybox", Entry::File(0o755, busybox)),
            ("init", Entry::Symlink("bin/busybox")),
        ])
        .chain(FILES.into_iter().map(|(path, mode, contents)| (path, Entry::File(mode, contents))))
        .chain(links.iter().map(|path| (path.as_str(), Entry::Symlink("busybox"))));
    pack(entries).context("cannot pack the initramfs")
}

/// All zero-terminated strings of a program; the names of a busybox's applets are among them, each by itself.
fn strings(program: &[u8]) -> HashSet<&[u8]> {
    program.split(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busybox(applets: &[&str]) -> Vec<u8> {
        let mut program = crate::elf::tests::program(183, 1);
        program.extend(applets.iter().flat_map(|name| [b"\0", name.as_bytes()].concat()));
        program.push(0);
        program
    }

    #[test]
    fn the_same_busybox_gives_the_same_bytes() {
        let busybox = busybox(&REQUIRED.split_whitespace().collect::<Vec<_>>());
        assert_eq!(archive(&busybox).unwrap(), archive(&busybox).unwrap());
    }

    #[test]
    fn a_busybox_without_a_shell_is_refused() {
        let applets: Vec<&str> = REQUIRED.split_whitespace().filter(|name| *name != "sh").collect();
        assert!(archive(&busybox(&applets)).unwrap_err().to_string().contains("`sh`"));
    }

    #[test]
    fn applet_names_are_matched_whole() {
        let program = busybox(&["kill", "sha256sum"]);
        let names = strings(&program);
        assert!(names.contains(&b"kill"[..]) && names.contains(&b"sha256sum"[..]));
        assert!(!names.contains(&b"sha"[..]) && !names.contains(&b"ill"[..]));
    }
}
