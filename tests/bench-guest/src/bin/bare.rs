//! The guest whose first instruction ends MobiVMM's boot: bare metal, with an image as large as the promise of `boot` allows. It says that
//! it is done, on the PL011 of MobiVMM's guest platform, and sleeps.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(
    r#"
        .section .text.start, "ax"
        .global _start
_start: movz    xzr, #0xffff                    // the mark that it is done
        mov     x0, #0x09000000                 // UARTDR
        adr     x1, 2f
1:      ldrb    w2, [x1], #1
        cbz     w2, 3f
        str     w2, [x0]
        b       1b
2:      .asciz  "done\n"
        .balign 4
3:      wfi
        b       3b
        .org    20 << 10
    "#
);

include!("../../../on_target_only.rs");
