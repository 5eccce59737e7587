//! Servers' programs that run here -> probes on their parsers: the lane of sessions that nobody can read on their way.
//!
//! A probe costs every statement that is parsed something, so it is there only while a rule may hold. Nothing outlives
//! the agent, except where failing closed wants that: then the shim holds what the agent hands it.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use agent_common::parse::{BACKEND, Parsed};
use agent_core::protocol::PROTOCOLS;
use aya::Ebpf;
use aya::maps::{HashMap as BpfMap, Map, MapData};
use aya::programs::UProbe;

use super::guard::Globals;
use super::lanes::Page;
use crate::capture::btf::Btf;
use crate::capture::live::{CaptureError, typed};
use crate::capture::tls::parser;
use crate::identify::sockets::Sockets;

/// Files that were looked into are remembered, up to this many.
const FILES_MAX: usize = 1 << 14;

/// Device and inode.
type Inode = (u64, u64);

/// Probes on servers' parsers.
pub struct Parsers {
    program: OwnedFd,
    backends: BpfMap<MapData, u32, [u8; BACKEND]>,
    parsed: Page<Parsed>,
    /// Programs that were looked into, with what keeps the probe of a server's in place.
    files: HashMap<Inode, Option<OwnedFd>>,
    /// Processes that began to run a server's program.
    servers: HashSet<u32>,
    /// Network namespaces and ports where such a process listens.
    served: HashSet<(u64, u16)>,
    /// What was counted when it was told last.
    told: Parsed,
}

/// What the kernel program must know of this kernel, by the names that it has for it. An error names what is missing.
pub fn globals(btf: &Btf<'_>) -> Globals {
    const FIELDS: [(&str, &str, &str); 13] = [
        ("TASK_START", "task_struct", "start_time"),
        ("TASK_FILES", "task_struct", "files"),
        ("FILES_TABLE", "files_struct", "fdt"),
        ("TABLE_MAX", "fdtable", "max_fds"),
        ("TABLE_FILES", "fdtable", "fd"),
        ("FILE_INODE", "file", "f_inode"),
        ("FILE_PRIVATE", "file", "private_data"),
        ("INODE_MODE", "inode", "i_mode"),
        ("SOCKET_SK", "socket", "sk"),
        ("SK_FAMILY", "sock_common", "skc_family"),
        ("SK_STATE", "sock_common", "skc_state"),
        ("SK_PORT", "sock_common", "skc_num"),
        ("SK_COOKIE", "sock_common", "skc_cookie"),
    ];
    FIELDS.into_iter().map(|(global, name, field)| Ok((global, btf.wanted(name, field)?))).collect()
}

impl Parsers {
    /// Loads the program; nothing is probed yet.
    pub fn load(ebpf: &mut Ebpf) -> Result<Self, CaptureError> {
        let name = "weir_parse";
        let refused = |source| CaptureError::Program { name, source: Box::new(source) };
        let open = |source| CaptureError::Open { path: "the program on servers' parsers".into(), source };
        let program: &mut UProbe = typed(ebpf, name)?;
        program.load().map_err(refused)?;
        let program = program.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(refused)?;
        let program = program.as_fd().try_clone_to_owned().map_err(open)?;
        let mut map = |name| ebpf.take_map(name).ok_or(CaptureError::Missing(name));
        let backends = BpfMap::try_from(map("BACKENDS")?)?;
        let Map::Array(parsed) = map("PARSED")? else { return Err(CaptureError::Missing("PARSED")) };
        Ok(Self {
            program,
            backends,
            parsed: Page::map(parsed.fd().as_fd()).map_err(open)?,
            files: HashMap::new(),
            servers: HashSet::new(),
            served: HashSet::new(),
            told: Parsed::default(),
        })
    }

    /// Everything that runs now.
    pub fn look_at_all(&mut self) {
        for pid in super::pids() {
            self.look(pid);
        }
    }

    /// A process: where it runs a server's program, that is probed from now on. Gives what keeps a new probe in place.
    pub fn look(&mut self, pid: u32) -> Option<BorrowedFd<'_>> {
        let file = File::open(format!("/proc/{pid}/exe")).ok()?;
        let inode = file.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok()?;
        if let Some(known) = self.files.get(&inode) {
            if known.is_some() {
                self.servers.insert(pid);
            }
            return None;
        }
        if self.files.len() >= FILES_MAX {
            self.files.retain(|_, probe| probe.is_some());
        }
        let mut functions = PROTOCOLS.iter().filter_map(|entry| entry.inline?.parser);
        let offset = functions.find_map(|function| parser::find(&file, function));
        let probe = offset.and_then(|offset| match parser::probe(&file, offset, &self.program) {
            Ok(probe) => {
                tracing::info!(pid, offset, "what a server parses is judged");
                Some(probe)
            }
            Err(error) => {
                tracing::warn!(%error, pid, "a server's parser cannot be probed");
                None
            }
        });
        if probe.is_some() {
            self.servers.insert(pid);
        }
        self.files.insert(inode, probe);
        self.files.get(&inode)?.as_ref().map(AsFd::as_fd)
    }

    /// Whether what is said to a server at this port is judged before it is executed.
    pub fn serves(&mut self, namespace: u64, port: u16, sockets: &mut Sockets) -> bool {
        if self.served.contains(&(namespace, port)) {
            return true;
        }
        for pid in &self.servers {
            let listening = sockets.listening(*pid);
            self.served.extend(
                listening.iter().flat_map(|found| found.tcp.iter().map(|end| (found.namespace, end.port))),
            );
        }
        self.served.contains(&(namespace, port))
    }

    /// Forgets processes that are gone.
    pub fn clean(&mut self) {
        let is_gone = |pid: u32| !std::path::Path::new(&format!("/proc/{pid}")).exists();
        let before = self.servers.len();
        self.servers.retain(|pid| !is_gone(*pid));
        if self.servers.len() < before {
            // Another program may listen there now.
            self.served.clear();
        }
        let gone: Vec<u32> =
            self.backends.keys().filter_map(Result::ok).filter(|pid| is_gone(*pid)).collect();
        for pid in gone {
            let _ = self.backends.remove(&pid);
        }
    }

    /// What was counted.
    pub fn counts(&self) -> Parsed {
        self.parsed.get()
    }

    /// What was not as it should be since the last call: causes as events name them, and how often.
    pub fn failures(&mut self) -> Vec<(&'static str, u64)> {
        let now = self.parsed.get();
        let before = std::mem::replace(&mut self.told, now);
        let failures = [
            ("gate_unanswered", now.unanswered - before.unanswered),
            ("gate_unread", now.unread - before.unread),
            ("gate_too_long", now.long - before.long),
            ("gate_processes", now.crowded - before.crowded),
            ("gate_not_cancelled", now.failed - before.failed),
        ];
        failures.into_iter().filter(|(_, count)| *count > 0).collect()
    }

    /// What keeps the probes in place.
    pub fn links(&self) -> impl Iterator<Item = &OwnedFd> {
        self.files.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::super::guard::OBJECT;

    /// A program that gives the processor away must not have its stack on the processor: kernels since 6.13 put it there
    /// from 64 bytes on, counted in steps of 16.
    #[test]
    fn the_program_has_a_small_stack() {
        let object = aya_obj::Object::parse(OBJECT).unwrap();
        let ours = object.functions.values().filter(|f| f.name.contains("parse"));
        let mut names = HashSet::new();
        for function in ours {
            let mut frames = [false; 16];
            for instruction in &function.instructions {
                let (to, from) = (instruction.dst_reg(), instruction.src_reg());
                let deep = match instruction.code & 7 {
                    // Loads; stores.
                    1 if from == 10 => instruction.off.into(),
                    2 | 3 if to == 10 => instruction.off.into(),
                    // An addition to a copy of the frame's address.
                    7 if instruction.code == 0x07 && frames[usize::from(to)] => instruction.imm,
                    _ => 0,
                };
                assert!(deep >= -48, "{} uses {} bytes of stack", function.name, -deep);
                if instruction.code & 7 == 7 || instruction.code & 7 == 1 {
                    frames[usize::from(to)] = instruction.code == 0xbf && from == 10;
                }
            }
            names.insert(function.name.clone());
        }
        assert!(names.len() > 5 && names.contains("weir_parse"), "{names:?}");
    }
}
