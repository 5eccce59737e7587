//! A server's program -> a probe on the function that parses its statements.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use object::elf::{SHN_UNDEF, Sym64};
use object::{LittleEndian, ReadCache, pod};

use super::image::{self, Elf, Image};
use super::perf;
use super::prologue::{self, Place};

/// Puts a loaded program on an offset of a file, for as long as what is returned is open.
pub fn probe(file: &File, offset: u64, program: &OwnedFd) -> io::Result<OwnedFd> {
    perf::probe(file, offset, false, program)
}

/// Where to probe an exported function of a program, as an offset in its file. `None` where it is no program, or has no
/// such function.
pub fn find(file: &File, function: &str) -> Option<u64> {
    let cache = ReadCache::new(file);
    let elf = Elf::parse(&cache).ok()?;
    // What is exported is enough, and for a large program much less than all names.
    let (table, names) = (image::section(&elf, ".dynsym")?, image::section(&elf, ".dynstr")?);
    let (symbols, _) =
        pod::slice_from_bytes::<Sym64<LittleEndian>>(table, table.len() / size_of::<Sym64<LittleEndian>>())
            .ok()?;
    let symbol = symbols.iter().find(|symbol| {
        let name = names.get(symbol.st_name.get(LittleEndian) as usize..).unwrap_or_default();
        symbol.st_shndx.get(LittleEndian) != SHN_UNDEF && image::is_named(name, function)
    })?;
    let address = symbol.st_value.get(LittleEndian);
    let image = Image::of(&elf);
    match prologue::place(address, &|address| image.code(address)) {
        Place::At(at) => image.offset(at),
        Place::Callee(..) | Place::Entry => image.offset(address),
    }
}
