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

    /// Writes a script that starts a program with the libraries below `root`. The script finds the root by its own place,
    /// and the host's C library is used: it has to be that of Debian 12 or newer.
    ///
    /// The dynamic linker is called by its name, since an LD_LIBRARY_PATH would be inherited by the host's programs
    /// that the program starts, a C compiler for one.
    pub fn launcher(self, root: &Path, launcher: &Launcher<'_>) -> Result<()> {
        let Launcher { script, program, arguments, environment, identity } = launcher;
        let up = "root=${root%/*}\n".repeat(Path::new(script).components().count());
        let Self { loader, triplet } = self;
        let start = format!(
            "{loader} --library-path \"$root/usr/lib/{triplet}:$root/lib/{triplet}\" \"$root/{program}\" {arguments}\"$@\""
        );
        let identity = match identity {
            Some(line) => format!("if [ \"$*\" = -vV ]; then\n    {start} && echo '{line}'\n    exit\nfi\n"),
            None => String::new(),
        };
        write_script(
            &root.join(script),
            &format!("#!/bin/sh\nroot=$0\n{up}{environment}{identity}exec {start}\n"),
        )
    }
}

/// A script that starts a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Launcher<'a> {
    /// Where the script goes, below the root.
    pub script: &'a str,
    /// The program, below the root.
    pub program: &'a str,
    /// The program's first arguments, each followed by a blank; they may refer to `$root`.
    pub arguments: &'a str,
    /// Lines of shell that prepare the environment; they may refer to `$root`.
    pub environment: &'a str,
    /// What the program adds to what it says about itself when its only argument is `-vV`.
    pub identity: Option<&'a str>,
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

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::setup::process::output;
    use std::process::Command;
    use std::sync::{Mutex, PoisonError};

    /// A program cannot be started while it is open for writing, be it in a child that another thread has just forked:
    /// these tests, which write programs and start others, run one after the other.
    static STARTS: Mutex<()> = Mutex::new(());

    /// A host whose dynamic linker does without libraries, so that any script can be the program.
    fn host(directory: &Path) -> Host {
        let loader = directory.join("loader");
        write_script(&loader, "#!/bin/sh\nshift 2\nexec \"$@\"\n").unwrap();
        Host { loader: loader.display().to_string().leak(), triplet: "x" }
    }

    #[test]
    fn a_launched_program_gets_its_arguments_and_environment() {
        let _alone = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("a root");
        write_script(&root.join("lib/p"), "#!/bin/sh\nprintf '[%s]' \"$PLACE\" \"$@\"\n").unwrap();
        let launcher = Launcher {
            script: "usr/bin/p",
            program: "lib/p",
            arguments: "-L \"$root/x\" ",
            environment: "PLACE=$root/y\nexport PLACE\n",
            ..Launcher::default()
        };
        host(directory.path()).launcher(&root, &launcher).unwrap();
        let said = output(Command::new(root.join("usr/bin/p")).args(["b c", "-vV"])).unwrap();
        let root = root.display();
        assert_eq!(said, format!("[{root}/y][-L][{root}/x][b c][-vV]"));
    }

    /// Cargo goes by what `rustc -vV` says. Were it to take a rebuilt library for the same, crates compiled against
    /// the old one would stay in the target directory, and what needs them would end in E0463.
    #[test]
    fn cargo_takes_a_compiler_with_another_library_for_another_compiler() {
        let _alone = STARTS.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        fs::create_dir_all(at("crate/src")).unwrap();
        fs::write(at("crate/Cargo.toml"), "[package]\nname = \"x\"\nedition = \"2024\"\n[workspace]\n")
            .unwrap();
        fs::write(at("crate/src/lib.rs"), "").unwrap();
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        write_script(&at("lib/rustc"), &format!("#!/bin/sh\nexec '{rustc}' \"$@\"\n")).unwrap();
        let compiles_with = |library: &str| {
            let launcher = Launcher {
                script: "bin/rustc",
                program: "lib/rustc",
                identity: Some(&format!("library: {library}")),
                ..Launcher::default()
            };
            host(directory.path()).launcher(directory.path(), &launcher).unwrap();
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["check", "--message-format=json"]).current_dir(at("crate"));
            cargo.env("RUSTC", at("bin/rustc")).env("CARGO_TARGET_DIR", at("target"));
            output(&mut cargo).unwrap().contains(r#""fresh":false"#)
        };
        assert!(compiles_with("one"));
        assert!(!compiles_with("one"));
        assert!(compiles_with("two"));
    }
}
