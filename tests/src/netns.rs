//! A network namespace of our own, joined to the host by a veth pair with IPv4 and IPv6 addresses. Gone when dropped.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use xtask::{scratch, shell};

/// One namespace: "another host" on this machine.
pub struct NetNs {
    name: String,
    link: String,
    peer: String,
    /// The host's IPv4 address on the link.
    pub host4: String,
    /// The host's IPv6 address on the link.
    pub host6: String,
}

impl NetNs {
    /// Makes a namespace and the link to it.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let run = scratch::run();
        // Addresses that parallel runs on one machine do not share: this process's id picks the subnet.
        let subnet = (std::process::id() + number) % 16_384;
        let (high, low) = (subnet >> 6, (subnet & 63) * 4);
        let ns = Self {
            name: format!("weir-{run}-{}-{number}", std::process::id()),
            link: format!("w{run}h{number}"),
            peer: format!("w{run}p{number}"),
            host4: format!("10.213.{high}.{}", low + 1),
            host6: format!("fd77:6972:{subnet:x}::1"),
        };
        let (name, link, peer) = (&ns.name, &ns.link, &ns.peer);
        let (guest4, guest6) =
            (format!("10.213.{high}.{}/30", low + 2), format!("fd77:6972:{subnet:x}::2/64"));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", link, "type", "veth", "peer", "name", peer, "netns", name])?;
        ip(&["address", "add", &format!("{}/30", ns.host4), "dev", link])?;
        ip(&["address", "add", &format!("{}/64", ns.host6), "dev", link, "nodad"])?;
        ip(&["link", "set", link, "up"])?;
        ip(&["-n", name, "address", "add", &guest4, "dev", peer])?;
        ip(&["-n", name, "address", "add", &guest6, "dev", peer, "nodad"])?;
        ip(&["-n", name, "link", "set", peer, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// The host's link-local address, as one writes it inside the namespace.
    pub fn host_on_link(&self) -> Result<String> {
        // It is tentative for a second or two, until nobody has claimed it.
        for _ in 0..100 {
            let ip = shell::find("ip").unwrap_or_else(|| "ip".into());
            let mut show = Command::new(ip);
            show.args(["-6", "-o", "address", "show", "dev", &self.link, "scope", "link"]);
            let said = shell::output(&mut show)?;
            let address = said.split_whitespace().find(|word| word.starts_with("fe80"));
            if let Some((address, _)) = address.and_then(|a| a.split_once('/'))
                && !said.contains("tentative")
            {
                return Ok(format!("{address}%{}", self.peer));
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        bail!("no link-local address on {}", self.link)
    }

    /// What sockets inside send with the priority 1:20 is slow: what they send afterwards with another one overtakes it.
    pub fn two_speeds(&self) -> Result<()> {
        let tc = |arguments: &[&str]| {
            let mut tc = Command::new(shell::find("tc").unwrap_or_else(|| "tc".into()));
            tc.args(["-n", &self.name]).args(&arguments[..2]).args(["dev", &self.peer]).args(&arguments[2..]);
            shell::output(&mut tc).map(|_| ())
        };
        tc(&["qdisc", "add", "root", "handle", "1:", "htb", "default", "10"])?;
        tc(&["class", "add", "parent", "1:", "classid", "1:10", "htb", "rate", "1gbit", "quantum", "60000"])?;
        tc(&["class", "add", "parent", "1:", "classid", "1:20", "htb", "rate", "80kbit", "burst", "100"])
    }

    /// Does something in a thread that is inside of the namespace, as is what it starts.
    pub fn enter<T: Send>(&self, what: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let namespace = std::fs::File::open(format!("/run/netns/{}", self.name))?;
        let kind = rustix::thread::LinkNameSpaceType::Network;
        let inside = move || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))?;
            what()
        };
        std::thread::scope(|scope| {
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// The same command, run inside the namespace.
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new(shell::find("ip").unwrap_or_else(|| "ip".into()));
        inside.args([OsStr::new("netns"), OsStr::new("exec"), OsStr::new(&self.name), command.get_program()]);
        inside.args(command.get_args());
        for (key, value) in command.get_envs() {
            inside.env(key, value.unwrap_or_default());
        }
        inside
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        let _ = ip(&["link", "delete", &self.link]);
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    shell::output(Command::new(shell::find("ip").unwrap_or_else(|| "ip".into())).args(arguments)).map(|_| ())
}
