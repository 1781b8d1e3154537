//! QEMU's plugin interface, version 4 (QEMU 10.0), as far as it is used here, and the parts of GLib that it hands out.
//!
//! QEMU and the GLib in its process define these functions; the plugin is linked against neither.

use std::ffi::{c_char, c_int, c_uint, c_void};

/// The version of the interface that this is.
pub const VERSION: c_int = 4;

/// `qemu_info_t` of a system emulation.
#[repr(C)]
pub struct Information {
    pub target: *const c_char,
    pub version_min: c_int,
    pub version_cur: c_int,
    pub system_emulation: bool,
    pub cpus: c_int,
    pub max_cpus: c_int,
}

/// What the plugin is called by.
pub type Id = u64;

/// `QEMU_PLUGIN_CB_NO_REGS` and `QEMU_PLUGIN_CB_R_REGS`.
pub const NO_REGISTERS: c_int = 0;
pub const READ_REGISTERS: c_int = 1;
/// `QEMU_PLUGIN_INLINE_ADD_U64`.
pub const ADD_U64: c_int = 0;

/// What there is of an opaque type.
macro_rules! opaque {
    ($($name:ident)*) => { $(#[repr(C)] pub struct $name { _opaque: [u8; 0] })* };
}
opaque!(Block Instruction Register Scoreboard);

/// `qemu_plugin_u64`: a counter in each CPU's part of a scoreboard.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Counter {
    pub score: *mut Scoreboard,
    pub offset: usize,
}

/// `qemu_plugin_reg_descriptor`.
#[repr(C)]
pub struct Descriptor {
    pub handle: *mut Register,
    pub name: *const c_char,
    pub feature: *const c_char,
}

/// `GArray` and `GByteArray`, which look the same.
#[repr(C)]
pub struct Array<T> {
    pub data: *mut T,
    pub len: c_uint,
}

/// Called on a CPU, with the datum that was registered.
pub type OnExecution = extern "C" fn(cpu: c_uint, datum: *mut c_void);

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_init_cb(id: Id, call: extern "C" fn(Id, c_uint));
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(id: Id, call: extern "C" fn(Id, *mut Block));
    pub fn qemu_plugin_register_atexit_cb(id: Id, call: extern "C" fn(Id, *mut c_void), datum: *mut c_void);
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        instruction: *mut Instruction,
        call: OnExecution,
        flags: c_int,
        datum: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(
        instruction: *mut Instruction,
        operation: c_int,
        counter: Counter,
        value: u64,
    );
    pub fn qemu_plugin_tb_n_insns(block: *const Block) -> usize;
    pub fn qemu_plugin_tb_get_insn(block: *const Block, index: usize) -> *mut Instruction;
    pub fn qemu_plugin_insn_data(instruction: *const Instruction, to: *mut c_void, len: usize) -> usize;
    pub fn qemu_plugin_insn_vaddr(instruction: *const Instruction) -> u64;
    pub fn qemu_plugin_scoreboard_new(element_size: usize) -> *mut Scoreboard;
    pub fn qemu_plugin_u64_sum(counter: Counter) -> u64;
    pub fn qemu_plugin_get_registers() -> *mut Array<Descriptor>;
    pub fn qemu_plugin_read_register(register: *mut Register, to: *mut Array<u8>) -> c_int;

    pub fn g_array_unref(array: *mut c_void);
    pub fn g_byte_array_new() -> *mut Array<u8>;
    pub fn g_byte_array_set_size(array: *mut Array<u8>, len: c_uint) -> *mut Array<u8>;
}
