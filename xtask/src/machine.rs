//! `cargo xtask machine`: what a machine file may say, and whether one is right.

use anyhow::Result;
use clap::Subcommand;
use machines::{Machine, Resolver};
use std::path::PathBuf;

use crate::board::BoardArgs;

/// What to do with machine files.
#[derive(Clone, Debug, Subcommand)]
pub enum MachineCommand {
    /// Check a machine file, the images it names, and whether a board's CPUs can keep its promises; print a summary
    Check {
        /// The machine file
        file: PathBuf,
        #[command(flatten)]
        board: BoardArgs,
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
        MachineCommand::Check { file, board } => {
            let machine = Machine::load(&file)?;
            let plan = machine.admit(board.online()?, board.overhead())?;
            machine.compile(resolver)?;
            print!("{}{board}\n{plan}", machine.summary());
        }
        MachineCommand::Explain => print!("{}", machines::explain()),
    }
    Ok(())
}
