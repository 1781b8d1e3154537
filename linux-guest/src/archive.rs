//! An initramfs archive: cpio in the `newc` format, to be gzipped (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst). Equal entries in equal order give equal bytes: no time, owner or inode of the host gets in.

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};
use flate2::{Compression, write::GzEncoder};

/// One entry of the archive.
pub enum Entry<'a> {
    /// A directory with these permissions.
    Directory(u32),
    /// A regular file with these permissions and contents.
    File(u32, &'a [u8]),
    /// A symbolic link to this target.
    Symlink(&'a str),
    /// A character device with these permissions, major and minor number.
    CharDevice(u32, u32, u32),
}

/// Packs the entries in the order given; a directory has to come before what lies in it.
pub fn pack<'a>(entries: impl IntoIterator<Item = (&'a str, Entry<'a>)>) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    // Every file has an inode number of its own, or the kernel would take two of them for hard links.
    for (inode, (path, entry)) in (1..).zip(entries) {
        let header = Builder::new(path).ino(inode).nlink(1);
        let (header, contents) = match entry {
            Entry::Directory(mode) => {
                (header.nlink(2).mode(mode).set_mode_file_type(ModeFileType::Directory), &[][..])
            }
            Entry::File(mode, contents) => {
                (header.mode(mode).set_mode_file_type(ModeFileType::Regular), contents)
            }
            Entry::Symlink(target) => {
                (header.mode(0o777).set_mode_file_type(ModeFileType::Symlink), target.as_bytes())
            }
            Entry::CharDevice(mode, major, minor) => {
                let header = header.mode(mode).rdev_major(major).rdev_minor(minor);
                (header.set_mode_file_type(ModeFileType::Char), &[][..])
            }
        };
        let size =
            u32::try_from(contents.len()).map_err(|_| io::Error::other(format!("{path}: over 4 GiB")))?;
        let mut writer = header.write(out, size);
        writer.write_all(contents)?;
        out = writer.finish()?;
    }
    trailer(out)
}

/// Gzips an archive, as Linux takes it. The header has neither a time nor a name.
pub fn compress(archive: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(archive)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn entries_survive_with_type_mode_and_contents() {
        let bytes = pack([
            ("dev", Entry::Directory(0o755)),
            ("dev/console", Entry::CharDevice(0o600, 5, 1)),
            ("odd", Entry::File(0o644, b"12345")),
            ("link", Entry::Symlink("odd")),
        ])
        .unwrap();
        let mut rest = &bytes[..];
        let mut seen = Vec::new();
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            assert_eq!((entry.mtime(), entry.uid(), entry.gid()), (0, 0, 0));
            let mut contents = Vec::new();
            reader.read_to_end(&mut contents).unwrap();
            seen.push((
                entry.name().to_owned(),
                entry.mode(),
                contents,
                entry.rdev_major(),
                entry.rdev_minor(),
            ));
            rest = reader.finish().unwrap();
        }
        // The upper bits are stat(2)'s S_IFDIR, S_IFCHR, S_IFREG and S_IFLNK.
        assert_eq!(
            seen,
            [
                ("dev".into(), 0o040755, vec![], 0, 0),
                ("dev/console".into(), 0o020600, vec![], 5, 1),
                ("odd".into(), 0o100644, b"12345".to_vec(), 0, 0),
                ("link".into(), 0o120777, b"odd".to_vec(), 0, 0),
            ]
        );
    }

    #[test]
    fn every_entry_starts_aligned_and_has_its_own_inode() {
        let names = ["a", "ab", "abc", "abcd", "abcde"];
        let bytes = pack(names.map(|name| (name, Entry::File(0o644, name.as_bytes())))).unwrap();
        let starts: Vec<usize> =
            bytes.windows(6).enumerate().filter(|(_, w)| w == b"070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), names.len() + 1);
        assert!(starts.iter().all(|at| at % 4 == 0));
        let mut inodes: Vec<&[u8]> = starts[..names.len()].iter().map(|at| &bytes[at + 6..at + 14]).collect();
        inodes.dedup();
        assert_eq!(inodes.len(), names.len());
    }

    #[test]
    fn compression_is_undone_and_has_no_time_stamp() {
        let archive = vec![7; 100_000];
        let compressed = compress(&archive).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&compressed[..]).read_to_end(&mut bytes).unwrap();
        assert!(bytes == archive && compressed.len() < 1_000);
        // MTIME (RFC 1952, section 2.3).
        assert_eq!(compressed[4..8], [0; 4]);
    }
}
