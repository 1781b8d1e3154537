//! Links the EL2 image: position-independent, by `image.ld`. Records the build id that the first line of the log shows.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=image.ld");
    // Where git says they are: a worktree has them elsewhere, and what is not there would be built anew each time.
    for file in ["HEAD", "index"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    let build = match git(&["describe", "--always", "--abbrev=12"]) {
        Some(commit) => commit + if changed { "-dirty" } else { "" },
        None => "unversioned".to_owned(),
    };
    println!("cargo:rustc-env=MOBIVMM_BUILD={build}");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("none") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap();
        for argument in [
            format!("-T{here}/image.ld"),
            "-pie".into(),
            "--no-dynamic-linker".into(),
            // core is compiled for static linking: its constants' pointers lie in read-only sections and are relocated too.
            "-znotext".into(),
            "--pack-dyn-relocs=relr".into(),
            "-znorelro".into(),
            "-zmax-page-size=4096".into(),
            "--build-id=none".into(),
        ] {
            println!("cargo:rustc-link-arg-bins={argument}");
        }
    }
}

/// What git answers, if there is one; it is not to refresh the index, on which the build depends.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("--no-optional-locks").args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
