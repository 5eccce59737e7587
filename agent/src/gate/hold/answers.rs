//! What a session's server sends, on its way through the shim: bytes in, bytes with values masked out.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use agent_core::mask::{Flow, Mask, Plan, Unmaskable};
use nix::sys::socket::{MsgFlags, recv};

use super::super::talk::News;
use super::Desk;

/// Most bytes that are masked at once.
const ONCE: usize = 64 * 1024;

/// The answers of one session.
pub(super) struct Answers {
    masker: Box<dyn Mask>,
    /// What the client is to have and does not have yet, from here on.
    out: Vec<u8>,
    at: usize,
    /// Nothing more reaches the client: it could not be masked.
    broken: bool,
    /// The rules that wanted values masked since that was told last.
    rules: BTreeSet<Arc<str>>,
}

impl Answers {
    pub(super) fn new(masker: Box<dyn Mask>) -> Self {
        Self { masker, out: Vec::new(), at: 0, broken: false, rules: BTreeSet::new() }
    }

    /// Can the answer to this message be masked?
    pub(super) fn check(&self, message: &[u8], plan: &Plan) -> Result<(), Unmaskable> {
        self.masker.check(message, plan)
    }

    /// These bytes were forwarded to the server; `masks` goes with each message that begins in them.
    pub(super) fn asked(&mut self, bytes: &[u8], masks: Option<&Masks>, cookie: u64, desk: &mut Desk) {
        if self.broken {
            return;
        }
        if let Some(masks) = masks {
            self.rules.extend(masks.rules.iter().cloned());
        }
        if let Err(why) = self.masker.request(bytes, masks.map(|masks| &masks.plan)) {
            self.give_up(why, cookie, desk);
        }
    }

    /// Reads what the server has sent, if all that it sent before is gone. `plain`: nothing of it is a message.
    pub(super) fn read(
        &mut self,
        socket: &OwnedFd,
        plain: bool,
        scratch: &mut [u8],
        cookie: u64,
        desk: &mut Desk,
    ) {
        if !self.out.is_empty() {
            return;
        }
        // Others wait meanwhile, and the kernel side for a sign of life.
        let room = scratch.len().min(ONCE);
        let Ok(count) = recv(socket.as_raw_fd(), &mut scratch[..room], MsgFlags::MSG_DONTWAIT) else {
            return;
        };
        let bytes = scratch.get(..count).unwrap_or_default();
        if self.broken {
            return;
        }
        if plain {
            self.out.extend_from_slice(bytes);
            return;
        }
        match self.masker.answer(bytes, &mut self.out) {
            Ok(Flow::AsIs) => self.out.extend_from_slice(bytes),
            Ok(Flow::Rewritten) => {}
            Err(why) => self.give_up(why, cookie, desk),
        }
        let masked = self.masker.masked();
        if !masked.is_empty() {
            let classes = masked.iter().map(|masked| (masked.class.to_string(), masked.rows)).collect();
            let rules = self.rules.iter().map(|rule| &**rule).collect::<Vec<_>>().join(",");
            desk.tell(News::Masked { cookie, rules, classes });
        }
        if self.masker.is_idle() {
            self.rules.clear();
        }
    }

    fn give_up(&mut self, why: Unmaskable, cookie: u64, desk: &mut Desk) {
        self.broken = true;
        // What the masker has let out before is well; what it has begun is not.
        desk.tell(News::Unmasked { cookie, cause: why.name().into() });
    }

    /// Sends on what there is; true where nothing is left.
    pub(super) fn flush(&mut self, socket: &OwnedFd, desk: &mut Desk) -> bool {
        while let Some(rest) = self.out.get(self.at..).filter(|rest| !rest.is_empty()) {
            match super::session::forward(socket, rest) {
                Some(0) => return false,
                Some(sent) => self.at += sent,
                None => {
                    desk.dropped += rest.len() as u64;
                    self.at = self.out.len();
                }
            }
        }
        self.out.clear();
        self.at = 0;
        if self.out.capacity() > 1 << 20 {
            self.out = Vec::new();
        }
        true
    }

    /// True where all that was asked is answered, and the client has it.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty() && self.masker.is_idle()
    }

    /// True where more of them may be read.
    pub(super) fn reads(&self) -> bool {
        self.out.is_empty()
    }
}

/// Rules that mask the answer to a statement, and how.
#[derive(Clone)]
pub(super) struct Masks {
    pub(super) plan: Arc<Plan>,
    /// Their names.
    pub(super) rules: Vec<Arc<str>>,
}
