//! The command line: `cargo xtask setup|run|top|trace|test|bench|machine|sim`.

mod bench;
mod board;
mod build;
mod machine;
mod run;
mod script;
mod setup;
mod sim;
mod test;
mod trace;

use anyhow::Result;
use clap::Parser;
use std::process::ExitCode;

use crate::bench::BenchOptions;
use crate::build::Builder;
use crate::machine::MachineCommand;
use crate::run::RunOptions;
use crate::setup::{SetupCommand, SetupOptions};
use crate::sim::SimOptions;
use crate::test::TestOptions;
use crate::trace::TraceOptions;
use crate::trace::top::TopOptions;

/// Builds MobiVMM and runs it
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version)]
enum Command {
    Setup(SetupCommand),
    /// Start a machine on QEMU
    Run(Box<RunOptions>),
    /// Start a machine on QEMU and show what its vCPUs do: CPU time, missed deadlines, exits, wake-ups
    Top(Box<TopOptions>),
    /// Show what `run --trace` has written
    Trace(TraceOptions),
    /// Run the tests, on the host and on QEMU; the last line counts them
    Test(TestOptions),
    /// Measure what is promised, in instructions and virtual time
    Bench(BenchOptions),
    /// Run a machine's schedule in virtual time: shares, lag, deadlines
    Sim(Box<SimOptions>),
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
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            match error.downcast_ref::<qemu::Failure>() {
                Some(run) => eprintln!("{}error: {}", run.details(), run.reason()),
                None => eprintln!("error: {error:#}"),
            }
            ExitCode::FAILURE
        }
    }
}

/// Returns false if it did its work and what came out is bad: the tests have said why.
fn execute(command: Command) -> Result<bool> {
    match command {
        Command::Setup(command) => setup::command(&command)?,
        Command::Run(options) => run::run(*options)?,
        Command::Top(options) => run::top(*options)?,
        Command::Trace(options) => trace::run(&options)?,
        Command::Test(options) => return Ok(test::run(&options)),
        Command::Bench(options) => return bench::run(&options),
        Command::Sim(options) => return sim::run(&options),
        Command::Machine { command, setup } => {
            machine::run(command, &|package, file| Builder::new(setup::run(&setup)?).artefact(package, file))?
        }
    }
    Ok(true)
}
