//! The shell: a line of input is shown and answered.

use embedded_io::Read;
use heapless::Vec;
use mobi_rtos::task::{self, Statistics};
use mobi_rtos::time::ExtU64;
use mobi_rtos::{Console, println};

use crate::statistics::STATISTICS;

/// The longest line.
const LINE: usize = 80;

/// The shell task.
pub fn run() {
    let mut line: Vec<u8, LINE> = Vec::new();
    let mut input = [0; 16];
    loop {
        let Ok(n) = Console.read(&mut input);
        for &byte in &input[..n] {
            if byte == b'\r' || byte == b'\n' {
                execute(str::from_utf8(&line).unwrap_or_default());
                line.clear();
            } else if line.push(byte).is_err() {
                println!("a line has at most {LINE} bytes");
                line.clear();
            }
        }
    }
}

fn print_tasks() {
    for Statistics { name, priority, cpu_time, switches, stack, stack_used } in task::statistics() {
        println!(
            "{priority:2} {name:8} cpu={}us switches={switches} stack={stack_used}/{stack}",
            cpu_time.as_micros()
        );
    }
}

fn execute(line: &str) {
    let line = line.trim();
    if line.is_empty() {
        return;
    }
    println!("> {line}");
    let (command, argument) = line.split_once(' ').unwrap_or((line, ""));
    match command {
        "help" => println!("help | stats | tasks | output | period MICROSECONDS | echo TEXT"),
        "stats" => STATISTICS.print(),
        "tasks" => print_tasks(),
        "output" => STATISTICS.print_output(),
        "echo" => println!("{argument}"),
        "period" => match argument.trim().parse::<u64>() {
            Ok(micros @ 50..=10_000_000) => {
                crate::set_period(micros.micros());
                println!("period is {micros}us");
            }
            _ => println!("period: microseconds from 50 to 10000000"),
        },
        _ => println!("unknown command {command}; try help"),
    }
}
