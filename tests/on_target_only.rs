// What a program of instructions alone has besides them; included at the end of each.

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is no program for the host: build it for aarch64-unknown-none-softfloat");
}
