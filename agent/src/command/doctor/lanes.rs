//! Connections to databases, by their server's end -> the way on which the gate can hold their statements, or why none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;

use agent_core::protocol::{self, PROTOCOLS};
use aya::maps::{HashMap as BpfMap, Map, MapData, MapType, loaded_maps};
use aya::programs::{ProgramType, loaded_programs};
use aya_obj::generated::bpf_prog_type;

use super::connections::{Seen, databases, shown};
use super::kernel::older_than;
use super::{Finding, Need, Status};
use crate::capture::btf;
use crate::capture::tls::parser;
use crate::gate::{parse, waits_in_kernel};

const NAME: &str = "gate lane";
const BLIND: &str = "nothing, but a rule can only end these sessions, not refuse a statement";
/// `SS_CONNECTED` in the state's column of `/proc/net/unix`.
const CONNECTED: &str = "03";

/// What is known of the connections to one server's end.
struct Facts {
    /// What is spoken there.
    system: &'static str,
    unix: bool,
    server_here: bool,
    /// The server waits in the kernel for what it reads.
    waits: bool,
    /// Why this kernel cannot hold anything; none where it can.
    kernel: Option<String>,
    /// Why the server's parser cannot be probed; none where it can.
    parser: Option<String>,
}

/// The way of the connections to one server's end.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Lane {
    /// The server's end.
    endpoint: String,
    /// Connections that are open now, and those of them that go through a gate; null where that cannot be told.
    connections: usize,
    gated: Option<usize>,
    /// `server`, `client`, `unix`, or `kill`: they can only be ended.
    lane: &'static str,
    /// Why not a better one; empty where it is the best.
    why: String,
    /// The same for those over TLS: `parser` or `kill`.
    tls: &'static str,
    tls_why: String,
}

/// One finding for each server's end, and those about what all of them need.
pub(super) fn examine(ports: &HashMap<u16, &'static str>) -> Vec<Finding> {
    let mut findings = vec![others()];
    let kernel = unfit();
    let gated = gated();
    let mut ends = BTreeMap::<String, (Facts, usize, usize)>::new();
    for ((_, server), seen) in databases(ports) {
        let place = ends.entry(shown(server)).or_insert_with(|| (facts(&seen, kernel.clone()), 0, 0));
        // Where both ends are here, one of them may not have been in the table.
        place.0.server_here |= seen.cookies[1].is_some();
        place.1 += 1;
        let in_gate = |cookie: &u64| gated.as_ref().is_some_and(|gated| gated.contains(cookie));
        place.2 += usize::from(seen.cookies.iter().flatten().any(in_gate));
    }
    let unix = std::fs::read_to_string("/proc/net/unix").unwrap_or_default();
    for (path, (system, connections)) in unix_ends(&unix) {
        let (kernel, parser) = (kernel.clone(), Some("it cannot be on TLS there".to_owned()));
        let facts = Facts { system, unix: true, server_here: true, waits: false, kernel, parser };
        ends.insert(path, (facts, connections, 0));
    }
    if ends.is_empty() {
        findings.push(finding("no connection to a database is open".into(), Status::Ok, "", None));
    }
    for (endpoint, (facts, connections, in_gate)) in ends {
        // Unix sockets go by another cookie there.
        let gated = gated.as_ref().filter(|_| !facts.unix).map(|_| in_gate);
        let (lane, cure) = lane(&facts, endpoint, connections, gated);
        let status = if lane.lane == "kill" { Status::Blind } else { Status::Ok };
        findings.push(finding(lane.told(facts.system), status, cure, Some(lane)));
    }
    findings
}

fn finding(detail: String, status: Status, cure: &'static str, lane: Option<Lane>) -> Finding {
    let blind = if status == Status::Ok { "" } else { BLIND };
    Finding { name: NAME, status, need: Need::Optional, since: "", detail, cure, blind, lane }
}

/// The best way there is, and what would make it a better one.
fn lane(facts: &Facts, endpoint: String, connections: usize, gated: Option<usize>) -> (Lane, &'static str) {
    let held = PROTOCOLS.iter().any(|entry| entry.name == facts.system && entry.inline.is_some());
    let (lane, why, cure) = match &facts.kernel {
        _ if !held => ("kill", format!("statements of {} cannot be held yet", facts.system), "use `kill`"),
        Some(why) => ("kill", why.clone(), "run a kernel with BPF sockmaps, and weir as root"),
        None if facts.waits => (
            "kill",
            "its server waits in the kernel for what it reads (gate_waits)".into(),
            "use a server that reads with O_NONBLOCK, as PostgreSQL and pgbouncer do",
        ),
        None if facts.unix => ("unix", String::new(), ""),
        None if facts.server_here => ("server", String::new(), ""),
        None => ("client", "its server is on another host".into(), ""),
    };
    let (tls, tls_why) = match &facts.parser {
        _ if !facts.server_here => ("kill", "its server is on another host".to_owned()),
        Some(why) => ("kill", why.clone()),
        None => ("parser", String::new()),
    };
    (Lane { endpoint, connections, gated, lane, why, tls, tls_why }, cure)
}

impl Lane {
    /// In words.
    fn told(&self, system: &str) -> String {
        let mut said = format!("{} ({system}), {} open", self.endpoint, self.connections);
        if let Some(gated) = self.gated {
            said += &format!(", {gated} in the gate");
        }
        said += match self.lane {
            "server" => ": at the server's socket",
            "unix" => ": at the server's socket, from their second statement on",
            "client" => ": at the client's socket, with gate.remote",
            _ => ": can only be ended",
        };
        if !self.why.is_empty() {
            said += &format!(", {}", self.why);
        }
        match (self.tls, self.lane) {
            (_, "unix") => {}
            ("parser", _) => said += "; over TLS: in the server's parser, with gate.tls",
            _ => said += &format!("; over TLS: can only be ended, {}", self.tls_why),
        }
        said
    }
}

/// What is known of the server's end of a connection.
fn facts(seen: &Seen, kernel: Option<String>) -> Facts {
    let [_, servers] = &seen.pids;
    let server_here = seen.cookies[1].is_some();
    let waits = seen.cookies[1].is_some_and(|cookie| {
        servers.iter().find_map(|pid| waits_in_kernel(*pid, cookie).ok()).unwrap_or(false)
    });
    let parser = unparsed(seen.system, servers);
    Facts { system: seen.system, unix: false, server_here, waits, kernel, parser }
}

/// Why what one of these processes parses cannot be judged; none where it can.
fn unparsed(system: &str, servers: &[u32]) -> Option<String> {
    let inline = PROTOCOLS.iter().find(|entry| entry.name == system)?.inline;
    let Some(function) = inline.and_then(|inline| inline.parser) else {
        return Some(format!("no parser of {system} is known"));
    };
    if older_than("6.0") {
        return Some("probes that wait need Linux 6.0".into());
    }
    if let Err(why) = btf::ask(parse::globals).flatten() {
        return Some(why);
    }
    let exports = |pid: &u32| {
        File::open(format!("/proc/{pid}/exe")).is_ok_and(|file| parser::find(&file, function).is_some())
    };
    (!servers.iter().any(exports)).then(|| format!("its server's program does not export {function}"))
}

/// Why this kernel cannot hold anything; none where it can.
fn unfit() -> Option<String> {
    let lacks = |what: &str, has: Result<bool, String>| match has {
        Ok(true) => None,
        Ok(false) => Some(format!("this kernel has no {what}")),
        Err(error) => Some(format!("{what}: {error}")),
    };
    let program = |kind| aya::sys::is_program_supported(kind).map_err(|error| error.to_string());
    lacks("sk_skb programs", program(ProgramType::SkSkb))
        .or_else(|| lacks("sk_msg programs", program(ProgramType::SkMsg)))
        .or_else(|| {
            let has = aya::sys::is_map_supported(MapType::SockHash).map_err(|error| error.to_string());
            lacks("sockhash maps", has)
        })
}

/// Who else has programs on sockets: one socket cannot have two.
fn others() -> Finding {
    let on_sockets = [ProgramType::SkSkb, ProgramType::SkMsg].map(bpf_prog_type::from);
    let ours = |name: &str| name.starts_with("weir_");
    let names: Vec<String> = loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| on_sockets.contains(&program.program_type()))
        .filter_map(|program| Some(program.name_as_str()?.to_owned()).filter(|name| !ours(name)))
        .collect();
    let (status, detail, cure, blind) = if names.is_empty() {
        (Status::Ok, "no other program has sockmaps here".to_owned(), "", "")
    } else {
        (
            Status::Blind,
            format!("other programs have sockmaps: {}", names.join(", ")),
            "keep the databases' ports out of the other program (a service mesh, a CNI)",
            "statements on sockets that it has cannot be held: each is told (`gate_refused`)",
        )
    };
    let (name, need, since) = ("sockmaps", Need::Optional, "");
    Finding { name, status, need, since, detail, cure, blind, lane: None }
}

/// Cookies of the connections that go through a gate that is at work here; none where none is.
fn gated() -> Option<HashSet<u64>> {
    let mut found = None;
    for map in loaded_maps().filter_map(Result::ok) {
        if map.name_as_str() != Some("GATED") {
            continue;
        }
        let opened = MapData::from_id(map.id()).map(Map::HashMap);
        let Ok(Ok(cookies)) = opened.map(BpfMap::<_, u64, u32>::try_from) else { continue };
        found.get_or_insert_with(HashSet::new).extend(cookies.keys().filter_map(Result::ok));
    }
    found
}

/// Unix sockets of databases that somebody is connected to, and by how many, from the text of `/proc/net/unix`.
fn unix_ends(table: &str) -> BTreeMap<String, (&'static str, usize)> {
    let mut ends = BTreeMap::new();
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        // The server's ends have its name, the clients' have none.
        if let [.., CONNECTED, _, path] = fields[..]
            && let Some(system) = protocol::of_socket(path)
        {
            ends.entry(path.to_owned()).or_insert((system, 0)).1 += 1;
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let (kernel, parser) = (None, None);
        Facts { system: "postgresql", unix: false, server_here: true, waits: false, kernel, parser }
    }

    fn said(facts: &Facts) -> (&'static str, &'static str, String) {
        let (lane, cure) = lane(facts, "127.0.0.1:5432".into(), 2, Some(1));
        assert_eq!(cure.is_empty(), lane.lane != "kill", "{lane:?}");
        (lane.lane, lane.tls, lane.told(facts.system))
    }

    #[test]
    fn the_best_way_and_why_not_a_better_one() {
        let (way, tls, told) = said(&facts());
        assert_eq!((way, tls), ("server", "parser"));
        assert_eq!(
            told,
            "127.0.0.1:5432 (postgresql), 2 open, 1 in the gate: at the server's socket; \
             over TLS: in the server's parser, with gate.tls"
        );
        let (way, tls, told) = said(&Facts { parser: Some("no BTF".into()), ..facts() });
        assert_eq!((way, tls), ("server", "kill"));
        assert!(told.ends_with("over TLS: can only be ended, no BTF"), "{told}");
        let (way, tls, told) = said(&Facts { server_here: false, ..facts() });
        assert_eq!((way, tls), ("client", "kill"));
        assert!(told.contains("gate.remote, its server is on another host; over TLS"), "{told}");
        let (way, _, told) = said(&Facts { waits: true, ..facts() });
        assert!(way == "kill" && told.contains("gate_waits"), "{told}");
        let (way, _, told) = said(&Facts { unix: true, ..facts() });
        assert!(way == "unix" && !told.contains("TLS"), "{told}");
        let (way, _, told) = said(&Facts { kernel: Some("no sk_msg".into()), ..facts() });
        assert!(way == "kill" && told.contains("only be ended, no sk_msg"), "{told}");
        assert_eq!(said(&Facts { system: "redis", ..facts() }).0, "kill");
    }

    #[test]
    fn connected_unix_sockets_are_counted() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 51234 /var/run/postgresql/.s.PGSQL.5432
0000000000000000: 00000003 00000000 00000000 0001 03 51240 /var/run/postgresql/.s.PGSQL.5432
0000000000000000: 00000003 00000000 00000000 0001 03 51241 /var/run/postgresql/.s.PGSQL.5432
0000000000000000: 00000003 00000000 00000000 0001 03 51242
0000000000000000: 00000003 00000000 00000000 0001 03 51243 /run/other.sock
";
        let found: Vec<_> = unix_ends(table).into_iter().collect();
        assert_eq!(found, [("/var/run/postgresql/.s.PGSQL.5432".to_owned(), ("postgresql", 2))]);
    }
}
