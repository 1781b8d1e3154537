//! The Rust toolchain for the bare-metal target: cargo's own if it has the target or rustup may bring it, else Debian's
//! rustc from the cache, with a library for the target that is built from Debian's source of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::archive::Archive;
use super::cache::{digest, digest_file, remove};
use super::packages::TOOLCHAIN;
use super::process::{find, output};
use super::program::{Host, Launcher, unpack_programs, write_script};
use super::report::{note, step};
use super::{Search, SetupOptions};

/// What EL2 and the guests are built for: no FP or SIMD registers, since these are the guests'.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// Debian's toolchain, below its root: the launchers, and the programs that they start.
const BIN: &str = "usr/bin";
const PROGRAMS: &str = "usr/libexec";

/// Told to leave the user's toolchains alone, rustup has this in its environment (rustup book, "Environment variables").
const AUTO_INSTALL: &str = "RUSTUP_AUTO_INSTALL";

/// The Rust toolchain for the bare-metal target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Toolchain {
    /// Directory with `rustc`, `clippy-driver` and `cargo-clippy`, to be put before the others on PATH; `None` if
    /// cargo's own rustc has the target.
    pub bin: Option<PathBuf>,
}

impl Toolchain {
    /// `cargo`, prepared to build for the bare-metal target; the caller adds the arguments, `--target` included.
    pub fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        if let Some(bin) = &self.bin {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let path = std::env::join_paths(std::iter::once(bin.clone()).chain(std::env::split_paths(&path)));
            cargo.env("RUSTC", bin.join("rustc")).env("RUSTDOC", bin.join("rustdoc"));
            cargo.env("PATH", path.unwrap_or_default());
        }
        cargo
    }
}

/// Looks for a toolchain that has the target.
///
/// # Errors
/// The user named one that has not.
pub fn search(options: &SetupOptions, archive: Archive<'_>) -> Result<Search<Toolchain>> {
    if let Some(rustc) = &options.rustc {
        let rustc = std::path::absolute(rustc)?;
        check(&rustc).context("--rustc or MOBIVMM_RUSTC names a rustc that cannot be used")?;
        return Ok(Search::Found(Toolchain { bin: rustc.parent().map(PathBuf::from) }));
    }
    let usual = std::env::var_os("RUSTC").map_or_else(|| "rustc".into(), PathBuf::from);
    Ok(match (check(&usual), archive.cache.find(&archive.part(&TOOLCHAIN))) {
        (Ok(()), _) => Search::Found(Toolchain::default()),
        (Err(_), Some(part)) => Search::Found(Toolchain { bin: Some(part.join(BIN)) }),
        (Err(reason), None) => {
            Search::Missing(format!("{reason:#}{}", if rustup_is_held() { HELD } else { "" }))
        }
    })
}

/// Added to the reason why the target is missing.
const HELD: &str = ", and RUSTUP_AUTO_INSTALL=0 forbids setup to have rustup download it";

/// Whether rustup is here and may download the target.
pub fn rustup_may_download() -> bool {
    find("rustup").is_some() && !rustup_is_held()
}

fn rustup_is_held() -> bool {
    std::env::var_os(AUTO_INSTALL).is_some_and(|value| value == "0")
}

/// Brings the target by rustup, or else Debian's toolchain.
pub fn bring(archive: Archive<'_>) -> Result<()> {
    if rustup_may_download() {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", TARGET]);
        let added = step(format_args!("rustup target add {TARGET}"), || output(&mut rustup));
        match added.and_then(|_| check(Path::new("rustc"))) {
            Ok(()) => return Ok(()),
            Err(error) => note(format_args!("{error:#}; taking Debian's Rust instead")),
        }
    } else if find("rustup").is_some() {
        note(format_args!("{AUTO_INSTALL}=0: rustup must not download, so taking Debian's Rust"));
    }

    let host = Host::current()?;
    let packages = archive.fetch(&TOOLCHAIN)?;
    let root = archive.cache.scratch(TOOLCHAIN.name)?;
    step("unpacking Debian's Rust", || unpack_programs(&packages, &root))?;
    write_launchers(host, &root)?;
    let build = archive.cache.scratch("toolchain-build")?;
    step(format_args!("building Rust's core and alloc for {TARGET}"), || build_library(&root, &build))?;
    // Built anew from the same source by another recipe, the library would otherwise pass for the same with cargo.
    let identity = format!("library: {}", digest_library(&root)?);
    write_launcher(host, &root, "rustc", Some(&identity))?;
    for directory in [build.as_path(), &root.join("usr/src"), &root.join("usr/lib/rustlib/src")] {
        remove(directory)?;
    }
    check(&root.join(BIN).join("rustc"))?;
    let packages: Vec<_> = packages.into_iter().map(|(package, _)| package).collect();
    let part = archive.part(&TOOLCHAIN);
    archive.cache.publish(&root, &part, &packages).map(drop)
}

/// Checks that this rustc runs and has the target's core library.
fn check(rustc: &Path) -> Result<()> {
    let print = ["--print", "target-libdir", "--target", TARGET];
    let directory = PathBuf::from(output(Command::new(rustc).args(print))?.trim_end());
    let is_core = |name: &str| name.starts_with("libcore-") && name.ends_with(".rlib");
    let files = fs::read_dir(&directory).into_iter().flatten().flatten();
    ensure!(
        files.map(|file| file.file_name()).any(|name| name.to_str().is_some_and(is_core)),
        "{} has no core library for {TARGET} in {}",
        rustc.display(),
        directory.display()
    );
    Ok(())
}

/// Makes Debian's programs run from `root`: launchers take their places, since rustdoc starts the rustc that it finds in
/// the sysroot, and the sysroot is found by the place of the compiler's libraries.
fn write_launchers(host: Host, root: &Path) -> Result<()> {
    for program in ["rustc", "rustdoc", "clippy-driver"] {
        let from = root.join(BIN).join(program);
        let to = root.join(PROGRAMS).join(program);
        fs::create_dir_all(root.join(PROGRAMS))?;
        fs::rename(&from, to).with_context(|| format!("Debian's Rust has no {}", from.display()))?;
        write_launcher(host, root, program, None)?;
    }
    write_script(&root.join(BIN).join("cargo-clippy"), include_str!("cargo-clippy.sh"))?;

    let triple = rustc_host(&root.join(BIN).join("rustc"))?;
    let llvm = fs::read_dir(root.join("usr/lib"))?.flatten().map(|entry| entry.path().join("bin/ld.lld"));
    let lld = llvm
        .into_iter()
        .find(|file| file.exists())
        .context("Debian's lld has no usr/lib/llvm-*/bin/ld.lld")?;
    let launcher = Launcher {
        script: &format!("usr/lib/rustlib/{triple}/bin/rust-lld"),
        program: &lld.strip_prefix(root)?.display().to_string(),
        ..Launcher::default()
    };
    host.launcher(root, &launcher)
}

fn write_launcher(host: Host, root: &Path, program: &str, identity: Option<&str>) -> Result<()> {
    let script = &format!("{BIN}/{program}");
    let program = &format!("{PROGRAMS}/{program}");
    host.launcher(root, &Launcher { script, program, identity, ..Launcher::default() })
}

/// The platform that this rustc runs on, as Rust names it.
fn rustc_host(rustc: &Path) -> Result<String> {
    let about = output(Command::new(rustc).arg("-vV"))
        .context("Debian's rustc does not run here; its C library is that of Debian 12")?;
    let host = about.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.with_context(|| format!("rustc -vV names no host: {about}"))?.to_owned())
}

/// Builds the target's libraries from the source in `root` and puts them there.
fn build_library(root: &Path, build: &Path) -> Result<()> {
    let source = root.join("usr/lib/rustlib/src/rust");
    fs::create_dir(build.join("src"))?;
    fs::write(build.join("src/lib.rs"), "#![no_std]\n")?;
    fs::write(build.join("Cargo.toml"), include_str!("sysroot.toml"))?;
    // A panic in core names its place as below /rust on every machine; backtraces of EL2 go through core too.
    let real = source.canonicalize()?;
    let flags = [
        "-Cforce-frame-pointers=yes".to_owned(),
        // As rustup's: a program may be optimised across the library's border.
        "-Cembed-bitcode=yes".to_owned(),
        format!("--remap-path-prefix={}=/rust", source.display()),
        format!("--remap-path-prefix={}=/rust", real.display()),
    ];
    let vendored = format!("source.vendored.directory='{}'", source.join("library/vendor").display());

    let mut cargo = Toolchain { bin: Some(root.join(BIN)) }.cargo();
    cargo.args(["build", "--release", "--quiet", "-Zbuild-std=core,alloc", "--target", TARGET]);
    cargo.args(["--config", "source.crates-io.replace-with='vendored'", "--config", &vendored]);
    for variable in ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(variable);
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f")).env("CARGO_TARGET_DIR", build.join("target"));
    // rustc of the same version as the source may compile it: it is the standard library's own way to be built.
    cargo.env("RUSTC_BOOTSTRAP", "1").current_dir(build);
    output(&mut cargo)?;

    let libraries = libraries(root);
    fs::create_dir_all(&libraries)?;
    for file in fs::read_dir(build.join("target").join(TARGET).join("release/deps"))?.flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        if name.ends_with(".rlib") && !name.starts_with("libsysroot") {
            fs::rename(file.path(), libraries.join(name))?;
        }
    }
    Ok(())
}

/// Where the target's libraries are.
fn libraries(root: &Path) -> PathBuf {
    root.join("usr/lib/rustlib").join(TARGET).join("lib")
}

/// Stands for the contents of the target's libraries.
fn digest_library(root: &Path) -> Result<String> {
    let mut files: Vec<_> = fs::read_dir(libraries(root))?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let digests: Vec<String> = files.iter().map(|file| digest_file(file)).collect::<Result<_>>()?;
    Ok(digest(digests.concat().as_bytes())[..16].to_owned())
}
