//! The ABI between the kernel programs and the agent: plain records, each size asserted here.
#![no_std]
