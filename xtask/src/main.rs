//! The command line: `cargo xtask setup|run|machine`.

mod build;
mod machine;
mod run;
mod script;
mod setup;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

use crate::build::Builder;
use crate::machine::MachineCommand;
use crate::run::RunOptions;
use crate::setup::{SetupCommand, SetupOptions};

/// Builds MobiVMM and runs it
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
enum Command {
    Setup(SetupCommand),
    /// Start a machine on QEMU
    Run(Box<RunOptions>),
    /// Check a machine file, or explain what one may say
    Machine {
        #[command(subcommand)]
        command: MachineCommand,
        #[command(flatten)]
        setup: SetupOptions,
    },
}

fn main() -> ExitCode {
    match execute(Command::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<()> {
    match command {
        Command::Setup(command) => setup::command(&command),
        Command::Run(options) => run::run(*options),
        Command::Machine { command, setup } => machine::run(command, &|package, file| {
            Builder::new(setup::run(&setup)?).artefact(package, file)
        }),
    }
}
