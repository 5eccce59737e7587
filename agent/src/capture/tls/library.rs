//! An ELF file -> the calls of a TLS library in it, and where to probe them.

use std::collections::HashMap;
use std::fs::File;

use object::elf::{SHN_UNDEF, Sym64};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ReadCache, pod};

use super::prologue::{self, Place};

/// One probe: which program goes to which byte of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Name of the program.
    pub program: &'static str,
    /// Offset in the file.
    pub offset: u64,
    /// Whether it runs where the function returns.
    pub returns: bool,
}

/// A file with a TLS library in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Library {
    /// `openssl` (BoringSSL and LibreSSL have the same calls) or `gnutls`.
    pub kind: &'static str,
    /// Where to probe; empty where nothing is known of its calls.
    pub points: Vec<Point>,
}

/// What is looked for: library, name, what the call does. Plain calls come before those that count.
const CALLS: [(&str, &str, Call); 11] = [
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
    ("go", "crypto/tls.(*Conn).Write", Call::Opaque),
];

/// Programs that run where a function returns.
const RETURNS: [&str; 2] = ["weir_tls_written", "weir_tls_was_read"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Write,
    /// Says how much it did through this argument.
    WriteCounting(usize),
    Read,
    ReadCounting,
    End,
    /// Known to be there, not understood.
    Opaque,
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
            Call::Opaque => &[],
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
            Call::End | Call::Opaque => self,
        }
    }
}

/// Looks into a file. `None` where it is no ELF file, or has no TLS library in it.
pub fn look(file: &File) -> Option<Library> {
    let cache = ReadCache::new(file);
    let elf = ElfFile64::<LittleEndian, _>::parse(&cache).ok()?;
    let mut found = HashMap::new();
    let mut kind = None;
    for (table, strings) in [(".dynsym", ".dynstr"), (".symtab", ".strtab")] {
        // Each in one piece: name by name, a large program would cost a second.
        let section = |name| elf.section_by_name(name).and_then(|section| section.data().ok());
        let (Some(table), Some(strings)) = (section(table), section(strings)) else { continue };
        let (symbols, _) = pod::slice_from_bytes::<Sym64<LittleEndian>>(
            table,
            table.len() / size_of::<Sym64<LittleEndian>>(),
        )
        .unwrap_or_default();
        for symbol in symbols {
            let address = symbol.st_value.get(LittleEndian);
            let name = strings.get(symbol.st_name.get(LittleEndian) as usize..).unwrap_or_default();
            let row = CALLS.iter().find(|(_, known, _)| {
                name.strip_prefix(known.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
            });
            if let Some(row) = row.filter(|_| address != 0 && symbol.st_shndx.get(LittleEndian) != SHN_UNDEF)
            {
                found.insert(row.1, (address, row.2));
                kind = Some(row.0);
            }
        }
    }
    let kind = kind?;
    // What is mapped: virtual addresses and where their bytes are in the file.
    let endian = elf.endian();
    let segments: Vec<(u64, u64, &[u8])> = elf
        .elf_program_headers()
        .iter()
        .filter(|header| header.p_type(endian) == object::elf::PT_LOAD && header.p_flags(endian) & 1 != 0)
        .filter_map(|header| {
            let bytes = header.data(endian, elf.data()).ok()?;
            Some((header.p_vaddr(endian), header.p_offset(endian), bytes))
        })
        .collect();
    let code = |address: u64| {
        segments
            .iter()
            .find_map(|(start, _, bytes)| bytes.get(usize::try_from(address.checked_sub(*start)?).ok()?..))
    };
    let offset = |address: u64| {
        segments.iter().find_map(|(start, offset, bytes)| {
            let within = address.checked_sub(*start)?;
            (within < bytes.len() as u64).then_some(offset + within)
        })
    };
    let points = points(&found, &code)
        .into_iter()
        .filter_map(|(program, address)| {
            Some(Point { program, offset: offset(address)?, returns: RETURNS.contains(&program) })
        })
        .collect();
    Some(Library { kind, points })
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
