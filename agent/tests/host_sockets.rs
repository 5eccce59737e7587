//! Connections that nobody saw beginning -> the right process, in every network namespace. Needs root.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent::gate::{Gate, Outcome, Target};
use agent::identify::sockets::Sockets;
use agent::identify::{Resolver, Tapped};
use agent_core::identity::Wire;
use agent_core::segment::Endpoint;

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address: address.ip().to_canonical(), port: address.port() }
}

/// A child that is killed at the end of the test, with what it started.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

/// A bash that connects to `listener` and goes on as `script` says; and our end of the connection.
fn bash(listener: &TcpListener, script: &str) -> (Killed, TcpStream, Tapped) {
    let port = listener.local_addr().unwrap().port();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; {script}");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).stdin(Stdio::null()).process_group(0);
    let child = Killed(command.spawn().unwrap());
    let (server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (local, remote) = (endpoint(server.peer_addr().unwrap()), endpoint(server.local_addr().unwrap()));
    let cookie = Sockets::snapshot().of_ends(local, remote).unwrap().entry.cookie;
    (child, server, Tapped { cookie, local, remote })
}

fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test}: needs root, not run");
    }
    root
}

#[test]
fn an_adopted_connection_has_its_process() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (child, mut server, tapped) = bash(&listener, "echo ready >&3; read -r line <&3");
    server.read_exact(&mut [0; 6]).unwrap();
    let mut resolver = Resolver::new();
    assert_eq!(resolver.resolve_now(tapped.cookie), None);
    let client = resolver.resolve_slow(&tapped).unwrap();
    assert_eq!(client.process.pid, child.0.id());
    assert!(client.process.command_line.starts_with("bash -c exec 3<>/dev/tcp/127.0.0.1/"));
    assert!(!client.shared && client.observed);
    assert_eq!(resolver.resolve_now(tapped.cookie).as_ref(), Some(&client));
    // From our end of it the peer is the same process; its own peer is us.
    let (local, remote) = (tapped.remote, tapped.local);
    let mine = Sockets::snapshot().of_ends(local, remote).unwrap().entry.cookie;
    let other = Tapped { cookie: mine, local, remote };
    assert_eq!(resolver.resolve_peer(&other).as_ref(), Some(&client));
    assert_eq!(resolver.resolve_peer(&tapped).unwrap().process.pid, std::process::id());
    let identity = Resolver::identity(Some(&client), Wire { db_user: "shop", ..Wire::default() });
    assert!(
        identity.claims.iter().any(|c| &*c.key == "process_pid" && *c.value == *child.0.id().to_string())
    );
}

#[test]
fn an_inherited_descriptor_belongs_to_the_youngest_and_is_a_guess() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (child, mut server, tapped) = bash(&listener, "sleep 60 & echo ready >&3; wait");
    server.read_exact(&mut [0; 6]).unwrap();
    // `sleep` runs once its command line says so; until then it is a bash.
    let mut resolver = Resolver::new();
    let client = loop {
        let client = resolver.resolve_slow(&tapped).unwrap();
        if client.process.command_line.starts_with("sleep") {
            break client;
        }
        resolver = Resolver::new();
    };
    assert_ne!(client.process.pid, child.0.id());
    assert!(client.shared);
    assert!(client.process.ancestry[0].ends_with(&format!("({})", child.0.id())));
}

#[test]
fn a_forked_server_is_the_child_for_sure() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (child, mut server, tapped) = bash(&listener, "(echo ready >&3; read -r line <&3) & wait");
    server.read_exact(&mut [0; 6]).unwrap();
    let client = Resolver::new().resolve_slow(&tapped).unwrap();
    assert_ne!(client.process.pid, child.0.id());
    assert!(client.process.ancestry[0].ends_with(&format!("({})", child.0.id())));
    assert!(!client.shared, "the same program, parent and child");
}

/// What `enter` makes in a network namespace of its own, and a process that keeps the namespace visible.
fn in_namespace<T: Send>(enter: impl FnOnce() -> T + Send) -> (T, Killed) {
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
            let sleep = Killed(Command::new("sleep").arg("60").process_group(0).spawn().unwrap());
            (enter(), sleep)
        });
        made.join().unwrap()
    })
}

#[test]
fn another_network_namespace() {
    if !is_root("another_network_namespace") {
        return;
    }
    let connect = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        (listener, client, server)
    };
    let ((listener, mut client, _server), sleep) = in_namespace(connect);
    let (local, remote) = (endpoint(client.local_addr().unwrap()), endpoint(listener.local_addr().unwrap()));
    let mut sockets = Sockets::snapshot();
    let owner = sockets.of_ends(local, remote).unwrap();
    assert_eq!(owner.pids, [std::process::id()]);
    let namespace = std::fs::metadata(format!("/proc/{}/ns/net", sleep.0.id())).unwrap();
    assert_eq!(owner.namespace, std::os::unix::fs::MetadataExt::ino(&namespace));
    // The gate finds it without being told where it is, and by a process that lives there.
    let directory = std::env::temp_dir().join("weir-host-sockets");
    let mut gate = Gate::start(Path::new(env!("CARGO_BIN_EXE_weir")), &directory).unwrap();
    let target = Target {
        cookie: owner.entry.cookie,
        local,
        remote,
        namespace: None,
        processes: &[],
        cancel: None,
        rule: "test",
    };
    let there = [(sleep.0.id(), 0)];
    let wrong = Target { cookie: target.cookie + 1_000_000, processes: &there, ..target.clone() };
    assert!(matches!(gate.kill(&wrong).outcome, Outcome::Refused(_)));
    assert_eq!(gate.kill(&target).outcome, Outcome::Killed);
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert!(client.read(&mut [0]).is_err());
    assert_eq!(gate.kill(&target).outcome, Outcome::Gone);
}
