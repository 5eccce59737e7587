//! Text of an argument -> its value, with errors that name what would have been right.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;

use agent_core::protocol::PROTOCOLS;
use agent_core::sensitive::Catalog;
use agent_core::sql::Redaction;

/// `N=PROTOCOL`: what a server port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortHint {
    /// The server's port.
    pub port: u16,
    /// A name of the protocol table.
    pub protocol: &'static str,
}

impl std::str::FromStr for PortHint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, name) = text.split_once('=').ok_or("write it as N=PROTOCOL, e.g. 6432=postgresql")?;
        let port = port.parse().map_err(|_| format!("`{port}` is no port number (1 to 65535)"))?;
        Ok(Self { port, protocol: protocol(name)? })
    }
}

/// A name of the protocol table.
pub fn protocol(name: &str) -> Result<&'static str, String> {
    let names = || PROTOCOLS.iter().map(|entry| entry.name);
    names().find(|known| *known == name).ok_or_else(|| {
        format!(
            "`{name}` is no protocol that weir reads; it reads: {}",
            names().collect::<Vec<_>>().join(", ")
        )
    })
}

/// A redaction setting.
pub fn redaction(name: &str) -> Result<Redaction, String> {
    match name {
        "literals" => Ok(Redaction::Literals),
        "sensitive" => Ok(Redaction::Sensitive),
        "none" => Ok(Redaction::None),
        _ => Err("it is one of: literals, sensitive, none".into()),
    }
}

/// A file with declared columns; all that is wrong with it is said at once.
pub fn catalog(file: &str) -> Result<Arc<Catalog>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read the catalogue {file}: {error}"))?;
    Catalog::read(file, &text).map(Arc::new).map_err(|problems| {
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        problems.join("; ")
    })
}

/// Addresses of a server elsewhere, of a protocol whose statements can be held.
pub fn remote(server: &str, protocol: &str) -> Result<Vec<SocketAddr>, String> {
    let held = || PROTOCOLS.iter().filter(|entry| entry.inline.is_some()).map(|entry| entry.name);
    if !held().any(|name| name == protocol) {
        return Err(format!("`{protocol}` cannot be held; {} can", held().collect::<Vec<_>>().join(", ")));
    }
    let addresses = server.to_socket_addrs().map_err(|error| format!("{error}; write e.g. 10.0.0.5:5432"))?;
    Ok(addresses.collect())
}

/// Size of the kernel's ring in KiB: the kernel takes powers of two of at least a page.
pub fn ring_kib(text: &str) -> Result<u32, String> {
    let kib: u32 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if kib.is_power_of_two() && (4..=1 << 20).contains(&kib) {
        Ok(kib)
    } else {
        Err("it is a power of two from 4 to 1048576".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_hints() {
        let hint = PortHint { port: 6432, protocol: PROTOCOLS[0].name };
        assert_eq!(format!("6432={}", PROTOCOLS[0].name).parse(), Ok(hint));
        assert!("6432".parse::<PortHint>().unwrap_err().contains("N=PROTOCOL"));
        assert!("x=y".parse::<PortHint>().unwrap_err().contains("port number"));
        assert!("1=gopher".parse::<PortHint>().unwrap_err().contains(PROTOCOLS[0].name));
    }

    #[test]
    fn rings_are_powers_of_two() {
        assert_eq!(ring_kib("64"), Ok(64));
        assert!(ring_kib("65").is_err() && ring_kib("2").is_err() && ring_kib("x").is_err());
    }
}
