//! `--until` and `--send`: options whose order on the command line matters.

use anyhow::{Context, Result, anyhow};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use qemu::Step;

/// The steps in the order in which they were given.
#[derive(Clone, Debug)]
pub struct ScriptArgs(pub Vec<Step>);

const UNTIL: &str = "until";
const SEND: &str = "send";

impl Args for ScriptArgs {
    fn augment_args(command: Command) -> Command {
        let step = |name: &'static str| {
            Arg::new(name).long(name).action(ArgAction::Append).value_parser(value_parser!(String))
        };
        let until = step(UNTIL).value_name("VM:REGEX").help("Wait until the VM's console matches").long_help(
            "Wait until the VM's console matches, behind the previous match, line by line. The unfinished last line \
             counts, as a prompt has no end; `$` matches only where a line has ended. `mobivmm` is the hypervisor's own \
             console. --until and --send act in the order given; when all are done the run ends with status 0.",
        );
        let send = step(SEND).value_name("VM:TEXT").help("Type into the VM's console").long_help(
            r"Type into the VM's console; \n \r \t \\ and \xNN are escapes. As the last step it is done when the VM has read it.",
        );
        command.arg(until).arg(send)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ScriptArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut steps = Vec::new();
        for (name, parse) in [(UNTIL, until as fn(&str) -> Result<Step>), (SEND, send)] {
            let texts = matches.get_many::<String>(name).into_iter().flatten();
            for (index, text) in matches.indices_of(name).into_iter().flatten().zip(texts) {
                let step = parse(text).map_err(|error| {
                    let message = format!("--{name} {text:?}: {error:#}\n");
                    clap::Error::raw(clap::error::ErrorKind::ValueValidation, message)
                })?;
                steps.push((index, step));
            }
        }
        steps.sort_by_key(|(index, _)| *index);
        Ok(Self(steps.into_iter().map(|(_, step)| step).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn split(text: &str) -> Result<(&str, &str)> {
    text.split_once(':').ok_or_else(|| anyhow!("the VM's name and a colon are missing"))
}

fn until(text: &str) -> Result<Step> {
    let (vm, regex) = split(text)?;
    Step::until(vm, regex).context("no regular expression")
}

fn send(text: &str) -> Result<Step> {
    let (vm, text) = split(text)?;
    Ok(Step::send(vm, qemu::unescape(text)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        script: ScriptArgs,
    }

    fn parse(args: &[&str]) -> Result<String, clap::Error> {
        let cli = Cli::try_parse_from(["run"].iter().chain(args))?;
        Ok(cli.script.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }

    #[test]
    fn steps_keep_their_order_across_the_two_options() {
        let args = ["--until", "a:x:y", "--send", r"a:1\n", "--send", "b:2", "--until=b:z"];
        assert_eq!(
            parse(&args).unwrap(),
            r#"a to match /x:y/; a to read "1\n"; b to read "2"; b to match /z/"#
        );
        assert_eq!(parse(&[]).unwrap(), "");
    }

    #[test]
    fn mistakes_are_named() {
        for (args, message) in [
            (["--until", "linux"], "--until \"linux\": the VM's name and a colon are missing"),
            (["--until", "linux:("], "no regular expression"),
            (["--send", r"linux:\q"], r"no such escape: \q"),
        ] {
            let error = parse(&args).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
