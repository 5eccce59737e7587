//! A Go program -> where its `crypto/tls` takes and gives plaintext, and where a session of it begins.
//!
//! Found by symbol, or by Go's own table of functions where there are no symbols. A place counts only if the code
//! there is what Go makes of such a function: its stack check shows that the running goroutine is in R14 and the
//! arguments in registers (Go 1.17 on x86-64).

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::elf::EM_X86_64;
use object::{LittleEndian, Object as _, ObjectSection as _};

use super::image::{self, Elf, Image};
use super::library::{Library, Point};
use super::pclntab::{Extent, Table};

/// What is looked for. Plaintext is taken behind the handshake, where it becomes records.
const FUNCTIONS: [&str; 5] = [
    "crypto/tls.(*Conn).writeRecordLocked",
    "crypto/tls.(*Conn).Read",
    "crypto/tls.(*Conn).clientHandshake",
    "crypto/tls.(*Conn).serverHandshake",
    "crypto/tls.(*Conn).Close",
];
/// Those without which there is nothing to see; the others are absent where they are not used.
const NEEDED: usize = 2;
/// Programs that run where each begins.
const BEGINS: [&str; 5] = ["weir_go_write", "weir_go_read", "weir_go_end", "weir_go_end", "weir_go_end"];
/// And where the needed ones return.
const RETURNS: [&str; NEEDED] = ["weir_go_written", "weir_go_was_read"];

/// Longest function that is believed to be one.
const LONGEST: u64 = 1 << 16;
/// How far behind the beginning of a program's code that of Go's may be: C's startup lies before it.
const STARTUP: u64 = 1 << 16;
/// Go aligns functions to this.
const ALIGNMENT: usize = 16;

type Extents = [Option<Extent>; FUNCTIONS.len()];

/// Why a program's plaintext cannot be read, as events name it.
const OLD: &str = "tls_go_old";
const ARCHITECTURE: &str = "tls_go_architecture";

/// Looks into a program. `None` where it is not made by Go, or without `crypto/tls`.
pub(super) fn look(elf: &Elf<'_>) -> Option<Library> {
    // What every program of Go 1.13 and later says of itself.
    elf.section_by_name(".go.buildinfo")?;
    let mut found: Extents = [None; FUNCTIONS.len()];
    image::symbols(elf, &mut |name, symbol| {
        if let Some(row) = FUNCTIONS.iter().position(|wanted| image::is_named(name, wanted)) {
            let end = symbol.address.saturating_add(symbol.size);
            found[row] = Some(Extent { begin: symbol.address, end });
        }
    });
    let mut text = None;
    if found.iter().all(Option::is_none) {
        let table = table(elf)?;
        (found, text) = (table.find(&FUNCTIONS), table.text());
        if found.iter().all(Option::is_none) {
            return None;
        }
    }
    let image = Image::of(elf);
    if let Some(text) = text {
        let start = elf.section_by_name(".text").map_or(0, |section| section.address());
        found = placed(&found, text, start, &image).unwrap_or_default();
    }
    let blind = |blind| Some(Library { kind: "go", points: Vec::new(), blind });
    if elf.elf_header().e_machine.get(LittleEndian) != EM_X86_64 {
        return blind(ARCHITECTURE);
    }
    match points(&found, &image) {
        Some(points) => Some(Library { kind: "go", points, blind: "" }),
        None if found.iter().flatten().any(|extent| is_old(&image, extent.begin)) => blind(OLD),
        None => blind(""),
    }
}

/// Go's table of functions: a section, or a part of one where C's linker has put it together with others that the
/// loader fills in.
fn table<'a>(elf: &Elf<'a>) -> Option<Table<'a>> {
    if let Some(bytes) =
        [".gopclntab", ".data.rel.ro.gopclntab"].iter().find_map(|name| image::section(elf, name))
    {
        return Table::parse(bytes);
    }
    let others = image::section(elf, ".data.rel.ro")?;
    let mut places = (0..others.len()).step_by(ALIGNMENT).filter_map(|at| Table::parse(others.get(at..)?));
    places.find(|table| table.find(&FUNCTIONS).iter().any(Option::is_some))
}

/// Addresses from distances: from where the table says, or where the code begins, or, where C's startup comes first,
/// from the one place behind that at which all these functions are functions.
fn placed(found: &Extents, text: u64, start: u64, image: &Image<'_>) -> Option<Extents> {
    let behind = (start..start.saturating_add(STARTUP)).step_by(ALIGNMENT);
    let from = |base: u64| {
        found.map(|extent| {
            let Extent { begin, end } = extent?;
            Some(Extent { begin: base.checked_add(begin)?, end: base.checked_add(end)? })
        })
    };
    let fits = |extents: &Extents| {
        extents.iter().zip(found).all(|(placed, found)| {
            found.is_none() || placed.is_some_and(|extent| check(image, extent.begin).is_some())
        })
    };
    std::iter::once(text).filter(|text| *text != 0).chain(behind).map(from).find(fits)
}

/// The points of a file, in the order in which what they see happens; `None` unless each is what it must be.
fn points(found: &Extents, image: &Image<'_>) -> Option<Vec<Point>> {
    let mut points = Vec::new();
    let mut begins = 0;
    for (row, extent) in found.iter().enumerate() {
        let Some(extent) = extent else {
            if row < NEEDED {
                return None;
            }
            continue;
        };
        let program = BEGINS[row];
        points.push(Point { program, offset: image.offset(check(image, extent.begin)?)? });
        if let Some(program) = RETURNS.get(row) {
            for address in returns(image, *extent)? {
                points.push(Point { program, offset: image.offset(address)? });
            }
        }
        begins += usize::from(FUNCTIONS[row].ends_with("Handshake"));
    }
    // Without a beginning two sessions at one address could not be told apart.
    (begins > 0).then_some(points)
}

fn decoder<'a>(image: &Image<'a>, address: u64) -> Option<Decoder<'a>> {
    Some(Decoder::with_ip(64, image.code(address)?, address, DecoderOptions::NONE))
}

/// The branch of the stack check with which a function begins: the arguments are in their registers, and the kernel
/// emulates it.
fn check(image: &Image<'_>, address: u64) -> Option<u64> {
    let mut decoder = decoder(image, address)?;
    let mut first = decoder.decode();
    // A larger frame: what is compared is the stack's end to be.
    let mut compared = Register::RSP;
    if first.mnemonic() == Mnemonic::Lea
        && first.op0_register() == Register::R12
        && first.memory_base() == Register::RSP
    {
        compared = Register::R12;
        first = decoder.decode();
    }
    let is_check = first.mnemonic() == Mnemonic::Cmp
        && first.op0_kind() == OpKind::Register
        && first.op0_register() == compared
        && first.op1_kind() == OpKind::Memory
        && first.memory_base() == Register::R14
        && first.memory_index() == Register::None
        && first.memory_displacement64() == 0x10;
    let branch = decoder.decode();
    (is_check && branch.mnemonic() == Mnemonic::Jbe).then(|| branch.ip())
}

/// Whether a function takes its goroutine from the thread's storage: then its arguments are on the stack.
fn is_old(image: &Image<'_>, address: u64) -> bool {
    decoder(image, address).is_some_and(|mut decoder| {
        let first = decoder.decode();
        first.mnemonic() == Mnemonic::Mov && first.segment_prefix() == Register::FS
    })
}

/// Where a function returns; `None` where not all of it is code that is understood.
fn returns(image: &Image<'_>, extent: Extent) -> Option<Vec<u64>> {
    let length = extent.end.checked_sub(extent.begin).filter(|length| (1..=LONGEST).contains(length))?;
    let code = image.code(extent.begin)?.get(..usize::try_from(length).ok()?)?;
    let mut decoder = Decoder::with_ip(64, code, extent.begin, DecoderOptions::NONE);
    let mut returns = Vec::new();
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            return None;
        }
        if instruction.flow_control() == FlowControl::Return {
            returns.push(instruction.ip());
        }
    }
    (!returns.is_empty()).then_some(returns)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cmp rsp,[r14+0x10]; jbe; push rbp; ret; int3 ...`, and the same of a larger frame.
    const SMALL: &[u8] = b"\x49\x3b\x66\x10\x76\x03\x55\xc3\xcc\xcc\xcc\xcc\xcc\xcc\xcc\xcc";
    const LARGE: &[u8] = b"\x4c\x8d\x64\x24\xf0\x4d\x3b\x66\x10\x76\x02\xc3\xc3\xcc\xcc\xcc";
    /// Go 1.16: `mov rcx,fs:[-8]; cmp rsp,[rcx+0x10]; jbe`.
    const BEFORE: &[u8] = b"\x64\x48\x8b\x0c\x25\xf8\xff\xff\xff\x48\x3b\x61\x10\x76\x01\xc3";

    #[expect(clippy::unnecessary_wraps, reason = "as functions are found")]
    fn extent(begin: u64) -> Option<Extent> {
        Some(Extent { begin, end: begin + 16 })
    }

    #[test]
    fn where_functions_begin_and_return() {
        let code = [SMALL, LARGE, SMALL].concat();
        let image = Image::of_code(0x1000, 0x400, &code);
        let found = [extent(0x1000), extent(0x1010), extent(0x1020), None, None];
        let points = points(&found, &image).unwrap();
        let points: Vec<_> = points.iter().map(|point| (point.program, point.offset)).collect();
        let expected = [
            ("weir_go_write", 0x404),
            ("weir_go_written", 0x407),
            ("weir_go_read", 0x419),
            ("weir_go_was_read", 0x41b),
            ("weir_go_was_read", 0x41c),
            ("weir_go_end", 0x424),
        ];
        assert_eq!(points, expected);
    }

    #[test]
    fn what_is_not_understood_is_not_probed() {
        let code =
            [SMALL, BEFORE, b"\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06\x06"].concat();
        let image = Image::of_code(0x1000, 0, &code);
        let all = |second, third| [extent(0x1000), second, third, None, None];
        assert!(points(&all(extent(0x1000), extent(0x1000)), &image).is_some());
        assert_eq!(points(&all(extent(0x1000), None), &image), None, "no beginning");
        assert_eq!(points(&all(None, extent(0x1000)), &image), None, "no reads");
        assert_eq!(points(&all(extent(0x1010), extent(0x1000)), &image), None, "another ABI");
        assert!(is_old(&image, 0x1010) && !is_old(&image, 0x1000));
        let (begin, end) = (0x1000, 0x1030);
        assert_eq!(returns(&image, Extent { begin, end }), None, "not code");
        assert_eq!(returns(&image, Extent { begin, end: 0x2000 }), None, "longer than the file");
        assert_eq!(returns(&image, Extent { begin, end: begin }), None);
    }

    #[test]
    fn distances_become_addresses() {
        let code = [&[0x90; 32], SMALL, LARGE].concat();
        let image = Image::of_code(0x1000, 0, &code);
        let found = [extent(0), extent(16), None, None, None];
        let expected = Some([extent(0x1020), extent(0x1030), None, None, None]);
        for text in [0x1020, 0, 0x5000] {
            assert_eq!(placed(&found, text, 0x1000, &image), expected, "text at {text:#x}");
        }
        assert_eq!(placed(&[extent(8), extent(16), None, None, None], 0, 0x1000, &image), None);
    }
}
