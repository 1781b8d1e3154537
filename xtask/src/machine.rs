//! `cargo xtask machine`: what a machine file may say, and whether one is right.

use anyhow::Result;
use clap::Subcommand;
use machines::{Machine, Resolver};
use std::path::PathBuf;

/// What to do with machine files.
#[derive(Clone, Debug, Subcommand)]
pub enum MachineCommand {
    /// Check a machine file and the images it names; print a summary
    Check {
        /// The machine file
        file: PathBuf,
    },
    /// Print the schema of machine files
    Explain,
}

/// Runs the command; `resolver` finds built-in artefacts, and builds them if need be.
///
/// # Errors
/// The machine file is refused.
pub fn run(command: MachineCommand, resolver: &Resolver<'_>) -> Result<()> {
    match command {
        MachineCommand::Check { file } => {
            let machine = Machine::load(&file)?;
            machine.compile(resolver)?;
            print!("{}", machine.summary());
        }
        MachineCommand::Explain => print!("{}", machines::explain()),
    }
    Ok(())
}
