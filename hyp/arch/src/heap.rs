//! EL2's heap, in the image's range: for boot and for work items. Exit handlers do not allocate.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, Ordering};

use linked_list_allocator::Heap;
use lock::TicketMutex;

use crate::cpu;

/// Bytes of the heap.
pub const HEAP_SIZE: usize = if cfg!(feature = "plant_footprint") { 896 } else { 384 } * 1024;

#[repr(C, align(4096))]
struct Memory(UnsafeCell<[MaybeUninit<u8>; HEAP_SIZE]>);
// SAFETY: handed out once, to the allocator below, which is behind a lock.
unsafe impl Sync for Memory {}
#[unsafe(link_section = ".uninit")]
static MEMORY: Memory = Memory(UnsafeCell::new([MaybeUninit::uninit(); HEAP_SIZE]));
static TAKEN: AtomicBool = AtomicBool::new(false);

/// The allocator: interrupts are masked while its lock is held, so that a preempted work item never holds it.
struct Allocator(TicketMutex<Heap>);

#[global_allocator]
static ALLOCATOR: Allocator = Allocator(TicketMutex::new(Heap::empty()));

/// Gives the heap its memory; a second call does nothing.
pub fn init() {
    if !TAKEN.swap(true, Ordering::Relaxed) {
        // SAFETY: the only reference to the memory that is ever made, by the swap above.
        let memory = unsafe { &mut *MEMORY.0.get() };
        ALLOCATOR.0.lock().init_from_slice(memory);
    }
}

/// Bytes in use.
pub fn used() -> usize {
    cpu::masked(|| ALLOCATOR.0.lock().used())
}

// SAFETY: delegates to `Heap`, which hands out disjoint blocks of memory that lives for ever, under a lock.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        cpu::masked(|| self.0.lock().allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr))
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        if let Some(at) = NonNull::new(at) {
            // SAFETY: the caller's contract: `at` came from `alloc` with this layout and is freed once.
            cpu::masked(|| unsafe { self.0.lock().deallocate(at, layout) });
        }
    }
}
