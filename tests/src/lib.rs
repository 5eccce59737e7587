//! End to end: real databases, real clients, a live kernel.
