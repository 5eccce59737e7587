//! A connection of our own in throwaway sockmaps -> whether the kernel still tells how much there is to read.
//!
//! Not by the kernel's version: the fault came with stable releases and goes with them.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use aya::maps::SockHash;
use aya::programs::{SkMsg, SkSkb};
use aya::{Ebpf, EbpfLoader};

use super::Answer;
use crate::gate::guard::OBJECT;

/// Bytes that are sent.
const SENT: &[u8] = b"weir?";

/// What a process is told that has its socket in the gate: with a program on what it sends alone, and with one on what it
/// receives, too.
pub(super) fn probe() -> Answer {
    match (readable(false), readable(true)) {
        (Ok(alone), Ok(both)) => judged(alone, both),
        (Err(error), _) | (_, Err(error)) => Answer::unknown(format!("it could not be tried: {error}")),
    }
}

fn judged(alone: usize, both: usize) -> Answer {
    let all = SENT.len();
    if both != all {
        return Answer::blind(format!(
            "FIONREAD says {both} of {all} bytes for a socket as the gate has it, {alone} with a program on what it sends alone"
        ));
    }
    if alone != all {
        return Answer::ok(format!(
            "FIONREAD says {alone} of {all} bytes where only what a socket sends is looked at: a fault of this kernel, in \
             the lanes that do that (gate.remote, and masking). It says {both} where what it receives is looked at too, as \
             weir does for that reason"
        ));
    }
    Answer::ok(format!("FIONREAD says {alone} of {all} bytes"))
}

/// How many bytes there are to read, as the kernel says, once all have come.
fn readable(receives: bool) -> anyhow::Result<usize> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut sender = TcpStream::connect(listener.local_addr()?)?;
    let (receiver, _) = listener.accept()?;
    let mut loader = EbpfLoader::new();
    for name in ["GUARDED", "ANSWERED", "GATED", "LANES", "BUFFERS", "FREE", "HELLO", "SHIMS", "SERVES"] {
        loader.map_max_entries(name, 1);
    }
    let mut ebpf = loader.load(OBJECT)?;
    let sends = map(&mut ebpf, "ANSWERED")?;
    let program: &mut SkMsg = ebpf.program_mut("weir_answer").ok_or_else(missing)?.try_into()?;
    program.load()?;
    program.attach(sends.fd())?;
    let mut looked_at = vec![sends];
    if receives {
        let received = map(&mut ebpf, "GUARDED")?;
        let program: &mut SkSkb = ebpf.program_mut("weir_verdict").ok_or_else(missing)?.try_into()?;
        program.load()?;
        program.attach(received.fd())?;
        looked_at.push(received);
    }
    for map in &mut looked_at {
        map.insert(1, receiver.as_raw_fd(), 0)?;
    }
    sender.write_all(SENT)?;
    // All of it has come: a look that takes nothing.
    let mut place = [0; SENT.len()];
    let mut tries = 0;
    while receiver.peek(&mut place)? < SENT.len() && tries < 1000 {
        tries += 1;
        std::thread::yield_now();
    }
    let mut count: libc::c_int = 0;
    // SAFETY: the request writes one int.
    if unsafe { libc::ioctl(receiver.as_raw_fd(), libc::FIONREAD, &raw mut count) } != 0 {
        return Err(io::Error::last_os_error().into());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

fn map(ebpf: &mut Ebpf, name: &'static str) -> anyhow::Result<SockHash<aya::maps::MapData, u64>> {
    Ok(SockHash::try_from(ebpf.take_map(name).ok_or_else(missing)?)?)
}

fn missing() -> anyhow::Error {
    anyhow::anyhow!("the gate's programs are not what they were")
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn what_weir_works_around_is_no_trouble() {
        assert!(judged(5, 5).status == Status::Ok && !judged(5, 5).detail.contains("fault"));
        assert!(judged(0, 5).status == Status::Ok && judged(0, 5).detail.contains("fault of this kernel"));
        assert!(judged(0, 0).status == Status::Blind);
    }
}
