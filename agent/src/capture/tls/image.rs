//! An ELF file -> its symbols, and its code by address.

use std::fs::File;

use object::elf::{PT_LOAD, SHN_UNDEF, Sym64};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ReadCache, pod};

/// A parsed file, read piece by piece.
pub(super) type Elf<'a> = ElfFile64<'a, LittleEndian, &'a ReadCache<&'a File>>;

/// What is mapped to be executed.
pub(super) struct Image<'a> {
    /// Virtual address, offset in the file, bytes.
    segments: Vec<(u64, u64, &'a [u8])>,
}

/// A symbol that is defined in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub address: u64,
    pub size: u64,
}

impl<'a> Image<'a> {
    pub(super) fn of(elf: &Elf<'a>) -> Self {
        let endian = elf.endian();
        let segments = elf
            .elf_program_headers()
            .iter()
            .filter(|header| header.p_type(endian) == PT_LOAD && header.p_flags(endian) & 1 != 0)
            .filter_map(|header| {
                let bytes = header.data(endian, elf.data()).ok()?;
                Some((header.p_vaddr(endian), header.p_offset(endian), bytes))
            })
            .collect();
        Self { segments }
    }

    /// One segment, for tests.
    #[cfg(test)]
    pub(super) fn of_code(address: u64, offset: u64, bytes: &'a [u8]) -> Self {
        Self { segments: vec![(address, offset, bytes)] }
    }

    /// The bytes from an address on, to the end of what is mapped there.
    pub(super) fn code(&self, address: u64) -> Option<&'a [u8]> {
        self.segments
            .iter()
            .find_map(|(start, _, bytes)| bytes.get(usize::try_from(address.checked_sub(*start)?).ok()?..))
    }

    /// Where the byte at an address is in the file.
    pub(super) fn offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|(start, offset, bytes)| {
            let within = address.checked_sub(*start)?;
            (within < bytes.len() as u64).then(|| offset.checked_add(within)).flatten()
        })
    }
}

/// Hands out all defined symbols with the bytes from their names on: compare with a NUL behind.
pub(super) fn symbols(elf: &Elf<'_>, take: &mut impl FnMut(&[u8], Symbol)) {
    for (table, strings) in [(".dynsym", ".dynstr"), (".symtab", ".strtab")] {
        // Each in one piece: name by name, a large program would cost a second.
        let (Some(table), Some(strings)) = (section(elf, table), section(elf, strings)) else { continue };
        let count = table.len() / size_of::<Sym64<LittleEndian>>();
        let (symbols, _) = pod::slice_from_bytes::<Sym64<LittleEndian>>(table, count).unwrap_or_default();
        for symbol in symbols {
            let (address, size) = (symbol.st_value.get(LittleEndian), symbol.st_size.get(LittleEndian));
            if address != 0 && symbol.st_shndx.get(LittleEndian) != SHN_UNDEF {
                let name = strings.get(symbol.st_name.get(LittleEndian) as usize..).unwrap_or_default();
                take(name, Symbol { address, size });
            }
        }
    }
}

/// Whether a name, with what is behind it, is this one.
pub(super) fn is_named(name: &[u8], wanted: &str) -> bool {
    name.strip_prefix(wanted.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

/// The bytes of a section.
pub(super) fn section<'a>(elf: &Elf<'a>, name: &str) -> Option<&'a [u8]> {
    elf.section_by_name(name).and_then(|section| section.data().ok())
}
