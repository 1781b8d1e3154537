//! From the first instruction to the VMs.

use core::arch::global_asm;
use core::ffi::{CStr, c_char};

use crate::sys::{self, Result};
use crate::vm::{MAX_VCPUS, Vm};

// At its start a program has argc, then argv, on its stack.
global_asm!(
    r#"
        .global _start
_start: ldr     x0, [sp]
        add     x1, sp, #8
        mov     x29, #0
        mov     x30, #0
        b       {START}
    "#,
    START = sym start,
);

/// The device trees, by VM.
const TREES: [&CStr; 2] = [c"/tree-0", c"/tree-1"];

extern "C" fn start(argc: usize, argv: *const *const c_char) -> ! {
    for (n, tree) in (1..argc).zip(TREES) {
        // SAFETY: argv has argc strings, which live as long as the program.
        let argument = unsafe { CStr::from_ptr(*argv.add(n)) };
        match sys::fork() {
            Ok(0) => {
                let Err(error) = run(argument.to_bytes(), tree);
                sys::print("FAIL error ");
                sys::print_number(error.0);
                sys::print("\n");
                sys::exit(1)
            }
            Ok(_) => {}
            Err(_) => sys::print("FAIL fork\n"),
        }
    }
    sys::sleep()
}

/// Runs a VM.
fn run(argument: &[u8], tree: &CStr) -> Result<core::convert::Infallible> {
    let (fifo, argument) = match argument.strip_suffix(b",fifo") {
        Some(argument) => (true, argument),
        None => (false, argument),
    };
    let vcpus = match argument {
        [b'v', b'c', b'p', b'u', b's', b'=', digit] => usize::from(digit.wrapping_sub(b'0')),
        _ => 0,
    };
    if vcpus == 0 || vcpus > MAX_VCPUS {
        return Err(sys::INVALID);
    }
    if fifo {
        sys::set_fifo()?;
    }
    Vm::new(vcpus, c"/guest", tree)?.run()
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    sys::print("FAIL panic\n");
    sys::exit(1)
}
