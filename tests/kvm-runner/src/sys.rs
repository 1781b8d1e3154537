//! Linux' system calls on arm64, as far as they are needed (Linux, include/uapi/asm-generic/unistd.h).

use core::arch::asm;
use core::ffi::CStr;

const IOCTL: usize = 29;
const OPENAT: usize = 56;
const CLOSE: usize = 57;
const READ: usize = 63;
const WRITE: usize = 64;
const PPOLL: usize = 73;
const EXIT_GROUP: usize = 94;
const SCHED_SETSCHEDULER: usize = 119;
const CLONE: usize = 220;
const MMAP: usize = 222;

/// An error number.
#[derive(Clone, Copy)]
pub struct Errno(pub usize);

/// EINVAL.
pub const INVALID: Errno = Errno(22);

/// What a system call returns.
pub type Result<T> = core::result::Result<T, Errno>;

/// A file descriptor.
#[derive(Clone, Copy)]
pub struct Fd(usize);

/// A system call.
///
/// # Safety
/// What it does to memory, by its arguments, must be allowed.
unsafe fn call<const N: usize>(number: usize, arguments: [usize; N]) -> Result<usize> {
    let mut x = [0; 6];
    x[..N].copy_from_slice(&arguments);
    let result: usize;
    // SAFETY: the kernel keeps all registers but x0; the rest is the caller's.
    unsafe {
        asm!("svc #0", in("x8") number, inout("x0") x[0] => result, in("x1") x[1], in("x2") x[2], in("x3") x[3],
            in("x4") x[4], in("x5") x[5], options(nostack));
    }
    // The last 4095 values are errors.
    if result > usize::MAX - 4095 { Err(Errno(result.wrapping_neg())) } else { Ok(result) }
}

/// Opens a file to read and write, or to read only.
pub fn open(path: &CStr, write: bool) -> Result<Fd> {
    const AT_FDCWD: usize = -100isize as usize;
    let flags = if write { 2 } else { 0 };
    // SAFETY: the path is read.
    unsafe { call(OPENAT, [AT_FDCWD, path.as_ptr() as usize, flags, 0]) }.map(Fd)
}

/// Reads a whole file into `to`.
pub fn load(path: &CStr, mut to: &mut [u8]) -> Result<()> {
    let file = open(path, false)?;
    loop {
        // SAFETY: it writes to `to` only.
        let count = unsafe { call(READ, [file.0, to.as_mut_ptr() as usize, to.len()]) }?;
        if count == 0 {
            break;
        }
        to = to.get_mut(count..).ok_or(INVALID)?;
    }
    // SAFETY: nobody else has it.
    unsafe { call(CLOSE, [file.0]) }.map(drop)
}

/// Maps memory: of a file, shared with the kernel, or new zeroed memory. It stays for ever.
pub fn map(file: Option<Fd>, size: usize) -> Result<*mut u8> {
    const READ_WRITE: usize = 3;
    const SHARED: usize = 1;
    const PRIVATE_ANONYMOUS_POPULATED: usize = 0x8022;
    let (flags, file) = match file {
        Some(file) => (SHARED, file.0),
        None => (PRIVATE_ANONYMOUS_POPULATED, usize::MAX),
    };
    // SAFETY: at an address that the kernel chooses, so nothing else is there.
    unsafe { call(MMAP, [0, size, READ_WRITE, flags, file, 0]) }.map(|at| at as *mut u8)
}

impl Fd {
    /// ioctl(2) with a number.
    pub fn control(self, request: usize, argument: usize) -> Result<usize> {
        // SAFETY: no request that takes a number touches memory of this program.
        unsafe { call(IOCTL, [self.0, request, argument]) }
    }

    /// ioctl(2) with a structure.
    ///
    /// # Safety
    /// `T` is what `request` reads and writes, and the memory that it names is for the kernel to use.
    pub unsafe fn control_with<T>(self, request: usize, argument: &mut T) -> Result<Fd> {
        // SAFETY: the caller's.
        unsafe { call(IOCTL, [self.0, request, argument as *mut T as usize]) }.map(Fd)
    }

    /// The descriptor that an ioctl(2) with a number makes.
    pub fn create(self, request: usize, argument: usize) -> Result<Fd> {
        self.control(request, argument).map(Fd)
    }

    /// As a number.
    pub fn number(self) -> usize {
        self.0
    }

    /// From a number.
    pub fn from_number(number: usize) -> Self {
        Self(number)
    }
}

/// A copy of this process; 0 in the copy.
pub fn fork() -> Result<usize> {
    const SIGCHLD: usize = 17;
    // SAFETY: the copy has memory of its own.
    unsafe { call(CLONE, [SIGCHLD, 0, 0, 0, 0]) }
}

/// Starts a thread.
pub fn spawn(entry: extern "C" fn(usize) -> !, argument: usize) -> Result<()> {
    const STACK: usize = 0x1_0000;
    /// CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND and CLONE_THREAD.
    const THREAD: usize = 0x1_0f00;
    let top = map(None, STACK)? as usize + STACK;
    let result: usize;
    // SAFETY: the thread goes on with a stack of its own and never comes back.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x0, x10",
            "mov x29, #0",
            "blr x9",
            "2:",
            in("x8") CLONE, inout("x0") THREAD => result, in("x1") top, in("x2") 0, in("x3") 0, in("x4") 0,
            in("x9") entry as *const () as usize, in("x10") argument,
        );
    }
    if result > usize::MAX - 4095 { Err(Errno(result.wrapping_neg())) } else { Ok(()) }
}

/// Puts this thread, and those that it starts, under SCHED_FIFO.
pub fn set_fifo() -> Result<()> {
    const SCHED_FIFO: usize = 1;
    let priority: i32 = 50;
    // SAFETY: the priority is read.
    unsafe { call(SCHED_SETSCHEDULER, [0, SCHED_FIFO, &raw const priority as usize]) }.map(drop)
}

/// Writes to the console. That it cannot be written to is nothing that anybody could be told.
pub fn print(text: &str) {
    print_bytes(text.as_bytes());
}

/// As [`print`].
pub fn print_bytes(bytes: &[u8]) {
    // SAFETY: the bytes are read.
    let _ = unsafe { call(WRITE, [1, bytes.as_ptr() as usize, bytes.len()]) };
}

/// Writes a decimal number.
pub fn print_number(number: usize) {
    if number >= 10 {
        print_number(number / 10);
    }
    print_bytes(&[b'0' + (number % 10) as u8]);
}

/// Ends this process.
pub fn exit(status: usize) -> ! {
    loop {
        // SAFETY: nothing of it is left.
        let _ = unsafe { call(EXIT_GROUP, [status]) };
    }
}

/// Does nothing any more.
pub fn sleep() -> ! {
    loop {
        // SAFETY: waits for no file, for ever.
        let _ = unsafe { call(PPOLL, [0; 5]) };
    }
}
