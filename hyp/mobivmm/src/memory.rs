//! Physical memory as the pure crates see it: guest RAM, translation tables, TLBs.

use alloc::vec::Vec;

use arch::phys::{Region, TABLE_MEMORY};
use arch::{PAGE, cache, cpu, tlb};
use lock::TicketMutex;
use stage2::{Error, GuestMem, Ipa, Pa, PhysMem, Resolution, RevokeError, Rights, TableMem, Tlb};
use vm::{StageTwo, StageTwoAccess};

use crate::guest::Guest;
use crate::machine::Machine;

/// The machine's table memory and TLBs: what [`stage2::Stage2`] works on. Each use takes the pool's lock for a moment only.
pub struct Mmu<'a>(&'a TicketMutex<TablePool>);

/// Free tables of the carve-out, 4 KiB each; roots are two that follow each other.
pub struct TablePool {
    region: Region,
    used: [u64; TABLE_MEMORY / PAGE / 64],
}

impl TablePool {
    /// All of the table memory; `None` the second time.
    pub fn new() -> Option<Self> {
        Some(Self { region: Region::tables()?, used: [0; _] })
    }

    /// Takes `count` adjacent tables (1, or 2 at an even place).
    fn take(&mut self, count: usize) -> Option<Pa> {
        let mask = (1u64 << count) - 1;
        for (at, word) in self.used.iter_mut().enumerate() {
            if let Some(bit) = (0..64).step_by(count).find(|bit| *word & (mask << bit) == 0) {
                *word |= mask << bit;
                let table = self.region.range().start + ((at * 64 + bit) * PAGE) as u64;
                self.region.zero(table, count * PAGE);
                return Some(Pa(table));
            }
        }
        None
    }

    /// A cleared page for good, not for a table.
    pub fn page(&mut self) -> Option<Region> {
        let page = self.take(1)?;
        self.region.part(page.0..page.0 + PAGE as u64)
    }

    fn give(&mut self, table: Pa, count: usize) {
        let index = (table.0 - self.region.range().start) as usize / PAGE;
        self.used[index / 64] &= !(((1u64 << count) - 1) << (index % 64));
    }
}

impl<'a> Mmu<'a> {
    /// Works on this pool.
    pub fn new(pool: &'a TicketMutex<TablePool>) -> Self {
        Self(pool)
    }
}

impl TableMem for Mmu<'_> {
    fn alloc_table(&mut self) -> Option<Pa> {
        self.0.lock().take(1)
    }

    fn alloc_root(&mut self) -> Option<Pa> {
        self.0.lock().take(2)
    }

    fn free_table(&mut self, table: Pa) {
        self.0.lock().give(table, 1);
    }

    fn free_root(&mut self, root: Pa) {
        self.0.lock().give(root, 2);
    }

    fn read(&self, at: Pa) -> u64 {
        self.0.lock().region.read_word(at.0).unwrap_or(0)
    }

    fn write(&mut self, at: Pa, desc: u64) {
        self.0.lock().region.write_word(at.0, desc);
    }

    fn publish(&mut self) {
        tlb::publish();
    }
}

impl Tlb for Mmu<'_> {
    fn invalidate_ipa(&mut self, vttbr: u64, ipa: Ipa) {
        tlb::invalidate_ipa(vttbr, ipa.0);
    }

    fn invalidate_stage1(&mut self, vttbr: u64) {
        tlb::invalidate_stage1(vttbr);
    }

    fn invalidate_va(&mut self, vttbr: u64, va: u64) {
        tlb::invalidate_va(vttbr, va);
    }

    fn invalidate_all(&mut self, vttbr: u64) {
        tlb::invalidate_vm(vttbr);
    }

    fn complete(&mut self) {
        tlb::complete();
    }
}

/// All memory that can be a guest's, and the bundle, which none can write.
pub struct Ram {
    pub regions: Vec<Region>,
    pub bundle: &'static [u8],
}

impl Ram {
    fn region(&self, at: Pa, len: usize) -> Option<&Region> {
        self.regions.iter().find(|region| region.contains(at.0, len))
    }
}

/// Extents come from the regions, so an access outside them is a bug of EL2's: it is dropped, since no guest may suffer.
impl PhysMem for &Ram {
    fn read(&mut self, from: Pa, to: &mut [u8]) {
        let done = self.region(from, to.len()).is_some_and(|region| region.read(from.0, to));
        debug_assert!(done);
    }

    fn write(&mut self, to: Pa, from: &[u8]) {
        let done = self.region(to, from.len()).is_some_and(|region| region.write(to.0, from));
        debug_assert!(done);
    }

    fn zero(&mut self, at: Pa, len: usize) {
        let done = self.region(at, len).is_some_and(|region| region.zero(at.0, len));
        debug_assert!(done);
    }

    fn clean_to_poc(&mut self, at: Pa, len: usize) {
        cache::clean_invalidate(at.0 as usize, len);
    }

    fn invalidate_icache(&mut self) {
        cache::invalidate_instructions();
    }
}

/// Runs `f` on a VM's memory, under its lock and with interrupts masked.
pub fn with<R>(machine: &Machine, guest: &Guest, f: impl FnOnce(&mut GuestMem<'_, &Ram>) -> R) -> R {
    cpu::masked(|| {
        let stage2 = guest.stage2.lock();
        f(&mut GuestMem::new(&stage2, &machine.dirty, &mut &machine.ram))
    })
}

/// Reads guest RAM; false if not all of it is RAM.
pub fn read(machine: &Machine, guest: &Guest, ipa: u64, into: &mut [u8]) -> bool {
    let mut done = 0;
    while done < into.len() {
        match with(machine, guest, |memory| memory.read(Ipa(ipa + done as u64), &mut into[done..])) {
            Ok(len) => done += len,
            Err(_) => return false,
        }
    }
    true
}

/// Bytes of a slice of [`clean_slice`]: some 256 cache lines.
const SLICE: u64 = 16 * 1024;

/// Cleans and invalidates a slice of a VM's RAM from `from` on; where the next slice begins, if there is one.
pub fn clean_slice(machine: &Machine, guest: &Guest, from: u64) -> Option<u64> {
    let memory = guest.config.memory;
    let end = (from + SLICE).min(memory.base + memory.size);
    let mut at = from;
    while at < end {
        match with(machine, guest, |memory| memory.clean_to_poc(Ipa(at), (end - at) as usize)) {
            Ok(len) => at += len as u64,
            Err(_) => break,
        }
    }
    (end < memory.base + memory.size).then_some(end)
}

/// Answers a stage 2 fault; false if the guest is to get an external abort.
pub fn resolve(machine: &Machine, guest: &Guest, fault: &StageTwo) -> bool {
    let needed = match fault.access {
        StageTwoAccess::Read => Rights::READ,
        StageTwoAccess::Write => Rights::WRITE,
        StageTwoAccess::Fetch => Rights::EXEC,
    };
    let mut mmu = Mmu::new(&machine.tables);
    let mut stage2 = guest.stage2.lock();
    let ipa = Ipa(fault.ipa);
    match stage2.fault(&mut mmu, &machine.dirty, ipa, fault.va.unwrap_or(0), needed) {
        Resolution::Retry => true,
        // A step of the split; the guest comes back for the next one.
        Resolution::Split => stage2.split(&mut mmu, ipa).is_ok(),
        Resolution::Unmapped | Resolution::Permission => false,
    }
}

/// Ends every loan in which a VM takes part, as lender or borrower, step by step with interrupts open between two steps. To be done
/// whenever a VM stops: who borrowed from it must not see what the next start puts there.
pub fn end_loans(machine: &Machine, guest: &Guest) -> Result<(), RevokeError> {
    loop {
        let more = cpu::masked(|| {
            let mut owners = machine.owners.lock();
            let loan = owners.loans_of(guest.vm_id()).next().map(|loan| (loan.id, loan.borrower));
            let Some((id, borrower)) = loan else { return Ok(false) };
            let borrower = machine.guest(usize::from(borrower.0)).ok_or(RevokeError::NotBorrower)?;
            owners.revoke(&mut Mmu::new(&machine.tables), guest.vm_id(), id, &mut borrower.stage2.lock())?;
            Ok(true)
        })?;
        if !more {
            return Ok(());
        }
    }
}

/// Takes a VM's address space apart and makes its memory free, step by step. None of its vCPUs runs any more, and it has no loans.
pub fn reclaim(machine: &Machine, guest: &Guest) -> Result<(), Error> {
    while !cpu::masked(|| guest.stage2.lock().destroy(&mut Mmu::new(&machine.tables)))? {}
    cpu::masked(|| machine.owners.lock().reclaim(guest.vm_id())).map_err(|_| Error::Borrowed)
}
