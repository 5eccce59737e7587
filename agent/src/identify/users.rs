//! A uid -> the host's name for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

/// A directory service (LDAP behind NSS) gets this long to answer; the number stands in until it does.
const PATIENCE: Duration = Duration::from_millis(5);

/// Names of users: the host's `passwd` file first, then whatever NSS knows, asked on a thread of its own because
/// it may go to the network.
pub(super) struct Users {
    names: HashMap<u32, Arc<str>>,
    ask: SyncSender<u32>,
    answers: Receiver<(u32, Option<String>)>,
}

impl Users {
    pub(super) fn new() -> Self {
        let (ask, questions) = mpsc::sync_channel::<u32>(64);
        let (answer, answers) = mpsc::channel();
        // The thread ends when `ask` is dropped. Without it the numbers stay numbers.
        let _ = std::thread::Builder::new().name("users".into()).spawn(move || {
            for uid in questions {
                let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
                if answer.send((uid, user.map(|user| user.name))).is_err() {
                    break;
                }
            }
        });
        Self { names: parse(&passwd()), ask, answers }
    }

    /// The user's name, or the number where none is known.
    pub(super) fn name(&mut self, uid: u32) -> Arc<str> {
        if let Some(name) = self.names.get(&uid) {
            return name.clone();
        }
        // Each unknown number is looked for once: the user may have been added since.
        let added = parse(&passwd()).remove(&uid);
        let found = added.is_some();
        self.names.insert(uid, added.unwrap_or_else(|| uid.to_string().into()));
        if !found && self.ask.try_send(uid).is_ok() {
            while let Ok((answered, name)) = self.answers.recv_timeout(PATIENCE) {
                if let Some(name) = name {
                    self.names.insert(answered, name.into());
                }
                if answered == uid {
                    break;
                }
            }
        }
        self.names.get(&uid).cloned().unwrap_or_default()
    }
}

/// pid 1's root is the host's, also from inside the agent's container with the host's pid namespace.
fn passwd() -> String {
    let host = std::fs::read_to_string("/proc/1/root/etc/passwd");
    host.or_else(|_| std::fs::read_to_string("/etc/passwd")).unwrap_or_default()
}

fn parse(passwd: &str) -> HashMap<u32, Arc<str>> {
    let mut names = HashMap::new();
    for line in passwd.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1).and_then(|uid| uid.parse().ok()))
            && !name.is_empty()
        {
            // Of several names for one uid the first counts, as for getpwuid.
            names.entry(uid).or_insert_with(|| name.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let names =
            parse("root:x:0:0::/root:/bin/sh\n+::::::\ntoor:x:0:0:::\nalice:x:1000:1000:A:/home/a:\nbad\n");
        assert_eq!(names.len(), 2);
        assert_eq!(&*names[&0], "root");
        assert_eq!(&*names[&1000], "alice");
        let mut users = Users::new();
        assert_eq!(&*users.name(0), "root");
        assert_eq!(&*users.name(4_000_000_000), "4000000000");
    }
}
