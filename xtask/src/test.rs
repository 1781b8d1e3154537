//! `cargo xtask test`: the tests of all crates on the host, then those of the whole on QEMU, counted together.

mod bench;
mod host;
mod lint;
mod toolchain;

use std::collections::HashMap;
use std::fs;
use std::io::{Write, stdout};
use std::ops::AddAssign;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;
use tests::{Lab, Test};

use crate::build::Builder;
use crate::setup::{self, SetupOptions};

/// Options of `cargo xtask test`.
#[derive(Args, Debug)]
pub struct TestOptions {
    /// Only tests whose name contains this; those that take many minutes only by their whole name
    filter: Option<String>,
    /// Format and lints, of the host's and of the bare-metal code; not part of the tests unless asked for
    #[arg(long)]
    lint: bool,
    /// Tests of the crates, on the host
    #[arg(long)]
    host: bool,
    /// Tests of the whole, on QEMU
    #[arg(long)]
    e2e: bool,
    /// Figures that must be as promised or proposed, and delays that must be noticed; not part of the tests unless asked for
    #[arg(long)]
    bench: bool,
    #[command(flatten)]
    setup: SetupOptions,
}

/// How many passed, how many failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u32,
    failed: u32,
}

impl Counts {
    /// Counts one more.
    fn count(&mut self, passed: bool) {
        *(if passed { &mut self.passed } else { &mut self.failed }) += 1;
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Runs what was asked for, the host's and QEMU's tests by default, and prints the count as the last line. Returns whether all passed.
pub fn run(options: &TestOptions) -> bool {
    let filter = options.filter.as_deref().unwrap_or_default();
    let default = !(options.lint || options.host || options.e2e || options.bench);
    let mut counts = Counts::default();

    // Without the tools, what needs none is still worth knowing.
    let builder = setup::run(&options.setup).map(Builder::new);
    if let Err(error) = &builder {
        eprintln!("error: {error:#}");
    }
    if options.lint {
        counts += lint::run(builder.as_ref().ok().map(Builder::tools), filter);
    }
    if options.host || default {
        counts += host::run(filter);
        counts += toolchain::run(builder.as_ref().ok().map(Builder::tools), filter);
    }
    if options.e2e || default {
        let tests: Vec<Test> = tests::all().into_iter().filter(|test| test.matches(filter)).collect();
        counts += match builder.as_ref().map(|builder| end_to_end(builder, &options.setup, &tests)) {
            Ok(Ok(counts)) => counts,
            Ok(Err(error)) => {
                eprintln!("error: {error:#}");
                Counts { passed: 0, failed: tests.len() as u32 }
            }
            Err(_) => Counts { passed: 0, failed: tests.len() as u32 },
        };
    }
    if options.bench {
        counts += match builder.as_ref().map(|builder| bench::run(builder, filter)) {
            Ok(Ok(counts)) => counts,
            Ok(Err(error)) => {
                eprintln!("error: {error:#}");
                Counts { passed: 0, failed: 1 }
            }
            Err(_) => Counts { passed: 0, failed: 1 },
        };
    }
    println!("{} passed, {} failed", counts.passed, counts.failed);
    counts.failed == 0
}

/// Runs the tests on QEMU. An error means that none could be run.
fn end_to_end(builder: &Builder, options: &SetupOptions, tests: &[Test]) -> Result<Counts> {
    if tests.is_empty() {
        return Ok(Counts::default());
    }
    let hypervisor = builder.hypervisor()?;
    // Once, so that cargo does not talk into the tests' lines.
    let guests = tests::GUESTS.map(|(package, binary)| builder.artefact(package, binary));
    let guests: HashMap<_, _> = tests::GUESTS.into_iter().zip(guests).collect();
    let files = hypervisor.image.with_file_name("e2e");
    fs::create_dir_all(&files).with_context(|| files.display().to_string())?;
    let tools = builder.tools();
    let mut environment = vec![
        ("MOBIVMM_QEMU", tools.qemu.clone().into()),
        ("MOBIVMM_KERNEL", tools.kernel.clone().into()),
        ("MOBIVMM_INITRAMFS", tools.initramfs.clone().into()),
    ];
    environment.extend(tools.toolchain.bin.as_ref().map(|bin| ("MOBIVMM_RUSTC", bin.join("rustc").into())));
    environment.extend(tools.dtb_rpi4.as_ref().map(|dtb| ("MOBIVMM_DTB_RPI4", dtb.into())));
    let lab = Lab {
        root: Builder::root().into(),
        qemu: tools.qemu.clone(),
        elf: hypervisor.elf,
        image: hypervisor.image,
        plugin: builder.plugin()?,
        dtb_rpi4: tools.dtb_rpi4.clone(),
        resolver: &|package, file| match guests.get(&(package, file)) {
            Some(Ok(guest)) => Ok(guest.clone()),
            _ => builder.artefact(package, file),
        },
        schema: &|| setup::perfetto(options),
        environment,
        files,
    };
    println!("end-to-end tests; their consoles and bundles are in {}", lab.files.display());
    let mut counts = Counts::default();
    for test in tests {
        counts.count(step(&test.name, || (test.run)(&lab, &test.name)));
    }
    Ok(counts)
}

/// Runs one step and prints a line about it, with the reason if it failed. Returns whether it passed.
fn step(name: &str, run: impl FnOnce() -> Result<()>) -> bool {
    print!("test {name} ... ");
    // Somebody may be watching; if not, the line comes out with its end.
    let _ = stdout().flush();
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed().as_secs();
    match &result {
        Ok(()) => println!("ok ({seconds} s)"),
        Err(error) => println!("FAILED ({seconds} s)\n{error:#}\n"),
    }
    result.is_ok()
}
