//! From the device tree to a machine with guests.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use arch::mmu::{Map, MapError};
use arch::phys::{self, Region};
use arch::work::{MAX_WORK, Work};
use arch::{MAX_CPUS, cpu, errata, heap, image, time, traps};
use bundle::{Bundle, VmConfig};
use drivers::board::{self, Board, Timing};
use drivers::devices::Devices;
use drivers::gic::Gic;
use drivers::platform::{self, Platform};
use drivers::ranges::Ranges;
use lock::TicketMutex;
use sched::admission::{Admission, Limits, Overhead};
use sched::{CpuId, CpuSet, MAX_AFFINITIES, ScheduleError, Scheduler};
use stage2::{
    BLOCK, DirtyMap, Extent, FreeRanges, GrantError, Ipa, MAX_PIECES, Owners, PAGE, Pa, PhysRange, Stage2,
    VmId, VmidAllocator,
};
use thiserror::Error;
use vm::{Config, Vm, bus};

use crate::control::Book;
use crate::guest::{Guest, Pages};
use crate::machine::{self, Machine};
use crate::memory::{Mmu, Ram, TablePool};
use crate::schedule::{self, Candidate};
use crate::{channels, console, log, trace};

arch::entry!(crate::boot::primary, crate::cpu::secondary);

/// The boards that this image knows.
const BOARDS: [&Board; 2] = [&board_virt::BOARD, &board_rpi4::BOARD];
/// For how long a vCPU with a share runs before another one's turn, ns.
const SLICE: u64 = 1_000_000;
/// What is assumed of a board that is not known.
const UNKNOWN_TIMING: Timing = Timing { irq_off_max_ns: 50_000, vm_switch_ns: 50_000 };
/// SPIs of every VM: INTIDs 32 to 127.
const SPIS: usize = 96;
/// How long a secondary CPU may take to come in, ns.
const START_TIMEOUT: u64 = 1_000_000_000;

/// Secondary CPUs that have come in.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);

/// Why this machine cannot be used.
#[derive(Debug, Error)]
enum BootError {
    #[error("no device tree in x0")]
    NoDeviceTree,
    #[error("device tree: {0:?}")]
    Platform(platform::Error),
    #[error("device tree: no PL011")]
    NoUart,
    #[error("EL2 cannot map this machine: {0:?}")]
    Map(MapError),
    #[error("CNTFRQ_EL0 is out of range: the firmware must set it")]
    NoCounter,
    #[error("GIC: {0}")]
    Gic(drivers::gic::Error),
    #[error("no memory for translation tables")]
    NoTables,
}

/// The primary CPU, from [`arch::boot`].
pub fn primary(dtb: u64) -> ! {
    heap::init();
    match start(dtb) {
        Ok(machine) => crate::cpu::run(machine, 0),
        // Without a console there is nobody to tell; with one, the log says it.
        Err(error) => panic!("cannot boot: {error}"),
    }
}

/// A secondary CPU, from [`arch::boot`]: this CPU's part of the set-up.
pub fn secondary_arrived() {
    ARRIVED.fetch_add(1, Ordering::AcqRel);
}

fn start(dtb: u64) -> Result<&'static Machine, BootError> {
    let tree = phys::device_tree(dtb).ok_or(BootError::NoDeviceTree)?;
    let platform = discover(tree)?;
    let board = board::select(&BOARDS, &platform);
    let active = map(&platform).map_err(BootError::Map)?;
    let devices = Devices::new(&platform, active);
    let mut uart = devices.uart().ok_or(BootError::NoUart)?;
    uart.set_rx_interrupt(true);
    console::init(uart, platform.bootargs);
    log!("MobiVMM {} ({})", env!("CARGO_PKG_VERSION"), env!("MOBIVMM_BUILD"));
    log!("board: {} ({})", board.map_or("unknown", |board| board.name), platform.model);

    let hz = time::init().ok_or(BootError::NoCounter)?;
    let mut gic = devices.gic().map_err(BootError::Gic)?;
    gic.init_distributor();
    let maintenance_intid = match &platform.gic {
        platform::Gic::V2 { maintenance, .. } | platform::Gic::V3 { maintenance, .. } => *maintenance,
    };
    let uart_intid = platform.uart.as_ref().and_then(|uart| uart.intid);
    let bundle_bytes = platform.initrd.clone().and_then(phys::boot_bytes).unwrap_or(&[]);
    let (ram, dirty, mut owners) = guest_ram(&platform, board, dtb, tree.len());

    let online = start_secondaries(&platform, &devices);
    trace::init(platform.bootargs, online);
    let mut scheduler = machine::SCHEDULER.lock();
    let overhead = overhead(board);
    scheduler.start(online, SLICE, overhead.vm_switch);
    let tables = TicketMutex::new(TablePool::new().ok_or(BootError::NoTables)?);
    log!(
        "{} CPUs, {} MHz counter, {gic}, {} MiB for guests",
        online.iter().count(),
        hz / 1_000_000,
        owners.get_mut().free().total() >> 20
    );

    let mut builder = Builder {
        gic: &gic,
        owners: owners.get_mut(),
        scheduler: &mut scheduler,
        tables: &tables,
        vmids: VmidAllocator::default(),
    };
    let mut book = Box::new(Admission::new(online, overhead, Limits::EL2));
    let guests = builder.guests(bundle_bytes, &mut book);
    drop(scheduler);
    let count = guests.iter().map(|guest| usize::from(guest.vm.config.id) + 1).max().unwrap_or(0);
    console::add_vms(count);
    let place = |id| guests.iter().position(|guest| usize::from(guest.vm.config.id) == id);
    let places = (0..count).map(place).collect();
    let machine = machine::set(Machine {
        vcpus: numbered(&guests),
        uart_intid,
        maintenance_intid,
        alive: AtomicUsize::new(guests.len()),
        peers: channels::peers(&guests),
        guests,
        places,
        scheduler: &machine::SCHEDULER,
        book: TicketMutex::new(Book::new(book)),
        tables,
        owners,
        ram: Ram { regions: ram, bundle: bundle_bytes },
        dirty,
        power: TicketMutex::new(board.and_then(|board| devices.power(board.power))),
        semihosting: platform
            .bootargs
            .split_ascii_whitespace()
            .any(|word| matches!(word, "semihosting" | "console=lockstep")),
        gic,
    });
    init_cpu(machine, 0);
    if cfg!(feature = "plant_boot") {
        crate::plant::spin(1_000_000);
    }
    if let Some(intid) = uart_intid {
        machine.gic.route(intid, 0);
        machine.gic.set_enabled(0, intid, true);
    }
    // All that EL2 has is in the image's range: code, stacks, heap, tables.
    log!(
        "EL2: {} KiB of memory; of its heap {} of {} KiB in use",
        image::range().len() >> 10,
        heap::used() >> 10,
        heap::HEAP_SIZE >> 10
    );
    if machine.guests.is_empty() {
        log!("no VM can be started: nothing to do");
        machine.end(1);
    }
    for guest in &machine.guests {
        machine.wake(CpuId(0), 1 << guest.id(0).0);
    }
    Ok(machine)
}

/// This CPU's part of the set-up: what traps, its vectors, its interrupts.
pub fn init_cpu(machine: &Machine, index: usize) {
    traps::init();
    errata::install_vectors(false);
    machine.gic.init_cpu(index);
    for intid in [time::HYP_TIMER_INTID, time::VIRTUAL_TIMER_INTID, machine.maintenance_intid] {
        machine.gic.set_enabled(index, intid, true);
    }
}

/// EL2's own map: the image, all RAM, the devices that EL2 drives.
fn map(platform: &Platform<'_>) -> Result<arch::mmu::Active, MapError> {
    let map = Map::new()?;
    let mut memory = Ranges::new(platform.memory.iter().cloned());
    for reserved in platform.reserved.iter().filter(|reserved| reserved.no_map) {
        memory.remove(&reserved.range);
    }
    for range in memory.iter() {
        map.memory(range)?;
    }
    for registers in platform.devices() {
        map.device(registers)?;
    }
    Ok(map.activate())
}

// The functions below that are never inlined have large objects on their stack, which is not to be `start`'s.

#[inline(never)]
fn discover(tree: &'static [u8]) -> Result<Box<Platform<'static>>, BootError> {
    Platform::discover(tree).map(Box::new).map_err(BootError::Platform)
}

/// The vCPUs of VMs by the scheduler's numbers.
fn numbered(guests: &[&'static Guest]) -> Vec<Option<(&'static Guest, usize)>> {
    let mut vcpus = Vec::new();
    for &guest in guests {
        vcpus.resize(usize::from(guest.first), None);
        vcpus.extend((0..guest.vm.vcpus.len()).map(|vcpu| Some((guest, vcpu))));
    }
    vcpus
}

/// What EL2's paths cost on this board, for admission.
fn overhead(board: Option<&Board>) -> Overhead {
    let timing = board.map_or(UNKNOWN_TIMING, |board| board.timing);
    Overhead { irq_off_max: timing.irq_off_max_ns.into(), vm_switch: timing.vm_switch_ns.into() }
}

/// What is left of RAM for guests, in whole blocks.
#[inline(never)]
fn guest_ram(
    platform: &Platform<'_>,
    board: Option<&Board>,
    dtb: u64,
    dtb_len: usize,
) -> (Vec<Region>, DirtyMap, Box<TicketMutex<Owners>>) {
    let mut ram = Ranges::new(platform.memory.iter().cloned());
    let image = image::range();
    let used: [Range<u64>; 2] = [image.start as u64..image.end as u64, dtb..dtb + dtb_len as u64];
    for range in used.iter().chain(&platform.initrd).chain(board.and_then(|board| board.firmware.as_ref())) {
        ram.remove(range);
    }
    for reserved in &platform.reserved {
        ram.remove(&reserved.range);
    }
    ram.align(BLOCK);
    let regions: Vec<Region> = ram.iter().filter_map(Region::claim).collect();
    let free = regions.iter().map(|region| {
        let range = region.range();
        PhysRange { start: Pa(range.start), len: range.end - range.start }
    });
    let free = FreeRanges::new(free);
    let dirty = DirtyMap::new(&free);
    (regions, dirty, Box::new(TicketMutex::new(Owners::new(free))))
}

/// Starts the other CPUs and waits until they are there. Those that do not come are left out, with a line in the log.
fn start_secondaries(platform: &Platform<'_>, devices: &Devices<'_>) -> CpuSet {
    let mpidrs: heapless::Vec<u64, MAX_CPUS> = platform.cpus.iter().map(|cpu| cpu.mpidr).collect();
    let mut online = CpuSet::only(CpuId(0));
    if mpidrs.first() != Some(&cpu::affinity()) {
        log!("the boot CPU is not the first in the device tree: the others stay off");
        return online;
    }
    if mpidrs.len() > 1 {
        arch::boot::prepare_secondaries(&mpidrs);
    }
    for index in 1..mpidrs.len() {
        let before = ARRIVED.load(Ordering::Acquire);
        let starting = match devices.start_cpu(index) {
            Ok(starting) => starting,
            Err(error) => {
                log!("CPU {index} does not start: {error}");
                continue;
            }
        };
        let give_up = time::now() + START_TIMEOUT;
        while ARRIVED.load(Ordering::Acquire) == before && time::now() < give_up {
            cpu::relax();
        }
        if ARRIVED.load(Ordering::Acquire) == before {
            log!("CPU {index} does not come in");
        } else {
            starting.arrived();
            online.insert(CpuSet::only(CpuId(index as u8)));
        }
    }
    online
}

/// Why a VM is not made.
#[derive(Debug, Error)]
enum VmError {
    #[error("memory: {0}")]
    Memory(GrantError),
    #[error("stage 2: {0:?}")]
    Stage2(stage2::Error),
    #[error("no VMID is left")]
    NoVmid,
    #[error("no page of EL2's is left for it")]
    NoPage,
    #[error("more than {MAX_WORK} VMs")]
    NoWork,
    #[error("{0:?}")]
    Vm(vm::BadVm),
    #[error("affinity: more than {MAX_AFFINITIES} different ones among VMs with a share")]
    TooManyAffinities,
    #[error("scheduler: {0:?}")]
    Scheduler(ScheduleError),
}

/// What a VM is made with: its RAM, the page of stolen time, the virtual CPU interface, its channels.
type Extents = heapless::Vec<Extent, { MAX_PIECES + 2 + bus::MAX_CHANNELS }>;

/// Makes guests out of a bundle.
struct Builder<'a> {
    gic: &'a Gic,
    owners: &'a mut Owners,
    scheduler: &'a mut Scheduler,
    tables: &'a TicketMutex<TablePool>,
    vmids: VmidAllocator,
}

impl Builder<'_> {
    /// All VMs of the bundle that can be made; the log says why others cannot.
    fn guests(&mut self, bytes: &'static [u8], book: &mut Admission) -> Vec<&'static Guest> {
        let mut guests = Vec::new();
        if bytes.is_empty() {
            log!("no bundle: pass one as the initial RAM disk");
            return guests;
        }
        let bundle = match Bundle::parse(bytes, bytes.len() as u64) {
            Ok(bundle) => bundle,
            Err(error) => {
                log!("bundle refused: {error}");
                return guests;
            }
        };
        log!("machine: {}", bundle.name());
        let (mut candidates, mut first) = (Vec::new(), 0);
        for ((index, config), name) in bundle.vms().enumerate().zip(bundle.vm_names()) {
            match config {
                Ok(config) => {
                    candidates.push(Candidate { index, config, first });
                    first += config.vcpus as u16;
                }
                Err(error) => log!("vm {name}: refused: {error}"),
            }
        }
        schedule::admit(&mut candidates, book);
        for candidate in &candidates {
            let VmConfig { name, vcpus, memory, .. } = candidate.config;
            match self.guest(&guests, candidate, book) {
                Ok(guest) => {
                    log!("{guest}: {vcpus} vCPUs, {} MiB", memory.size >> 20);
                    guests.push(guest);
                }
                Err(error) => {
                    self.undo(candidate, book);
                    log!("vm {name}: refused: {error}");
                }
            }
        }
        guests
    }

    #[inline(never)]
    fn guest(
        &mut self,
        earlier: &[&Guest],
        candidate: &Candidate,
        book: &Admission,
    ) -> Result<&'static Guest, VmError> {
        let Candidate { index, config, first } = *candidate;
        let (id, slot) = (VmId(index as u8), earlier.len());
        let work = Work::new(slot).ok_or(VmError::NoWork)?;
        let version = match self.gic {
            Gic::V2(_) => vgic::Version::V2,
            Gic::V3(_) => vgic::Version::V3,
        };
        let vm = Vm::new(Config {
            id: id.0,
            name: config.name.to_owned(),
            gic: vgic::Config {
                version,
                vcpus: config.vcpus as usize,
                spis: SPIS,
                list_registers: self.gic.list_registers(),
            },
            ram: config.memory.base..config.memory.base + config.memory.size,
            channels: channels::of(&config, earlier),
        })
        .map_err(VmError::Vm)?;
        schedule::add(self.scheduler, book, candidate).map_err(|error| match error {
            ScheduleError::TooManyAffinities => VmError::TooManyAffinities,
            error => VmError::Scheduler(error),
        })?;
        let vmid = self.vmids.alloc().ok_or(VmError::NoVmid)?;
        let stolen = self.tables.lock().page().ok_or(VmError::NoPage)?;
        let channels = channels::pages(&vm.config.channels, earlier, self.tables).ok_or(VmError::NoPage)?;
        let pages = Pages { stolen, channels };
        let extents = self.extents(id, &config, &pages).map_err(VmError::Memory)?;
        let stage2 = Stage2::rebuild(&mut Mmu::new(self.tables), id, vmid, &extents).map_err(|error| {
            self.vmids.free(vmid);
            VmError::Stage2(error)
        })?;
        Ok(Box::leak(Box::new(Guest::new(slot, vm, config, first, stage2, work, pages))))
    }

    /// What a VM sees: its RAM, which it gets here, pages of EL2's, and the virtual CPU interface.
    #[inline(never)]
    fn extents(&mut self, id: VmId, config: &VmConfig<'_>, pages: &Pages) -> Result<Extents, GrantError> {
        let memory = &config.memory;
        let mut extents = heapless::Vec::new();
        if memory.identity {
            self.owners.grant_at(id, PhysRange { start: Pa(memory.base), len: memory.size })?;
        } else {
            self.owners.grant(id, memory.size)?;
        }
        let mut at = memory.base;
        for piece in self.owners.owned(id) {
            extents.extend([Extent::ram(Ipa(at), piece.start, piece.len)]);
            at += piece.len;
        }
        extents.extend([Extent::shown(Ipa(bus::STOLEN_TIME.start), Pa(pages.stolen.range().start), PAGE)]);
        extents.extend(channels::extents(&pages.channels));
        // The first page alone: the second has the deactivation register, whose writes EL2 must see.
        let gicv = self.gic.gicv();
        extents.extend(gicv.map(|gicv| Extent::device(Ipa(bus::GICC.start), Pa(gicv.start), PAGE)));
        Ok(extents)
    }

    /// Takes back what a VM got that is refused after all.
    fn undo(&mut self, candidate: &Candidate, book: &mut Admission) {
        // It never ran, so it has no loans, and no CPU has its registers: nothing is refused.
        let _ = self.owners.reclaim(VmId(candidate.index as u8));
        for vcpu in candidate.vcpus() {
            let _ = self.scheduler.remove(vcpu);
            book.remove(vcpu);
        }
    }
}
