//! The gate on real connections: the one that is meant ends, the others live. Needs root.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use agent::gate::{Gate, Outcome, Target};
use agent::identify::netlink::Diag;
use agent_core::segment::Endpoint;

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address: address.ip().to_canonical(), port: address.port() }
}

fn is_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("{test}: needs root, not run");
    }
    root
}

fn gate() -> Gate {
    let directory = std::env::temp_dir().join("weir-host-gate");
    Gate::start(Path::new(env!("CARGO_BIN_EXE_weir")), &directory).unwrap()
}

/// A connection: its two ends and the client's cookie.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    cookie: u64,
}

fn pairs(listener: &TcpListener, count: usize) -> Vec<Pair> {
    let mut diag = Diag::open().unwrap();
    let pair = |_| {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        let ends = (endpoint(client.local_addr().unwrap()), endpoint(client.peer_addr().unwrap()));
        let cookie = diag.find(ends.0, ends.1).unwrap().unwrap().cookie;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        Pair { client, server, cookie }
    };
    (0..count).map(pair).collect()
}

impl Pair {
    fn target(&self) -> Target<'static> {
        Target {
            cookie: self.cookie,
            local: endpoint(self.client.local_addr().unwrap()),
            remote: endpoint(self.client.peer_addr().unwrap()),
            namespace: None,
            processes: &[],
            cancel: None,
            rule: "test",
        }
    }

    fn works(&mut self) -> bool {
        let mut byte = [0];
        self.client.write_all(b"x").is_ok() && self.server.read_exact(&mut byte).is_ok()
    }
}

#[test]
fn exactly_one_of_fifty() {
    if !is_root("exactly_one_of_fifty") {
        return;
    }
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let Ok(listener) = TcpListener::bind(address) else { continue };
        let mut gate = gate();
        let mut pairs = pairs(&listener, 50);
        assert_eq!(gate.kill(&pairs[17].target()).outcome, Outcome::Killed);
        let mut byte = [0];
        assert!(pairs[17].server.read(&mut byte).is_err(), "the server sees a reset");
        assert!(pairs[17].client.read(&mut byte).is_err(), "the client sees a reset");
        for (i, pair) in pairs.iter_mut().enumerate() {
            assert_eq!(pair.works(), i != 17, "connection {i}");
        }
        // The listener lives: the kernel would have offered it in place of a connection that is gone.
        drop(pairs);
        self::pairs(&listener, 1);
    }
}

#[test]
fn another_connection_is_never_meant() {
    if !is_root("another_connection_is_never_meant") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut gate, mut pairs) = (gate(), pairs(&listener, 2));
    let refused = |outcome: Outcome| matches!(outcome, Outcome::Refused(_));
    let target = pairs[0].target();
    let stale = Target { cookie: target.cookie + 1_000_000, ..target.clone() };
    assert!(refused(gate.kill(&stale).outcome), "the ends are right, the cookie is not");
    let swapped = Target { cookie: pairs[1].cookie, ..target.clone() };
    assert!(refused(gate.kill(&swapped).outcome), "a living cookie with another's ends");
    let zero = Target { cookie: 0, ..target.clone() };
    assert!(refused(gate.kill(&zero).outcome));
    // The server's ends of a connection that is gone: only the listener is there.
    let (local, remote) = (target.remote, Endpoint { port: 1, ..target.local });
    let gone = Target { local, remote, ..target.clone() };
    assert_eq!(gate.kill(&gone).outcome, Outcome::Gone);
    // What the agent depends on.
    let own = [(std::process::id(), 0)];
    assert!(refused(gate.kill(&Target { processes: &own, ..target.clone() }).outcome));
    gate.spare_endpoint(target.remote);
    assert!(refused(gate.kill(&target).outcome));
    assert!(pairs.iter_mut().all(Pair::works));
    assert!(TcpStream::connect(listener.local_addr().unwrap()).is_ok());
}

#[test]
fn a_dead_shim_is_replaced() {
    if !is_root("a_dead_shim_is_replaced") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut gate, pairs) = (gate(), pairs(&listener, 2));
    let first = gate.shim_pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    for line in [
        "CapEff:\t0000000000001000",
        "CapPrm:\t0000000000001000",
        "CapBnd:\t0000000000001000",
        "NoNewPrivs:\t1",
    ] {
        assert!(status.contains(line), "{line} not in {status}");
    }
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(first as i32), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    assert_eq!(gate.kill(&pairs[0].target()).outcome, Outcome::Killed);
    assert_eq!(gate.restarts(), 1);
    let second = gate.shim_pid().unwrap();
    assert_ne!(first, second);
    drop(gate);
    assert!(!Path::new(&format!("/proc/{second}")).exists(), "the shim ends with the gate");
}

/// Not a test of speed: it prints what it measures (`--nocapture`).
#[test]
fn two_hundred_kills() {
    if !is_root("two_hundred_kills") {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gate = gate();
    let (mut calls, mut resets, mut acts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..4 {
        for pair in pairs(&listener, 50) {
            let mut reader = pair.client.try_clone().unwrap();
            let waiting = std::thread::spawn(move || (reader.read(&mut [0]).is_err(), Instant::now()));
            std::thread::sleep(Duration::from_millis(1));
            let decision = Instant::now();
            let done = gate.kill(&pair.target());
            assert_eq!(done.outcome, Outcome::Killed);
            let (reset, seen) = waiting.join().unwrap();
            assert!(reset);
            calls.push(done.total_ns);
            acts.push(done.act_ns);
            resets.push(seen.duration_since(decision).as_nanos() as u64);
        }
    }
    for (name, times) in [("kernel", &mut acts), ("answer", &mut calls), ("client sees reset", &mut resets)] {
        times.sort_unstable();
        let at = |percent: usize| times[times.len() * percent / 100] / 1000;
        println!("{name}: p50 {} us, p99 {} us, max {} us", at(50), at(99), times[times.len() - 1] / 1000);
    }
}
