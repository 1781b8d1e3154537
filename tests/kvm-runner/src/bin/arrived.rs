//! Linux' first program, for `cargo xtask bench linux_boot`: marks that user space runs, says so, and sleeps.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(
    r#"
        .global _start
_start: movz    xzr, #0xffff                    // the mark DONE of the bench guest
        mov     x0, #1
        adr     x1, text
        mov     x2, #5
        mov     x8, #64                         // write
        svc     #0
0:      mov     x0, #0
        mov     x1, #0
        mov     x2, #0
        mov     x3, #0
        mov     x8, #73                         // ppoll, of nothing and for ever
        svc     #0
        b       0b
text:   .ascii  "done\n"
    "#
);

include!("../../../on_target_only.rs");
