//! An ELF file -> the calls of a TLS library in it, and where to probe them.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;

use object::ReadCache;

use super::go;
use super::image::{self, Elf, Image};
use super::prologue::{self, Place};

/// One probe: which program goes to which byte of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Name of the program.
    pub program: &'static str,
    /// Offset in the file.
    pub offset: u64,
}

/// A file with a TLS library in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// `openssl` (BoringSSL and LibreSSL have the same calls), `gnutls`, `go` or `rustls`.
    pub kind: &'static str,
    /// Where to probe; empty where nothing is known of its calls.
    pub points: Vec<Point>,
    /// Why there is nowhere, as events name it; empty where that is not known.
    pub blind: &'static str,
}

/// What is looked for: library, name, what the call does. Plain calls come before those that count.
const CALLS: [(&str, &str, Call); 10] = [
    ("openssl", "SSL_write", Call::Write),
    ("openssl", "SSL_write_ex", Call::WriteCounting(3)),
    ("openssl", "SSL_write_ex2", Call::WriteCounting(4)),
    ("openssl", "SSL_read", Call::Read),
    ("openssl", "SSL_read_ex", Call::ReadCounting),
    ("openssl", "SSL_free", Call::End),
    ("openssl", "SSL_clear", Call::End),
    ("gnutls", "gnutls_record_send", Call::Write),
    ("gnutls", "gnutls_record_recv", Call::Read),
    ("gnutls", "gnutls_deinit", Call::End),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Write,
    /// Says how much it did through this argument.
    WriteCounting(usize),
    Read,
    ReadCounting,
    End,
}

impl Call {
    fn programs(self) -> &'static [&'static str] {
        match self {
            Call::Write => &["weir_tls_write", "weir_tls_written"],
            Call::WriteCounting(4) => &["weir_tls_write_ex2", "weir_tls_written"],
            Call::WriteCounting(_) => &["weir_tls_write_ex", "weir_tls_written"],
            Call::Read => &["weir_tls_read", "weir_tls_was_read"],
            Call::ReadCounting => &["weir_tls_read_ex", "weir_tls_was_read"],
            Call::End => &["weir_tls_end"],
        }
    }

    /// Whether it returns how much it did.
    fn is_plain(self) -> bool {
        matches!(self, Call::Write | Call::Read)
    }

    /// The same work in the function that a wrapper leaves it to.
    fn counting(self, argument: usize) -> Self {
        match self {
            Call::Write | Call::WriteCounting(_) => Call::WriteCounting(argument),
            Call::Read | Call::ReadCounting => Call::ReadCounting,
            Call::End => self,
        }
    }
}

/// Looks into a file. `None` where it is no ELF file, or has no TLS library in it.
pub fn look(file: &File) -> Option<Library> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).ok()?;
    let mut found = HashMap::new();
    let (mut kind, mut rustls) = (None, false);
    image::symbols(&elf, &mut |name, symbol| {
        if let Some(row) = CALLS.iter().find(|(_, known, _)| image::is_named(name, known)) {
            found.insert(row.1, (symbol.address, row.2));
            kind = Some(row.0);
        }
        rustls = rustls || is_of_rustls(name);
    });
    let Some(kind) = kind else {
        let blind = || Library { kind: "rustls", points: Vec::new(), blind: "tls_rustls" };
        return go::look(&elf).or_else(|| rustls.then(blind));
    };
    let image = Image::of(&elf);
    let points = points(&found, &|address| image.code(address))
        .into_iter()
        .filter_map(|(program, address)| Some(Point { program, offset: image.offset(address)? }))
        // A Go program may hold C's libraries too.
        .chain(go::look(&elf).into_iter().flat_map(|go| go.points))
        .collect();
    Some(Library { kind, points, blind: "" })
}

/// Whether a symbol is one of rustls, by either of Rust's ways to make names. Its plaintext is not read: what stands for
/// a session is moved from address to address, and nothing tells of its end, so that another session may be where one
/// was; and neither how arguments are passed nor how they lie in memory is promised.
fn is_of_rustls(name: &[u8]) -> bool {
    const LONGEST: usize = 512;
    if name.starts_with(b"_ZN6rustls") {
        return true;
    }
    if !name.starts_with(b"_R") {
        return false;
    }
    let name = CStr::from_bytes_until_nul(name.get(..LONGEST).unwrap_or(name)).unwrap_or_default();
    name.to_str().is_ok_and(|name| name.contains("_6rustls"))
}

/// The programs of each call that was found, by the address to probe. One inner function does the work of two calls
/// in most builds: probed there, both are covered.
fn points<'a>(
    found: &HashMap<&'static str, (u64, Call)>,
    code: &impl Fn(u64) -> Option<&'a [u8]>,
) -> Vec<(&'static str, u64)> {
    let mut points = Vec::new();
    let mut taken = Vec::new();
    for (_, name, _) in CALLS {
        let Some(&(address, call)) = found.get(name) else { continue };
        if taken.contains(&address) || taken.iter().any(|&inner| prologue::calls(address, inner, code)) {
            continue;
        }
        let (inner, at, call) = match prologue::place(address, code) {
            Place::At(at) => (address, at, call),
            Place::Callee(callee, at, argument) if call.is_plain() => (callee, at, call.counting(argument)),
            Place::Callee(..) | Place::Entry => (address, address, call),
        };
        taken.push(inner);
        points.extend(call.programs().iter().map(|program| (*program, at)));
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_of_rustls() {
        for name in [
            &b"_ZN6rustls4conn10connection6Writer3new17h0E\0x"[..],
            b"_RNvMNtCs1a_6rustls4connNtB2_6Writer\0",
        ] {
            assert!(is_of_rustls(name));
        }
        for name in
            [&b"_ZN4main4main17h0E\0_ZN6rustls"[..], b"_RNvCs1a_4main4main\0_6rustls", b"SSL_write\0", b""]
        {
            assert!(!is_of_rustls(name));
        }
    }

    #[test]
    fn one_inner_function_covers_two_calls() {
        // At 0: a wrapper that counts into its frame; at 0x20: one that passes its fourth argument on; at 0x40: the work.
        let mut code = [0xcc; 0x60];
        code[..0x10].copy_from_slice(b"\x48\x83\xec\x18\x48\x89\xe1\x48\x63\xd2\xe8\x31\x00\x00\x00\xc3");
        code[0x20..0x2a].copy_from_slice(b"\x48\x83\xec\x08\xe8\x17\x00\x00\x00\xc3");
        code[0x40..0x42].copy_from_slice(b"\x41\x55");
        let bytes = |address: u64| code.get(usize::try_from(address).ok()?..);
        let mut found = HashMap::from([
            ("SSL_write", (0, Call::Write)),
            ("SSL_write_ex", (0x20, Call::WriteCounting(3))),
        ]);
        assert_eq!(points(&found, &bytes), [("weir_tls_write_ex", 0x40), ("weir_tls_written", 0x40)]);
        // Without it each is probed for itself.
        code[0x40..0x42].copy_from_slice(b"\x90\x90");
        let bytes = |address: u64| code.get(usize::try_from(address).ok()?..);
        let both = points(&found, &bytes);
        assert_eq!(both[0], ("weir_tls_write", 0));
        assert_eq!(both[2], ("weir_tls_write_ex", 0x20));
        found.clear();
        assert!(points(&found, &bytes).is_empty());
    }
}
