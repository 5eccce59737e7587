//! The title of a server process -> the user and the database of the session that it serves.
//!
//! `postgres: [cluster: ]user database host(port) activity`, for a walsender `postgres: walsender user [database] ...`.
//! Source: `init_ps_display` and `BackendInitialize` in PostgreSQL's source, as `ps` shows it ("Standard Unix Tools" in
//! the manual's chapter on monitoring).

use crate::protocol::Titled;

/// What the title says, where it is that of a session whose client has this port (0: a Unix socket). Names with blanks in them cannot be
/// told apart: then it says nothing.
pub(super) fn read(title: &str, client_port: u16) -> Option<Titled> {
    let rest = title.strip_prefix("postgres: ")?;
    let place = if client_port == 0 { "[local]".to_owned() } else { format!("({client_port})") };
    let (names, _) = rest.split_once(&place)?;
    let mut words: Vec<&str> = names.split(' ').collect();
    words.pop(); // the client's address
    if let [cluster, _, _, ..] = words.as_slice()
        && cluster.ends_with(':')
    {
        words.remove(0);
    }
    let (user, namespace) = match words.as_slice() {
        ["walsender", user] => (*user, ""),
        ["walsender", user, database] | [user, database] => (*user, *database),
        _ => return None,
    };
    (!user.is_empty()).then(|| Titled { user: user.to_owned(), namespace: namespace.to_owned() })
}

/// Whether the session has asked for nothing; none where the title does not say (`update_process_title` is off).
pub(super) fn is_idle(title: &str) -> Option<bool> {
    let rest = title.strip_prefix("postgres: ")?;
    let local = rest.split_once("[local]").map(|(_, activity)| activity);
    let remote = || rest.split_once('(')?.1.split_once(')').map(|(_, activity)| activity);
    let activity = local.or_else(remote)?.trim();
    (!activity.is_empty())
        .then(|| ["idle", "idle in transaction", "idle in transaction (aborted)"].contains(&activity))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        let of = |title| read(title, 51234).map(|titled| format!("{}/{}", titled.user, titled.namespace));
        for (title, meant) in [
            ("postgres: alice shop 127.0.0.1(51234) idle", Some("alice/shop")),
            ("postgres: alice shop ::1(51234) SELECT waiting", Some("alice/shop")),
            ("postgres: main: alice shop db.example(51234) idle in transaction", Some("alice/shop")),
            ("postgres: walsender bob 10.0.0.1(51234) streaming 0/1549158", Some("bob/")),
            ("postgres: main: walsender bob shop 10.0.0.1(51234) START_REPLICATION", Some("bob/shop")),
            ("postgres: alice shop 127.0.0.1(51235) idle", None),
            ("postgres: alice shop [local] idle", None),
            ("postgres: alice my shop 127.0.0.1(51234) idle", None),
            ("postgres: 127.0.0.1(51234)", None),
            ("postgres: checkpointer ", None),
            ("/usr/lib/postgresql/15/bin/postgres -D /data", None),
            ("sshd: alice shop 127.0.0.1(51234) idle", None),
            ("", None),
        ] {
            assert_eq!(of(title).as_deref(), meant, "{title}");
        }
        for (title, idle) in [
            ("postgres: alice shop 127.0.0.1(51234) idle", Some(true)),
            ("postgres: main: alice my shop ::1(51234) idle in transaction (aborted)", Some(true)),
            ("postgres: alice shop [local] idle in transaction", Some(true)),
            ("postgres: alice shop 127.0.0.1(51234) SELECT waiting", Some(false)),
            ("postgres: alice shop 127.0.0.1(51234) authentication", Some(false)),
            ("postgres: alice shop 127.0.0.1(51234)", None),
            ("postgres: checkpointer ", None),
            ("idle", None),
        ] {
            assert_eq!(is_idle(title), idle, "{title}");
        }
        let local = read("postgres: main: alice shop [local] idle", 0).unwrap();
        assert_eq!((local.user.as_str(), local.namespace.as_str()), ("alice", "shop"));
        assert!(read("postgres: alice shop 127.0.0.1(0) idle", 0).is_none());
    }
}
