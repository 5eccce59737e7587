//! Packets to enrolled sockets -> dropped, where what they carry comes too early: its client's kernel sends it again.
//!
//! A server that sees the end of a stream does not read what the shim hands on behind it, and what follows a first message
//! before somebody accepts must not be looked at with it.

use agent_common::gate::{PARTING, PASSES, UNACCEPTED, UNREAD, late};
use aya_ebpf::{
    EbpfContext as _,
    helpers::{bpf_get_socket_cookie, bpf_ktime_get_ns, generated::bpf_skb_load_bytes},
    macros::cgroup_skb,
    programs::SkBuffContext,
};

use super::{GATED, LANES, PORTS, shared, tally, volatile};

const PROTO_TCP: u8 = 6;
const FIN: u8 = 1;

/// What comes to an enrolled server's socket. What comes too early is dropped: its client's kernel sends it again.
#[cgroup_skb]
pub fn weir_delay(ctx: SkBuffContext) -> i32 {
    i32::from(!is_early(&ctx).unwrap_or(false))
}

#[inline(always)]
fn part<const N: usize>(ctx: &SkBuffContext, at: u32) -> Option<[u8; N]> {
    let mut bytes = [0u8; N];
    // SAFETY: the buffer is as long as said.
    let got = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), at, bytes.as_mut_ptr().cast(), N as u32) };
    (got == 0).then_some(bytes)
}

#[inline(always)]
fn is_early(ctx: &SkBuffContext) -> Option<bool> {
    let [first] = part::<1>(ctx, 0)?;
    let (protocol, at) = match first >> 4 {
        4 => (part::<1>(ctx, 9)?[0], u32::from(first & 15) * 4),
        6 => (part::<1>(ctx, 6)?[0], 40),
        _ => return None,
    };
    if protocol != PROTO_TCP {
        return None;
    }
    let tcp = part::<14>(ctx, at)?;
    let port = u16::from_be_bytes([tcp[2], tcp[3]]);
    // SAFETY: entries are plain numbers.
    unsafe { PORTS.get(&port) }?;
    let body = at + u32::from(tcp[12] >> 4) * 4;
    let size = ctx.len().saturating_sub(body);
    let ends = tcp[13] & FIN != 0;
    if size == 0 && !ends {
        return None;
    }
    // SAFETY: helpers without preconditions but a valid context.
    let (cookie, now) = unsafe { (bpf_get_socket_cookie(ctx.as_ptr()), bpf_ktime_get_ns()) };
    // SAFETY: entries are plain numbers.
    let index = unsafe { GATED.get(&cookie) }?;
    let lane = LANES.get_ptr_mut(*index)?;
    // SAFETY: checked above; plain words.
    let lane = unsafe { &mut *lane };
    let shared = shared()?;
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let looked = volatile(&lane.looked);
    if size > 0 && lane.begun & 4 == 0 {
        lane.base = sequence.wrapping_sub(looked);
        lane.begun |= 4;
    }
    let waiting = volatile(&lane.word);
    let at_work = volatile(&shared.pulse) + volatile(&shared.patience) >= now;
    if waiting >= PASSES || lane.client != 0 || volatile(&shared.armed) == 0 || !at_work {
        return None;
    }
    let age = now.wrapping_sub(volatile(&lane.since));
    // What came before may have been overtaken or lost, or lie in the backlog while the server has its socket locked.
    let unseen = lane.begun & 4 != 0 && (sequence.wrapping_sub(lane.base.wrapping_add(looked)) as i32) > 0;
    if ends && (unseen || waiting & 1 != 0 && waiting > 1) {
        if lane.ending == 0 {
            lane.ending = now;
        }
        // The server would see the end first, and not read what the shim hands on behind it.
        if now.wrapping_sub(lane.ending) < PARTING {
            tally(|t| t.early += 1);
            return Some(true);
        }
        tally(|t| t.parted += 1);
    }
    if ends && size > 0 {
        lane.begun |= 2;
    }
    if size > 0 && waiting == 1 && lane.late == late::NO && lane.hello == 0 {
        // Nobody may have accepted it yet. Then only a first message alone may come in: see `greets`.
        let alone = part::<4>(ctx, body).is_some_and(|length| u32::from_be_bytes(length) == size);
        if lane.begun & 1 == 0 && alone {
            lane.begun |= 1;
        } else if age < (if lane.begun & 1 == 0 { UNACCEPTED } else { UNREAD }) {
            tally(|t| t.early += 1);
            return Some(true);
        }
    }
    None
}
