//! What rules that only watch would do about a message that goes on -> told, for the agent to compare and count.

use agent_core::judge::would;

use super::super::super::talk::Would;
use super::{Desk, Meaning, News, Session, Verdict, digest};

/// The texts of a message that such rules would do something about, by their digests.
pub(super) type Watched = Vec<(u64, Verdict)>;

impl Session {
    /// What a canary would do about a message; nothing where there is none.
    pub(super) fn watched(&self, meaning: &Meaning, desk: &Desk) -> Watched {
        let (mut watched, mut rest) = (Watched::new(), Verdict::default());
        if !desk.policies.is_canary() {
            return watched;
        }
        let stricter = |place: &mut Verdict, verdict: &Verdict| {
            if verdict.outranks(place) {
                *place = verdict.clone();
            }
        };
        self.subjects(meaning, desk, &mut |subject, text| {
            let verdict = would(&desk.policies, subject);
            let Some(text) = text.map(|text| digest(text.bytes())) else {
                return stricter(&mut rest, &verdict);
            };
            match watched.iter_mut().find(|(of, _)| *of == text) {
                Some((_, place)) => stricter(place, &verdict),
                None => watched.push((text, verdict)),
            }
        });
        // What stands behind a name that is not known may be any of it.
        let texts = meaning.texts.iter().map(|text| digest(text.bytes()));
        for text in texts.filter(|_| !rest.policy_rule.is_empty()) {
            match watched.iter_mut().find(|(of, _)| *of == text) {
                Some((_, place)) => stricter(place, &rest),
                None => watched.push((text, rest.clone())),
            }
        }
        // PREPARE has the text that it prepares before itself. It is one statement.
        let prepared =
            meaning.texts.windows(2).filter(|two| &*two[1].analysis().db_operation_name == "PREPARE");
        let prepared: Vec<u64> = prepared.map(|two| digest(two[0].bytes())).collect();
        watched.retain(|(text, verdict)| !verdict.policy_rule.is_empty() && !prepared.contains(text));
        watched
    }

    /// Tells it, once the message is one that executes something.
    pub(super) fn tell_watched(&self, watched: Watched, desk: &mut Desk) {
        desk.watched += u64::from(!watched.is_empty());
        // Unique over all shims that one agent has: each has another pid.
        let message = u64::from(std::process::id()) << 40 | desk.watched;
        for (text, verdict) in watched {
            desk.tell(News::Would(Would {
                cookie: self.cookie,
                message,
                text,
                policy_rule: verdict.policy_rule.to_string(),
                policy_version: verdict.policy_version.to_string(),
                action: verdict.action,
            }));
        }
    }
}
