//! A session that is read in its server's parser: a text that is about to be parsed -> judged, told where it is denied.
//!
//! There is nobody who could wait for an approval, and nothing that could be sent in a statement's place.

use super::{
    Action, Asked, Desk, Duration, Entry, Instant, Known, Mode, Named, Session, Start, Told, may_be_known,
    now, shape,
};

impl Session {
    /// A session whose messages are not seen.
    pub(in super::super) fn unseen(cookie: u64, entry: &'static Entry) -> Option<Self> {
        Some(Self::with(cookie, entry, (entry.inline?.open)(Start::Midstream)))
    }

    /// Its messages cannot be read, and its server is here.
    pub(in super::super) fn is_hidden(&self) -> bool {
        self.blind && !self.client
    }

    /// Whose known texts pass; 0 before anything was judged.
    pub(in super::super) fn class(&self) -> u32 {
        self.class
    }

    /// Says again whose.
    pub(in super::super) fn reclass(&mut self, desk: &mut Desk) -> u32 {
        self.class = self.class_now(desk);
        self.class
    }

    /// When to look again whether the agent has said who this is; none where it has, or will not.
    pub(in super::super) fn awaits_introduction(&self, desk: &Desk) -> Option<Instant> {
        self.introduce(desk)
    }

    /// Judges a text. True where it is not to be executed.
    pub(in super::super) fn denies(&mut self, text: &[u8], desk: &mut Desk) -> bool {
        if desk.draining {
            return false;
        }
        self.buffer.clear();
        self.start = 0;
        self.reader.wrap(text, &mut self.buffer);
        let length = self.buffer.len();
        let Desk { texts, .. } = desk;
        // What the server does with names is its own to know here: it parses each text once, whatever brought it.
        let meaning = self.reader.meaning(&self.buffer, texts, &mut |_| Named::Unseen);
        let whole = texts.intern(self.entry.dialect, text);
        let hash = shape::text(desk.key, text);
        if !meaning.lasting || self.class == 0 {
            // It may have changed what the session is.
            self.reclass(desk);
        }
        let mut verdict = self.judge(&meaning, desk);
        let watched = self.watched(&meaning, desk);
        let unwatched = watched.is_empty();
        self.tell_watched(watched, desk);
        let masks = self.masks(&meaning, desk);
        let acts = verdict.policy_mode == Some(Mode::Enforce);
        let mut denied = acts && verdict.action >= Action::RequireApproval;
        if !denied && let Err((stricter, _)) = self.maskable(length, masks.as_ref(), desk) {
            (verdict, denied) = (stricter, true);
        }
        if denied {
            let told = if verdict.action == Action::RequireApproval { Told::Unasked } else { Told::Blocked };
            // A session that is to be killed is told as killed.
            if verdict.action != Action::Kill {
                let id = desk.ids.next(now());
                self.tell(desk, id, &verdict, told, &Asked(meaning.texts.clone()), Duration::ZERO);
            }
        } else if masks.is_none()
            && unwatched
            && meaning.lasting
            && meaning.complete
            && desk.policies.is_steady()
            && may_be_known(&whole, desk)
        {
            desk.known.insert(Known { hash, class: self.class, padding: 0 }, &whole);
        }
        if self.buffer.capacity() > 1 << 20 {
            self.buffer = Vec::new();
        }
        denied
    }
}
