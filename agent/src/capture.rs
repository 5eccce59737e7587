//! Captured traffic from the kernel or from files.
