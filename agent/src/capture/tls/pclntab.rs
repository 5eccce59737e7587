//! Go's table of functions (`.gopclntab`) -> where functions begin and end, by their names. It is in every Go program,
//! stripped ones too: Go's own stack traces need it.
//!
//! Layouts: Go 1.16 (also of 1.17), 1.18, 1.20 and later; see Go's `src/debug/gosym/pclntab.go`. Bytes are hostile:
//! what does not fit is not found.

/// First word of the table.
const GO_1_16: u32 = 0xffff_fffa;
const GO_1_18: u32 = 0xffff_fff0;
const GO_1_20: u32 = 0xffff_fff1;

/// A table that can be read.
#[derive(Debug)]
pub(super) struct Table<'a> {
    functions: &'a [u8],
    names: &'a [u8],
    count: u64,
    /// Functions are told by distance from here; `None` where by address.
    text: Option<u64>,
}

/// Where a function begins, and where the next one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub begin: u64,
    pub end: u64,
}

impl<'a> Table<'a> {
    /// Reads the header of a table for 64 bits.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (magic, quantum, pointer) = (word(bytes, 0)?, *bytes.get(6)?, *bytes.get(7)?);
        if !matches!(quantum, 1 | 2 | 4) || pointer != 8 {
            return None;
        }
        let field = |n: usize| long(bytes, 8 + n * 8);
        let part = |n: usize| bytes.get(usize::try_from(field(n)?).ok()?..);
        match magic {
            GO_1_16 => Some(Self { functions: part(6)?, names: part(2)?, count: field(0)?, text: None }),
            GO_1_18 | GO_1_20 => {
                Some(Self { functions: part(7)?, names: part(3)?, count: field(0)?, text: Some(field(2)?) })
            }
            _ => None,
        }
    }

    /// From where distances count; 0 where the loader, or Go itself, fills it in only when the program runs. `None`
    /// where the table holds addresses.
    pub(super) fn text(&self) -> Option<u64> {
        self.text
    }

    /// The functions of these names: addresses, or distances from where the program's text begins.
    pub(super) fn find<const N: usize>(&self, wanted: &[&str; N]) -> [Option<Extent>; N] {
        let mut found = [None; N];
        for n in 0..self.count {
            // What is behind the table's end has no name, and neither has anything behind that.
            let Some((begin, name)) = usize::try_from(n).ok().and_then(|n| self.function(n)) else { break };
            let row = wanted.iter().position(|wanted| super::image::is_named(name, wanted));
            if let Some(row) = row
                && let Some(end) = usize::try_from(n + 1).ok().and_then(|next| self.begin(next))
            {
                found[row] = (begin < end).then_some(Extent { begin, end });
            }
        }
        found
    }

    fn begin(&self, n: usize) -> Option<u64> {
        match self.text {
            None => long(self.functions, n.checked_mul(16)?),
            Some(_) => word(self.functions, n.checked_mul(8)?).map(u64::from),
        }
    }

    /// A function's beginning, and the bytes from its name on.
    fn function(&self, n: usize) -> Option<(u64, &'a [u8])> {
        let (record, name) = match self.text {
            None => (long(self.functions, n.checked_mul(16)?.checked_add(8)?)?, 8),
            Some(_) => (word(self.functions, n.checked_mul(8)?.checked_add(4)?)?.into(), 4),
        };
        let name = word(self.functions, usize::try_from(record).ok()?.checked_add(name)?)?;
        Some((self.begin(n)?, self.names.get(name as usize..).unwrap_or_default()))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["main.main", "crypto/tls.(*Conn).Read", "last"];

    /// A table as Go's linker makes it, of functions that are 32 bytes long.
    fn table(magic: u32) -> Vec<u8> {
        let old = magic == GO_1_16;
        let fields = if old { 7 } else { 8 };
        let names: Vec<u8> = NAMES.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
        let at_names = 8 + fields * 8;
        let at_functions = at_names + names.len();
        let mut bytes = magic.to_le_bytes().to_vec();
        bytes.extend([0, 0, 1, 8]);
        let mut header = vec![NAMES.len() as u64, 1];
        if !old {
            header.push(0x40_1000);
        }
        header.extend([at_names as u64, 0, 0, 0, at_functions as u64]);
        bytes.extend(header.iter().flat_map(|field| field.to_le_bytes()));
        bytes.extend(names);
        let (field, entry) = if old { (8, 16) } else { (4, 8) };
        let mut put = |value: u64| bytes.extend(&value.to_le_bytes()[..field]);
        for n in 0..NAMES.len() {
            put(if old { 0x40_1000 } else { 0 } + n as u64 * 32);
            put((NAMES.len() * entry + field + n * 16) as u64);
        }
        put(if old { 0x40_1000 } else { 0 } + NAMES.len() as u64 * 32);
        let mut name = 0;
        for wanted in NAMES {
            let begin = bytes.len();
            bytes.resize(begin + field, 0);
            bytes.extend((name as u32).to_le_bytes());
            bytes.resize(begin + 16, 0);
            name += wanted.len() + 1;
        }
        bytes
    }

    #[test]
    fn functions_by_name() {
        let wanted = ["last", "crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Rea"];
        let found = |magic| Table::parse(&table(magic)).unwrap().find(&wanted);
        let extent = |begin| Some(Extent { begin, end: begin + 32 });
        for magic in [GO_1_18, GO_1_20] {
            assert_eq!(found(magic), [extent(64), extent(32), None]);
            assert_eq!(Table::parse(&table(magic)).unwrap().text(), Some(0x40_1000));
        }
        assert_eq!(found(GO_1_16), [extent(0x40_1040), extent(0x40_1020), None]);
        assert!(Table::parse(&table(0xffff_fffb)).is_none(), "Go before 1.16");
    }

    /// Any byte may be anything, and the table may end anywhere.
    #[test]
    fn damage_is_survived() {
        for magic in [GO_1_16, GO_1_18] {
            let good = table(magic);
            for at in 0..good.len() {
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    let mut bad = good.clone();
                    bad[at] = value;
                    bad[(at * 7 + 3) % good.len()] ^= value;
                    let _ = Table::parse(&bad).map(|table| table.find(&NAMES));
                }
                let _ = Table::parse(&good[..at]).map(|table| table.find(&NAMES));
            }
        }
    }
}
