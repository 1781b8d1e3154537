//! The command line: `cargo xtask setup|run|machine`.

mod build;
mod machine;
mod run;
mod script;
mod setup;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

use crate::build::Builder;
use crate::machine::MachineCommand;
use crate::run::RunOptions;
use crate::setup::SetupOptions;

/// Builds MobiVMM and runs it
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    setup: SetupOptions,
}

#[derive(Subcommand)]
enum Command {
    /// Bring the toolchain's target, QEMU and the Linux guest; run does it when something is missing
    Setup,
    /// Start a machine on QEMU
    Run(Box<RunOptions>),
    /// Check a machine file, or explain what one may say
    #[command(subcommand)]
    Machine(MachineCommand),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(Cli { command, setup }: Cli) -> Result<()> {
    match command {
        Command::Setup => setup::run(&setup).map(drop),
        Command::Run(options) => run::run(*options, &setup),
        Command::Machine(command) => machine::run(command, &|package, file| {
            Builder::new(setup::run(&setup)?).artefact(package, file)
        }),
    }
}
