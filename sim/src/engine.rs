//! The run loop of every CPU in virtual time: what `hyp/mobivmm` does around the scheduler, with guests that are programs
//! and paths that cost what the board's data says.
//!
//! A CPU enters EL2 when its timer fires, another CPU kicks it, a device interrupts, or its guest sleeps. It asks the
//! scheduler at that instant; EL2's work follows, and then the guest runs. Until then interrupts are masked.

use crate::guest::{Guest, Step};
use crate::meter::Meter;
use sched::admission::Overhead;
use sched::{CpuId, CpuSet, Leave, Ns, Scheduler, VcpuId};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What EL2's paths cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// From one vCPU to another, decision included: an interrupt is why.
    pub switch: Ns,
    /// The same from one that goes to sleep.
    pub sleep: Ns,
    /// An exit that goes back to the same vCPU, decision included.
    pub exit: Ns,
    /// From one CPU's kick until the other sees it.
    pub kick: Ns,
    /// The interrupt of a guest's own timer, from the guest and back to it.
    pub timer: Ns,
}

impl Costs {
    /// The worst that the board's data allows: whoever is kicked has just masked its interrupts. A switch is as long
    /// again as the exit and the decision alone.
    pub const fn of(overhead: Overhead) -> Self {
        let exit = overhead.vm_switch / 2;
        Self {
            switch: overhead.vm_switch,
            sleep: overhead.vm_switch,
            exit,
            kick: overhead.irq_off_max,
            timer: exit,
        }
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A CPU's timer, if it is still the one that was armed.
    Timer(CpuId, u64),
    /// Another CPU told this one to pick again.
    Kick(CpuId),
    /// The guest on this CPU is done with what it does, or its timer interrupts it; if it has not been stopped since.
    Guest(CpuId, u64),
    /// The timer of a vCPU that sleeps, if it has not been woken since: the scheduler's affair, seen here for the meter.
    Alarm(VcpuId, u64),
    /// The device of a vCPU interrupts.
    Device(VcpuId),
}

#[derive(Debug)]
struct Cpu {
    id: CpuId,
    running: Option<VcpuId>,
    /// A reservation runs: devices of shares have to wait.
    reserved: bool,
    /// Those that wait.
    masked: Vec<VcpuId>,
    /// Until when EL2 works; then the guest runs, or the CPU sleeps.
    busy_until: Ns,
    /// Makes older events of this CPU void.
    timer: u64,
    entry: u64,
}

/// A machine in virtual time.
pub(crate) struct Engine {
    now: Ns,
    costs: Costs,
    scheduler: Scheduler,
    cpus: Vec<Cpu>,
    guests: Vec<Guest>,
    /// Makes older alarms of a vCPU void.
    alarms: Vec<u64>,
    /// The vCPUs whose timer has fired while they slept, and interrupts them when they are on a CPU: bit n = vCPU n.
    due: u64,
    events: BinaryHeap<Reverse<(Ns, u64, Event)>>,
    next_event: u64,
    pub(crate) meter: Meter,
}

impl Engine {
    pub(crate) fn new(costs: Costs, scheduler: Scheduler, guests: Vec<Guest>, meter: Meter) -> Self {
        let cpu = |n| Cpu {
            id: CpuId(n as u8),
            running: None,
            reserved: false,
            masked: Vec::new(),
            busy_until: 0,
            timer: 0,
            entry: 0,
        };
        Self {
            now: 0,
            costs,
            scheduler,
            cpus: (0..meter.cpus.len()).map(cpu).collect(),
            alarms: vec![0; guests.len()],
            due: 0,
            guests,
            events: BinaryHeap::new(),
            next_event: 0,
            meter,
        }
    }

    /// Runs from power-on to `end`.
    pub(crate) fn run(&mut self, end: Ns) {
        for n in 0..self.guests.len() {
            let v = VcpuId(n as u16);
            self.arm_device(v);
            self.wake(CpuId(0), v);
        }
        for n in 0..self.cpus.len() {
            self.pick(n, Leave::Ready);
        }
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > end {
                break;
            }
            self.now = at;
            self.meter.advance(at);
            self.handle(event);
        }
        self.now = end;
        self.meter.advance(end);
        self.meter.end();
        for guest in &mut self.guests {
            // Jobs that were released while it did not run.
            guest.next(end);
        }
    }

    /// What ran on each vCPU.
    pub(crate) fn guests(&self) -> &[Guest] {
        &self.guests
    }

    fn at(&mut self, time: Ns, event: Event) {
        self.events.push(Reverse((time, self.next_event, event)));
        self.next_event += 1;
    }

    fn handle(&mut self, event: Event) {
        let cpu = match event {
            Event::Alarm(v, armed) => {
                if self.alarms[usize::from(v.0)] == armed {
                    self.due |= 1 << v.0;
                    self.meter.wants(v, true);
                }
                return;
            }
            Event::Timer(cpu, armed) if self.cpus[usize::from(cpu.0)].timer != armed => return,
            Event::Guest(cpu, entry) if self.cpus[usize::from(cpu.0)].entry != entry => return,
            Event::Timer(cpu, _) | Event::Kick(cpu) | Event::Guest(cpu, _) => cpu,
            // The board sends all devices' interrupts to the first CPU.
            Event::Device(_) => CpuId(0),
        };
        let c = usize::from(cpu.0);
        if self.cpus[c].busy_until > self.now {
            // Interrupts are masked.
            return self.at(self.cpus[c].busy_until, event);
        }
        if let Event::Device(v) = event
            && self.cpus[c].reserved
            && self.meter.has_share(v)
        {
            return self.cpus[c].masked.push(v);
        }
        if self.cpus[c].running.is_none() {
            let counts = &mut self.meter.cpus[c];
            match event {
                Event::Timer(..) => counts.timer_wakeups += 1,
                Event::Kick(_) => counts.kick_wakeups += 1,
                Event::Device(_) => counts.device_wakeups += 1,
                Event::Guest(..) | Event::Alarm(..) => {}
            }
        }
        match event {
            Event::Guest(..) => self.guest(c),
            Event::Device(v) => {
                self.stop(c);
                self.guests[usize::from(v.0)].interrupted();
                self.arm_device(v);
                if self.wake(cpu, v) {
                    self.pick(c, Leave::Ready);
                } else if let Some(v) = self.cpus[c].running {
                    self.cpus[c].busy_until = self.now + self.costs.exit;
                    self.enter(c, v);
                }
            }
            Event::Timer(..) | Event::Kick(_) | Event::Alarm(..) => {
                self.stop(c);
                self.pick(c, Leave::Ready);
            }
        }
    }

    fn arm_device(&mut self, v: VcpuId) {
        if let Some(at) = self.guests[usize::from(v.0)].device() {
            // One that was masked may be late already.
            self.at(at.max(self.now), Event::Device(v));
        }
    }

    /// `me` makes `v` runnable. True if it has to pick again.
    fn wake(&mut self, me: CpuId, v: VcpuId) -> bool {
        self.alarms[usize::from(v.0)] += 1;
        self.meter.wants(v, true);
        let wake = self.scheduler.wake(v, self.now);
        self.kick(me, wake.running.or(wake.repick))
    }

    /// `me` tells `cpus` to pick again. True if it is one of them.
    fn kick(&mut self, me: CpuId, cpus: CpuSet) -> bool {
        for cpu in cpus.iter().filter(|cpu| *cpu != me) {
            self.at(self.now + self.costs.kick, Event::Kick(cpu));
        }
        cpus.contains(me)
    }

    /// The guest on CPU `c` exits: what it has done counts.
    fn stop(&mut self, c: usize) {
        let Cpu { running: Some(v), busy_until, .. } = self.cpus[c] else { return };
        self.guests[usize::from(v.0)].ran(self.now, self.now - busy_until);
        self.cpus[c].entry += 1;
        self.cpus[c].busy_until = self.now;
    }

    /// The guest on CPU `c` has come to an end of what it did: it goes on with something else, or sleeps.
    fn guest(&mut self, c: usize) {
        let Some(v) = self.cpus[c].running else { return };
        self.stop(c);
        match self.guests[usize::from(v.0)].next(self.now) {
            Step::Run(_) => {
                // With another job: its timer has interrupted it.
                self.cpus[c].busy_until = self.now + self.costs.timer;
                self.enter(c, v);
            }
            Step::Sleep(until) => self.pick(c, Leave::Sleeps(until)),
        }
    }

    /// CPU `c` asks the scheduler, and does what it says.
    fn pick(&mut self, c: usize, leave: Leave) {
        let cpu = self.cpus[c].id;
        let before = self.cpus[c].running;
        let decision = self.scheduler.pick(cpu, leave, self.now);
        self.kick(cpu, decision.repick);
        if let (Leave::Sleeps(until), Some(v)) = (leave, before)
            && !self.scheduler.is_runnable(v)
        {
            self.meter.wants(v, false);
            self.alarms[usize::from(v.0)] += 1;
            if let Some(at) = until {
                self.at(at, Event::Alarm(v, self.alarms[usize::from(v.0)]));
            }
        }
        self.cpus[c].reserved = decision.reserved;
        if !decision.reserved {
            for v in std::mem::take(&mut self.cpus[c].masked) {
                self.at(self.now, Event::Device(v));
            }
        }
        self.cpus[c].timer += 1;
        if let Some(until) = decision.until {
            self.at(until.max(self.now), Event::Timer(cpu, self.cpus[c].timer));
        }
        self.cpus[c].running = decision.run;
        self.meter.occupy(cpu, decision.run);
        let Some(v) = decision.run else { return };
        let mut cost = match leave {
            _ if before == Some(v) => self.costs.exit,
            Leave::Sleeps(_) => self.costs.sleep,
            Leave::Ready | Leave::Yields => self.costs.switch,
        };
        if self.due >> v.0 & 1 != 0 {
            self.due &= !(1 << v.0);
            cost += self.costs.timer;
        }
        self.cpus[c].busy_until = self.now + cost;
        self.enter(c, v);
    }

    /// The guest `v` runs on CPU `c` when EL2 is done.
    fn enter(&mut self, c: usize, v: VcpuId) {
        let Cpu { id, busy_until, entry, .. } = self.cpus[c];
        let guest = &mut self.guests[usize::from(v.0)];
        let done = match guest.next(busy_until) {
            Step::Run(work) => busy_until.saturating_add(work),
            Step::Sleep(_) => busy_until,
        };
        let at = guest.timer(busy_until).map_or(done, |timer| timer.max(busy_until).min(done));
        if at < Ns::MAX {
            self.at(at, Event::Guest(id, entry));
        }
    }
}
