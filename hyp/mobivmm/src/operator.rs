//! The hypervisor's console takes commands: what the operator can see and change while the machine runs.
//!
//! A command is a line. It is repeated in the log, and so is what came of it; a refused one has changed nothing.

use arch::time;
use lock::TicketMutex;
use sched::admission::Reservation;
use sched::{Share, VmId};
use vm::Phase;

use crate::control;
use crate::guest::Guest;
use crate::host::Here;
use crate::machine::Machine;
use crate::{log, trace};

/// The longest command, bytes.
const MAX_LINE: usize = 96;

/// The line that is being typed, and whether it is too long, and skipped up to its end.
static LINE: TicketMutex<(heapless::String<MAX_LINE>, bool)> =
    TicketMutex::new((heapless::String::new(), false));

const HELP: &str = "commands: vms | weight VM N | cap VM PERCENT (0: none) | reserve VM BUDGET PERIOD [DEADLINE] (such as 250us) | trace on|off";

/// Takes what was typed, and carries out the commands that it completes.
pub fn input(bytes: &[u8], here: &Here) {
    for &byte in bytes {
        if let Some(line) = take(byte) {
            log!("> {line}");
            if let Err(error) = command(&line, here) {
                log!("{error}");
            }
        }
    }
}

/// Takes a byte; the line that it ends, if any.
fn take(byte: u8) -> Option<heapless::String<MAX_LINE>> {
    let mut typed = LINE.lock();
    let (line, too_long) = &mut *typed;
    if !matches!(byte, b'\r' | b'\n') {
        match byte {
            b'\x08' | b'\x7f' => _ = line.pop(),
            b' '..=b'~' => *too_long |= line.push(char::from(byte)).is_err(),
            _ => {}
        }
        return None;
    }
    let (ended, too_long) = core::mem::take(&mut *typed);
    drop(typed);
    if too_long {
        log!("a command has at most {MAX_LINE} characters; {HELP}");
    }
    Some(ended).filter(|line| !too_long && !line.trim_ascii().is_empty())
}

fn command(line: &str, here: &Here) -> Result<(), &'static str> {
    let mut words = line.split_ascii_whitespace();
    let verb = words.next();
    if verb == Some("vms") {
        here.machine.guests.iter().for_each(|guest| show(here.machine, guest));
        return Ok(());
    }
    if let (Some("trace"), Some(state @ ("on" | "off"))) = (verb, line.split_ascii_whitespace().nth(1)) {
        trace::switch(here, state == "on");
        return Ok(());
    }
    let name = words.next().ok_or(HELP)?;
    let mut guests = here.machine.guests.iter();
    let guest =
        guests.find(|guest| guest.config.name == name).ok_or("there is no such VM: vms shows them")?;
    match (verb, words.next(), words.next(), words.next(), words.next()) {
        (Some("weight"), Some(weight), None, ..) => {
            let weight = weight.parse().map_err(|_| "a weight is a whole number from 1 to 65535")?;
            share(here, guest, |share| Share { weight, ..share })
        }
        (Some("cap"), Some(cap), None, ..) => {
            let cap = cap.parse().map_err(|_| "a cap is a whole number of percent, 0 for none")?;
            share(here, guest, |share| Share { cap, ..share })
        }
        (Some("reserve"), Some(budget), Some(period), deadline, None) => {
            let (budget, period) = (duration(budget)?, duration(period)?);
            let deadline = deadline.map_or(Ok(period), duration)?;
            if guest.vm.phase() != Phase::Running {
                return Err("it does not run");
            }
            control::order(guest, Reservation { budget, period, deadline })?;
            here.wake(guest, 0);
            // That vCPU may be the one that runs here.
            here.pick_again();
            Ok(())
        }
        _ => Err(HELP),
    }
}

/// Changes a VM's share.
fn share(here: &Here, guest: &Guest, change: impl FnOnce(Share) -> Share) -> Result<(), &'static str> {
    let vm = VmId(guest.vm.config.id);
    let told = {
        let mut scheduler = here.machine.scheduler.lock();
        let old = scheduler.share(vm).ok_or("it has a reservation or CPUs of its own, no share")?;
        let new = change(old);
        if new.cap > 100 * guest.vm.vcpus.len() as u32 {
            return Err("refused, nothing has changed: a cap is at most 100 for each vCPU");
        }
        let changed = scheduler.set_share(vm, new, time::now());
        changed.map_err(|_| "refused, nothing has changed: a weight is 1 to 65535")?
    };
    if here.machine.repick(here.cpu, told) {
        here.pick_again();
    }
    show(here.machine, guest);
    Ok(())
}

/// Logs how a VM competes.
fn show(machine: &Machine, guest: &Guest) {
    let (schedule, share) = {
        let scheduler = machine.scheduler.lock();
        (scheduler.schedule(guest.id(0)), scheduler.share(VmId(guest.vm.config.id)))
    };
    let (phase, vcpus) = (guest.vm.phase(), guest.vm.vcpus.len());
    match (schedule, share) {
        (Some(sched::Schedule::Reserved { reservation, .. }), _) => {
            log!("{guest}: {phase:?}, {vcpus} vCPUs, {reservation}");
        }
        (_, Some(share)) => {
            log!("{guest}: {phase:?}, {vcpus} vCPUs, weight {}, cap {} %", share.weight, share.cap);
        }
        _ => log!("{guest}: {phase:?}, {vcpus} vCPUs, a CPU each"),
    }
}

/// A duration as in machine files, in nanoseconds.
fn duration(text: &str) -> Result<u64, &'static str> {
    const UNITS: [(&str, u64); 4] = [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)];
    let unit = UNITS.iter().find_map(|(unit, ns)| Some((text.strip_suffix(unit)?, ns)));
    let number = unit.and_then(|(number, ns)| number.parse::<u64>().ok()?.checked_mul(*ns));
    number.ok_or("a duration is a whole number and a unit: ns, us, ms or s")
}
