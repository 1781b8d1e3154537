//! Work items: the EL2 half of a vCPU. Ordinary code on a small stack of its own, with interrupts open, that an interrupt preempts
//! and [`Work::run`] continues, on any CPU.

use core::cell::UnsafeCell;

use crate::vectors::{self, WORK_DONE, WORK_FRAME};
use crate::{cache, cpu};

/// The most work items that can exist at a time: one a virtual machine.
pub const MAX_WORK: usize = 16;
const WORK_STACK_SIZE: usize = 8 * 1024;

#[repr(C, align(4096))]
struct WorkStack {
    guard: [u8; crate::PAGE],
    bytes: [u8; WORK_STACK_SIZE],
}

#[repr(transparent)]
pub(crate) struct WorkStacks(UnsafeCell<[WorkStack; MAX_WORK]>);
// SAFETY: a stack is touched only through the one `Work` of its index (see `Work::new`).
unsafe impl Sync for WorkStacks {}

#[unsafe(link_section = ".stacks")]
pub(crate) static WORK_STACKS: WorkStacks =
    WorkStacks(UnsafeCell::new([const { WorkStack { guard: [0; _], bytes: [0; _] } }; MAX_WORK]));

impl WorkStacks {
    fn at(&self, index: usize) -> usize {
        self.0.get() as usize + index * size_of::<WorkStack>()
    }

    /// Addresses of the guard pages, ascending.
    pub(crate) fn guards(&self) -> impl Iterator<Item = usize> {
        let base = self.at(0);
        (0..MAX_WORK).map(move |i| base + i * size_of::<WorkStack>())
    }
}

/// How [`Work::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// A physical interrupt is pending; the item goes on at the next `run`.
    Preempted,
    /// The item's function has returned.
    Done,
}

/// One work item's place: its stack, and where it stands.
#[derive(Debug)]
pub struct Work {
    index: usize,
    sp: Option<u64>,
}

static TAKEN: [core::sync::atomic::AtomicBool; MAX_WORK] =
    [const { core::sync::atomic::AtomicBool::new(false) }; MAX_WORK];

impl Work {
    /// The work place of virtual machine `index`; `None` if it is out of range or taken.
    pub fn new(index: usize) -> Option<Self> {
        let taken = TAKEN.get(index)?.swap(true, core::sync::atomic::Ordering::Relaxed);
        (!taken).then_some(Self { index, sp: None })
    }

    /// Whether an item is under way.
    pub fn is_active(&self) -> bool {
        self.sp.is_some()
    }

    /// Starts `entry(argument)` as an item, to be run by [`Self::run`]; an item that is under way is abandoned.
    pub fn start(&mut self, entry: extern "C" fn(usize), argument: usize) {
        let sp = WORK_STACKS.at(self.index) + size_of::<WorkStack>() - WORK_FRAME;
        let frame = sp as *mut u64;
        // EL2h, all masked but IRQ.
        let pstate = 0b1001 | (1 << 9) | (1 << 8) | (1 << 6);
        // SAFETY: the frame lies in this item's own stack, which nothing else uses: no item is running on it, since `run` borrows
        // `self` for as long as it does.
        unsafe {
            frame.write_bytes(0, WORK_FRAME / 8);
            frame.add(19).write(entry as *const () as u64);
            frame.add(20).write(argument as u64);
            frame.add(31).write(vectors::mobivmm_work_start as *const () as u64);
            frame.add(32).write(pstate);
        }
        self.sp = Some(sp as u64);
    }

    /// Runs the item on this CPU until an interrupt is pending or it is done. Returns `Done` if there is none.
    pub fn run(&mut self) -> Ran {
        let Some(sp) = self.sp else { return Ran::Done };
        // SAFETY: `sp` comes from `start` or from a preemption, and `&mut self` keeps it from running twice.
        let cause = unsafe { vectors::mobivmm_work_resume(sp) };
        if cause == WORK_DONE {
            self.sp = None;
            Ran::Done
        } else {
            // Another CPU may continue it: cache maintenance that it has begun here is complete before that.
            cache::complete();
            // SAFETY: this CPU's element; interrupts are masked.
            self.sp = Some(unsafe { *cpu::local().work_sp.get() });
            Ran::Preempted
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        TAKEN[self.index].store(false, core::sync::atomic::Ordering::Relaxed);
    }
}
