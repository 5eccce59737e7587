//! Lifecycle records and real processes -> who they were, while they live and afterwards.

use std::process::{Command, Stdio};

use agent::identify::{Exec, ProcessTable};

fn boot_ns() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    std::time::Duration::from(time).as_nanos() as u64
}

fn exec<'a>(pid: u32, arguments: &'a [u8], name: &'a [u8]) -> Exec<'a> {
    let (filename, time_ns) = (&b"/usr/bin/psql"[..], boot_ns());
    Exec { pid, parent: std::process::id(), time_ns, filename, arguments, name, uid: 0, cgroup: 0 }
}

/// A pid that nobody has: over the kernel's limit.
const GONE: u32 = 5_000_000;

#[test]
fn a_child_is_known_while_it_lives_and_after() {
    let mut table = ProcessTable::new();
    let mut child = Command::new("sleep")
        .args(["60"])
        .env("CLAUDECODE", "1")
        .env("PGPASSWORD", "hunter2")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    table.fork(std::process::id(), child.id(), boot_ns());
    // The exec happens in the child: the command line shows when it is through.
    while !std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap().starts_with(b"sleep") {
        std::thread::yield_now();
    }
    let alive = table.connect(77, child.id()).unwrap();
    assert!(alive.observed && !alive.shared);
    assert!(alive.process.executable.ends_with("sleep") || alive.process.executable.contains("coreutils"));
    assert_eq!(&*alive.process.command_line, "sleep 60");
    assert_eq!(*alive.process.owner, *owner());
    assert!(alive.process.ancestry[0].ends_with(&format!("({})", std::process::id())));
    assert!(alive.agents.iter().any(|sign| &*sign.name == "claude-code" && sign.source == "environment"));
    child.kill().unwrap();
    child.wait().unwrap();
    table.exit(child.id(), boot_ns());
    assert_eq!(table.workload(child.id()).as_ref(), Some(&alive), "an exited process keeps its identity");
    assert_eq!(table.of_connection(77).as_ref(), Some(&alive));
    table.forget(77);
    assert_eq!(table.of_connection(77), None);
}

fn owner() -> String {
    let uid = nix::unistd::getuid();
    nix::unistd::User::from_uid(uid).unwrap().map_or(uid.to_string(), |user| user.name)
}

#[test]
fn nobody_saw_it_alive() {
    let mut table = ProcessTable::new();
    let me = std::process::id();
    let own = table.workload(me).unwrap();
    table.fork(me, GONE, boot_ns());
    table.exec(&exec(GONE, b"psql\0-c\0select 'x'\0postgres://a:hunter2@h/d\0", b"psql\0\0\0"));
    table.exit(GONE, boot_ns());
    let gone = table.workload(GONE).unwrap();
    assert!(!gone.observed);
    assert_eq!(&*gone.process.executable, "/usr/bin/psql");
    assert_eq!(&*gone.process.command_line, "psql -c select ? postgres://a:***@h/d");
    assert_eq!(&*gone.process.owner, "root");
    assert_eq!(gone.container, own.container, "inherited from the parent that lives");
    assert_eq!(gone.process.auid, own.process.auid);
    assert!(gone.process.ancestry[0].ends_with(&format!("({me})")));
    assert_eq!(gone.process.ancestry[1..], own.process.ancestry[..]);
}

#[test]
fn a_forked_worker_is_its_parents_program() {
    let mut table = ProcessTable::new();
    let me = std::process::id();
    table.fork(me, GONE + 1, boot_ns());
    let worker = table.workload(GONE + 1).unwrap();
    assert_eq!(worker.process.pid, GONE + 1);
    assert_eq!(worker.process.executable, table.workload(me).unwrap().process.executable);
}

#[test]
fn a_reused_pid_is_another_process() {
    let mut table = ProcessTable::new();
    let me = std::process::id();
    table.fork(me, GONE + 2, boot_ns());
    table.exec(&exec(GONE + 2, b"psql\0", b"psql"));
    let first = table.connect(1, GONE + 2).unwrap();
    table.exit(GONE + 2, boot_ns());
    table.fork(me, GONE + 2, boot_ns() + 1_000_000_000);
    table.exec(&exec(GONE + 2, b"mysql\0", b"mysql"));
    let second = table.connect(2, GONE + 2).unwrap();
    assert_eq!(&*first.process.command_line, "psql");
    assert_eq!(&*second.process.command_line, "mysql");
    assert_ne!(first.process.start_ns, second.process.start_ns);
    assert_eq!(table.of_connection(1), Some(first));
    // A record that says another start time than /proc: the living process is not the one that is meant.
    table.exit(me, boot_ns());
    table.fork(1, me, boot_ns() + 5_000_000_000);
    table.exec(&exec(me, b"imposter\0", b"imposter"));
    assert_eq!(&*table.workload(me).unwrap().process.command_line, "imposter");
}

#[test]
fn exited_processes_are_forgotten_in_the_end() {
    let mut table = ProcessTable::new();
    let before = table.len();
    let (me, now) = (std::process::id(), boot_ns());
    for i in 0..100_000 {
        table.fork(me, GONE + 10 + i, now);
        table.exec(&exec(GONE + 10 + i, b"true\0", b"true"));
        table.exit(GONE + 10 + i, now + u64::from(i));
    }
    assert!(table.len() < before + 33_000, "{}", table.len());
    table.fork(me, GONE, now);
    table.exit(GONE, now + 600_000_000_000);
    assert!(table.len() < before + 100, "{}", table.len());
    // Lost exit records: the next comparison with /proc finds out.
    for i in 0..1000 {
        table.fork(me, GONE + 10 + i, now);
    }
    table.rescan();
    table.exit(1, now + 1_200_000_000_000);
    assert!(table.len() < before + 100, "{}", table.len());
}
