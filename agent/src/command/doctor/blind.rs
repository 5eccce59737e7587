//! What runs here and is not seen -> findings.

use std::collections::BTreeSet;

use super::{Answer, Capability, Need};
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
        name: "Unix sockets",
        need: Need::Optional,
        since: "",
        cure: "let local clients connect by TCP (psql -h 127.0.0.1)",
        blind: "statements over these sockets: packets do not pass there",
        probe: unix_sockets,
    },
    Capability {
        name: "TLS",
        need: Need::Optional,
        since: "",
        cure: "for connections that never leave this host, sslmode=disable; elsewhere tap behind the TLS end",
        blind: "statements inside of TLS: sessions, sizes and ends are seen, their text is not",
        probe: || Answer::blind("bytes of encrypted connections are not read yet"),
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

fn unix_sockets() -> Answer {
    let Ok(table) = std::fs::read_to_string("/proc/net/unix") else {
        return Answer::unknown("/proc/net/unix cannot be read");
    };
    let found = databases(&table);
    if found.is_empty() {
        Answer::ok("no database listens on one in this network namespace")
    } else {
        Answer::blind(found.into_iter().collect::<Vec<_>>().join(", "))
    }
}

/// Listening Unix sockets of databases, from the text of `/proc/net/unix`.
fn databases(table: &str) -> BTreeSet<String> {
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
        Some(format!("{database} at {path}"))
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
            ["mysql at /run/mysqld/mysqld.sock", "postgresql at /var/run/postgresql/.s.PGSQL.5432"]
        );
        assert!(databases("garbage\n1 2 3\n").is_empty());
    }
}
