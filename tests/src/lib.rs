//! End-to-end tests on QEMU.
