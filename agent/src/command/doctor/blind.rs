//! What runs here and is not seen -> findings.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt as _;

use super::{Answer, Capability, Need};
use crate::capture::tls::Known;
use crate::capture::tls::find::{Finder, Found, Inode};
use crate::identify::sockets::Sockets;

/// Socket files of databases, by how their names begin and what they are.
const DATABASE_SOCKETS: [(&str, &str); 7] = [
    (".s.PGSQL.", "postgresql"),
    (".s.PGBOUNCER.", "pgbouncer"),
    ("mysqld.sock", "mysql"),
    ("mysql.sock", "mysql"),
    ("redis", "redis"),
    ("valkey", "valkey"),
    ("mongodb-", "mongodb"),
];

pub(super) const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "TLS libraries",
        need: Need::Optional,
        since: "",
        cure: "use a build of the library that keeps its symbols, or tap at the other end",
        blind: "statements in TLS that these files carry",
        probe: libraries,
    },
    Capability {
        name: "network namespaces",
        need: Need::Optional,
        since: "3.0",
        cure: "give CAP_SYS_ADMIN and run in the host's pid namespace",
        blind: "who is behind connections of those namespaces that were open before the agent started",
        probe: namespaces,
    },
];

/// TLS libraries that processes of this host have, or may load.
fn libraries() -> Answer {
    let known = survey();
    if known.is_empty() {
        return Answer::ok("none on this host that is known");
    }
    let list = |wanted: &dyn Fn(&Known) -> bool| {
        let mut names: Vec<_> = known
            .values()
            .filter(|k| wanted(k))
            .map(|k| format!("{} ({})", k.name.display(), k.kind))
            .collect();
        names.sort();
        names.dedup();
        names.join(", ")
    };
    let blind = list(&|known| known.probes == 0);
    if blind.is_empty() {
        Answer::ok(format!("can be read: {}", list(&|_| true)))
    } else {
        Answer::blind(format!("cannot be read: {blind}"))
    }
}

/// What a capture would find now; each with the number of probes that it would get. Without this program's own: it
/// carries no statement.
pub(super) fn survey() -> HashMap<Inode, Known> {
    let mut known = HashMap::new();
    let own = std::fs::metadata("/proc/self/exe").ok().map(|metadata| (metadata.dev(), metadata.ino()));
    Finder::default().everything(&mut |found| {
        let Found { inode, name, library, .. } = found;
        if own == Some(inode) {
            return;
        }
        let (kind, probes, blind) = (library.kind, library.points.len(), library.blind);
        known.insert(inode, Known { name, kind, probes, blind });
    });
    known
}

/// Listening Unix sockets of databases: which, and where. None where they cannot be read.
pub(super) fn listeners() -> Option<Vec<(&'static str, String)>> {
    std::fs::read_to_string("/proc/net/unix").ok().map(|table| databases(&table).into_iter().collect())
}

/// Listening Unix sockets of databases, from the text of `/proc/net/unix`.
fn databases(table: &str) -> BTreeSet<(&'static str, String)> {
    /// `__SO_ACCEPTCON` in the flags' column: the socket listens.
    const LISTENS: u32 = 0x1_0000;
    let listening = table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace();
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let path = fields.nth(3)?;
        (flags & LISTENS != 0).then_some(path)
    });
    let named = listening.filter_map(|path| {
        let file = path.rsplit('/').next()?;
        let (_, database) = DATABASE_SOCKETS.into_iter().find(|(start, _)| file.starts_with(start))?;
        Some((database, path.to_owned()))
    });
    named.collect()
}

fn namespaces() -> Answer {
    match Sockets::snapshot().blind() {
        None => Answer::ok("all can be looked into"),
        Some((count, reason)) => Answer::blind(format!("{count} cannot be entered: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_of_databases() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 51234 /var/run/postgresql/.s.PGSQL.5432
0000000000000000: 00000003 00000000 00000000 0001 03 51240 /var/run/postgresql/.s.PGSQL.5432
0000000000000000: 00000002 00000000 00010000 0001 01 51235 /run/mysqld/mysqld.sock
0000000000000000: 00000002 00000000 00010000 0001 01 51236 @/containerd-shim/x.sock
0000000000000000: 00000002 00000000 00010000 0001 01 51237
0000000000000000: 00000002 00000000 00000000 0002 01 51238 /run/redis/redis.sock
";
        let found: Vec<_> = databases(table).into_iter().collect();
        assert_eq!(
            found,
            [
                ("mysql", "/run/mysqld/mysqld.sock".to_owned()),
                ("postgresql", "/var/run/postgresql/.s.PGSQL.5432".to_owned())
            ]
        );
        assert!(databases("garbage\n1 2 3\n").is_empty());
    }
}
