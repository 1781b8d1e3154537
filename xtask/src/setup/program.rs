//! Unpacked packages as programs: started from the cache with the libraries there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::apt::unpack;
use super::packages::Package;

/// What no program needs at run time.
const NEEDLESS: [&str; 8] = [
    "etc",
    "usr/include",
    "usr/sbin",
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
];

/// How programs of the host's kind find their libraries.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    /// The host's dynamic linker (System V ABI supplements: the path in PT_INTERP).
    loader: &'static str,
    /// Debian's name for the directory of libraries.
    triplet: &'static str,
}

impl Host {
    /// This host.
    ///
    /// # Errors
    /// Debian's programs do not run here.
    pub fn current() -> Result<Self> {
        match (std::env::consts::OS, std::env::consts::ARCH) {
            ("linux", "x86_64") => {
                Ok(Self { loader: "/lib64/ld-linux-x86-64.so.2", triplet: "x86_64-linux-gnu" })
            }
            ("linux", "aarch64") => {
                Ok(Self { loader: "/lib/ld-linux-aarch64.so.1", triplet: "aarch64-linux-gnu" })
            }
            (system, architecture) => bail!("Debian's programs do not run on {system} {architecture}"),
        }
    }

    /// The directory, below the root of the unpacked packages, of a program's libraries and modules.
    pub fn libraries(self) -> String {
        format!("usr/lib/{}", self.triplet)
    }

    /// Writes a script that starts `program`, a path below `root`, with the libraries below `root`. The script finds
    /// the root by its own place, and the host's C library is used: it has to be that of Debian 12 or newer.
    ///
    /// The dynamic linker is called by its name, since an LD_LIBRARY_PATH would be inherited by the host's programs
    /// that the program starts, a C compiler for one. `arguments` and `environment` may refer to `$root`.
    pub fn launcher(
        self,
        root: &Path,
        script: &str,
        program: &str,
        arguments: &str,
        environment: &str,
    ) -> Result<()> {
        let file = root.join(script);
        let up = "root=${root%/*}\n".repeat(Path::new(script).components().count());
        let Self { loader, triplet } = self;
        let text = format!(
            "#!/bin/sh\nroot=$0\n{up}{environment}exec {loader} \
             --library-path \"$root/usr/lib/{triplet}:$root/lib/{triplet}\" \"$root/{program}\" {arguments}\"$@\"\n"
        );
        write_script(&file, &text)
    }
}

/// Writes a program of shell.
pub fn write_script(file: &Path, text: &str) -> Result<()> {
    let write = || {
        fs::create_dir_all(file.parent().unwrap_or(file))?;
        fs::write(file, text)?;
        #[cfg(unix)]
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        std::io::Result::Ok(())
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

/// Unpacks packages into a directory, without their documentation.
pub fn unpack_programs<'a>(
    packages: impl IntoIterator<Item = &'a (Package, PathBuf)>,
    directory: &Path,
) -> Result<()> {
    for (_, file) in packages {
        unpack(file, directory)?;
    }
    for needless in NEEDLESS {
        super::cache::remove(&directory.join(needless))?;
    }
    Ok(())
}
