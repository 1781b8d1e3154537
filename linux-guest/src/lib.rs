//! How the Linux guest is put together: an unmodified arm64 kernel, and an initramfs made of a static busybox and the
//! files of `rootfs/`.
//!
//! The kernel is to be started with `rdinit=/init` and a `console=`; busybox's init then keeps a shell on that
//! console, in `/root`, so that its prompt is `~ # `.

mod archive;
mod elf;
mod kernel;
mod rootfs;

pub use archive::{Entry, compress, pack};
pub use kernel::check_kernel;
pub use rootfs::archive;
