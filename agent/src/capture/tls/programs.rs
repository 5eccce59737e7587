//! The kernel programs on calls of TLS libraries -> loaded ones: a few that serve many probes each, or one for each
//! kind of call where the kernel knows only such probes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use agent_common::call;
use aya_obj::Object;

use super::multi;

/// One kind of probe.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// The program that does this alone.
    pub program: &'static str,
    /// The one that does it among others.
    pub shared: &'static str,
    /// What the probe tells that one.
    pub cookie: u64,
    /// Whether it runs where the function returns.
    pub returns: bool,
    /// The gate's program that is put there as well, where the gate wants to know.
    pub gate: Option<&'static str>,
}

/// All kinds.
pub const KINDS: [Kind; 13] = [
    enters("weir_tls_write", call::WRITE).held(GATE[1]),
    enters("weir_tls_write_ex", call::WRITE_EX).held(GATE[1]),
    enters("weir_tls_write_ex2", call::WRITE_EX2).held(GATE[1]),
    leaves("weir_tls_written", call::WRITTEN).held(GATE[0]),
    enters("weir_tls_read", call::READ),
    enters("weir_tls_read_ex", call::READ_EX),
    leaves("weir_tls_was_read", call::WAS_READ),
    enters("weir_tls_end", call::END).held(GATE[1]),
    go("weir_go_write", call::GO_WRITE),
    go_leaves("weir_go_written", call::GO_WRITTEN),
    go("weir_go_read", call::GO_READ),
    go_leaves("weir_go_was_read", call::GO_WAS_READ),
    go("weir_go_end", call::GO_END),
];

/// Those that serve many, ends before beginnings: a call that is entered unseen must not return as another one's.
pub const SHARED: [&str; 4] = ["weir_tls_leave", "weir_tls_enter", "weir_go_leave", "weir_go"];

/// The gate's, in the same order.
pub const GATE: [&str; 2] = ["weir_gate_leave", "weir_gate_enter"];

impl Kind {
    const fn held(self, program: &'static str) -> Self {
        Self { gate: Some(program), ..self }
    }
}

const fn enters(program: &'static str, cookie: u64) -> Kind {
    Kind { program, shared: "weir_tls_enter", cookie, returns: false, gate: None }
}

const fn leaves(program: &'static str, cookie: u64) -> Kind {
    Kind { program, shared: "weir_tls_leave", cookie, returns: true, gate: None }
}

/// Go's returns are instructions of their own.
const fn go(program: &'static str, cookie: u64) -> Kind {
    Kind { program, shared: "weir_go", cookie, returns: false, gate: None }
}

const fn go_leaves(program: &'static str, cookie: u64) -> Kind {
    Kind { program, shared: "weir_go_leave", cookie, returns: false, gate: None }
}

/// The kind that a program alone is.
pub fn kind(program: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.program == program)
}

/// The loaded programs, by name.
#[derive(Debug)]
pub enum Programs {
    /// Each is on all probes of a file at once: taken off together, once for all (Linux 6.6).
    Shared(HashMap<&'static str, OwnedFd>),
    /// Each probe is a perf event of its own.
    Alone(HashMap<&'static str, OwnedFd>),
}

/// Loads the shared programs, with the maps of the others. An error where this kernel has no such probes: then it is
/// `Unsupported`, or where it refused them.
/// `gate`: with the gate's.
pub fn shared(object: &[u8], maps: &[(String, OwnedFd)], gate: bool) -> io::Result<Programs> {
    let strange =
        |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut object = Object::parse(object).map_err(|error| strange(&error))?;
    let known = std::mem::take(&mut object.maps);
    let maps = maps.iter().filter_map(|(name, fd)| Some((name.as_str(), fd.as_raw_fd(), known.get(name)?)));
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_maps(maps, &text).map_err(|error| strange(&error))?;
    object.relocate_calls(&text).map_err(|error| strange(&error))?;
    let mut programs = HashMap::new();
    for name in SHARED.into_iter().chain(GATE.into_iter().filter(|_| gate)) {
        let program = object.programs.get(name).ok_or_else(|| strange(&format_args!("{name} is missing")))?;
        let function = object
            .functions
            .get(&program.function_key())
            .ok_or_else(|| strange(&format_args!("{name} is empty")))?;
        let fd = multi::load(name, &function.instructions, &program.license)?;
        if programs.is_empty() && !multi::is_known(&fd) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        programs.insert(name, fd);
    }
    Ok(Programs::Shared(programs))
}
