//! A QEMU plugin that counts instructions exactly, by CPU and by exception level, and records what EL2 does: an
//! [`events::Event`] for each entry, return, change of the interrupt mask and wait, for each of the guests' marks, and on request for
//! each run of instructions at EL2. It interprets nothing: that is for the reader of the file.
//!
//! ```text
//! -plugin libmobivmm_qemu_plugin.so,out=FILE[,entries=off][,steps=on|all][,watch=ADDRESS]…
//! ```
//!
//! | argument | |
//! |---|---|
//! | `out` | where the events go; a FIFO will do |
//! | `entries=off` | leave out all but marks, watches and clock readings |
//! | `steps=on` | record each run of instructions at EL2 between the marks 0xfff0 and 0xfff1 |
//! | `steps=all` | the same from reset on |
//! | `watch` | record each execution of the instruction at this virtual address at EL1 or EL0 |
//!
//! # How it counts
//! Instructions are counted in runs, which end with the first one that may fault or branch, so that none is counted that does not execute.
//! The exception level belongs to what a block was translated for, and is read when it is.
//!
//! On a machine of one CPU QEMU adds to the counters inline, without a call. With more there is a call for each run: when QEMU emulates
//! all CPUs in one thread, as under `-icount`, they share blocks, but what a block hands to a plugin as the CPU's index is that of the CPU
//! that it was translated for, and the inline addition computes in place with that constant, which spoils others of its value (seen with
//! QEMU 10.0.2: CPU 1 crashes the emulator). So CPUs are told apart by TPIDR_EL2, which a hypervisor points to what is the CPU's own;
//! they are numbered as its values appear.

mod api;
mod decode;
mod recorder;

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use api::{Block, Id, Information, Instruction};
use recorder::{Options, Recorder, Site};

/// The version of the interface that QEMU checks.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "QEMU's name")]
pub static qemu_plugin_version: c_int = api::VERSION;

/// What the callbacks share. QEMU may run CPUs in threads.
static RECORDER: OnceLock<Mutex<Recorder>> = OnceLock::new();

fn recorder() -> Option<MutexGuard<'static, Recorder>> {
    // A panic aborts the process, so no lock is ever poisoned.
    RECORDER.get().map(|recorder| recorder.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Called by QEMU when it loads the plugin. Returns 0 if all is well.
///
/// # Safety
/// QEMU's contract: `information` is there, and `argv` points to `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: Id,
    information: *const Information,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let arguments = (0..usize::try_from(argc).unwrap_or(0)).map(|n| {
        // SAFETY: `argv` has `argc` strings.
        unsafe { CStr::from_ptr(*argv.add(n)) }.to_string_lossy().into_owned()
    });
    // SAFETY: it is there during the call.
    let cpus = unsafe { (*information).max_cpus };
    let recorder = Options::parse(arguments).and_then(|options| Recorder::new(options, cpus > 1));
    match recorder {
        Ok(recorder) => _ = RECORDER.set(Mutex::new(recorder)),
        Err(error) => {
            eprintln!("mobivmm plugin: {error}");
            return 1;
        }
    }
    // SAFETY: the functions have the signatures that QEMU expects of them.
    unsafe {
        api::qemu_plugin_register_vcpu_init_cb(id, on_cpu);
        api::qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
        api::qemu_plugin_register_atexit_cb(id, on_exit, std::ptr::null_mut());
    }
    0
}

extern "C" fn on_exit(_id: Id, _datum: *mut c_void) {
    if let Some(mut recorder) = recorder() {
        recorder.flush();
    }
}

/// Finds the registers, which have the same handles on all CPUs.
extern "C" fn on_cpu(_id: Id, _cpu: c_uint) {
    let Some(mut recorder) = recorder() else { return };
    if recorder.has_registers() {
        return;
    }
    // SAFETY: allowed in this callback; the array and its strings live until it is unreferenced.
    let handles: HashMap<String, usize> = unsafe {
        let array = api::qemu_plugin_get_registers();
        let descriptors = std::slice::from_raw_parts((*array).data, (*array).len as usize);
        let name = |at: &api::Descriptor| CStr::from_ptr(at.name).to_string_lossy().into_owned();
        let handles = descriptors.iter().map(|at| (name(at), at.handle.expose_provenance())).collect();
        api::g_array_unref(array.cast());
        handles
    };
    recorder.set_registers(&handles);
}

extern "C" fn on_execution(_cpu: c_uint, datum: *mut c_void) {
    if let Some(mut recorder) = recorder() {
        recorder.execute(Site::unpack(datum.addr() as u64));
    }
}

/// Counts a run below EL2.
extern "C" fn on_run_below(_cpu: c_uint, datum: *mut c_void) {
    recorder::BELOW.fetch_add(datum.addr() as u64, Ordering::Relaxed);
}

/// Registers what is to be counted and recorded in a block that QEMU is about to translate.
extern "C" fn on_translation(_id: Id, block: *mut Block) {
    let Some(mut recorder) = recorder() else { return };
    let el2 = recorder.exception_level() >= 2;
    // SAFETY: the block is valid during this callback.
    let len = unsafe { api::qemu_plugin_tb_n_insns(block) };
    // The run that is being collected: its first instruction, that one's address, and its length.
    let mut run: Option<(*mut Instruction, u64, u32)> = None;
    for n in 0..len {
        let (instruction, pc, word) = fetch(block, n);
        for site in recorder.sites(el2, pc, word) {
            finish(&recorder, el2, run.take());
            call(instruction, site);
        }
        let (first, at, count) = run.take().unwrap_or((instruction, pc, 0));
        run = Some((first, at, count + 1));
        if !decode::goes_on(word) {
            finish(&recorder, el2, run.take());
        }
    }
    finish(&recorder, el2, run);
}

fn fetch(block: *mut Block, n: usize) -> (*mut Instruction, u64, u32) {
    let mut word = [0; 4];
    // SAFETY: the block has this instruction; at most four bytes are written.
    unsafe {
        let instruction = api::qemu_plugin_tb_get_insn(block, n);
        api::qemu_plugin_insn_data(instruction, word.as_mut_ptr().cast(), word.len());
        (instruction, api::qemu_plugin_insn_vaddr(instruction), u32::from_le_bytes(word))
    }
}

/// Ends a run: it is counted where it begins, after what is to be recorded there.
fn finish(recorder: &Recorder, el2: bool, run: Option<(*mut Instruction, u64, u32)>) {
    let Some((first, pc, count)) = run else { return };
    if el2 && (recorder.wants_steps() || recorder.counter(el2).is_none()) {
        call(first, Site::Run { pc, count });
    }
    // SAFETY: the instruction is one of the block that is being translated; the counter is never freed; a count is no pointer.
    unsafe {
        if let Some(counter) = recorder.counter(el2) {
            let count = count.into();
            api::qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(first, api::ADD_U64, counter, count);
        } else if !el2 {
            let datum = std::ptr::without_provenance_mut(count as usize);
            api::qemu_plugin_register_vcpu_insn_exec_cb(first, on_run_below, api::NO_REGISTERS, datum);
        }
    }
}

fn call(instruction: *mut Instruction, site: Site) {
    let datum = std::ptr::without_provenance_mut(site.pack() as usize);
    // SAFETY: as `finish`; the datum is a number and never followed.
    unsafe {
        api::qemu_plugin_register_vcpu_insn_exec_cb(instruction, on_execution, api::READ_REGISTERS, datum)
    };
}
