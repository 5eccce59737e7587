//! The kernel's own type information (BTF) -> byte offsets of the few fields that the probes read.
//!
//! A walk over the raw section: the crates for this build the whole type graph of a kernel in memory, some
//! hundred megabytes for four numbers. Format: the kernel's Documentation/bpf/btf.rst.

/// Type information of a running kernel.
pub struct Btf<'a> {
    strings: &'a [u8],
    /// Each type's record, by type id - 1.
    types: Vec<&'a [u8]>,
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The section of the kernel that runs here; empty where it has none.
pub fn image() -> Vec<u8> {
    std::fs::read("/sys/kernel/btf/vmlinux").unwrap_or_default()
}

/// What is asked of it, all at once: reading it takes its time. An error says why there is nothing to ask.
pub fn ask<T>(what: impl FnOnce(&Btf<'_>) -> T) -> Result<T, String> {
    let image = image();
    let btf = Btf::parse(&image).ok_or("the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)")?;
    Ok(what(&btf))
}

impl<'a> Btf<'a> {
    /// Reads the section; `None` where it is not BTF of this machine's byte order.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        if data.get(..2)? != [0x9f, 0xeb] {
            return None;
        }
        let [header, type_offset, type_length, string_offset, string_length] =
            [4, 8, 12, 16, 20].map(|at| word(data, at).unwrap_or(0) as usize);
        let mut rest = data.get(header + type_offset..)?.get(..type_length)?;
        let strings = data.get(header + string_offset..)?.get(..string_length)?;
        let mut types = Vec::new();
        while !rest.is_empty() {
            let info = word(rest, 4)?;
            let (kind, count) = (info >> 24 & 31, (info & 0xffff) as usize);
            let extra = match kind {
                1 | 14 | 17 => 4,                       // INT, VAR, DECL_TAG
                3 => 12,                                // ARRAY
                STRUCT | UNION | 15 | 19 => 12 * count, // members, DATASEC, ENUM64
                6 | 13 => 8 * count,                    // ENUM, FUNC_PROTO
                _ => 0,
            };
            types.push(rest.get(..12 + extra)?);
            rest = &rest[12 + extra..];
        }
        Some(Self { strings, types })
    }

    fn name(&self, at: u32) -> &'a [u8] {
        let from = self.strings.get(at as usize..).unwrap_or_default();
        from.split(|b| *b == 0).next().unwrap_or_default()
    }

    /// Byte offset of `field` in `struct name`, anonymous inner structs and unions included.
    pub fn offset(&self, name: &str, field: &str) -> Option<u32> {
        self.types
            .iter()
            .filter(|t| word(t, 4).is_some_and(|info| info >> 24 & 31 == STRUCT))
            .filter(|t| word(t, 0).is_some_and(|at| self.name(at) == name.as_bytes()))
            .find_map(|t| self.member(t, field.as_bytes(), 4))
    }

    /// The same, of what there has to be; an error names what is missing.
    pub fn wanted(&self, name: &str, field: &str) -> Result<u32, String> {
        self.offset(name, field).ok_or_else(|| format!("the kernel's BTF has no {name}.{field}"))
    }

    fn member(&self, record: &[u8], field: &[u8], depth: u32) -> Option<u32> {
        let bitfields = word(record, 4)? >> 31 == 1;
        record.get(12..)?.chunks_exact(12).find_map(|member| {
            let bits = word(member, 8)?;
            let at = if bitfields { bits & 0x00ff_ffff } else { bits } / 8;
            let name = self.name(word(member, 0)?);
            if name == field {
                return Some(at);
            }
            if !name.is_empty() || depth == 0 {
                return None;
            }
            let inner = self.types.get((word(member, 4)? as usize).checked_sub(1)?)?;
            let kind = word(inner, 4)? >> 24 & 31;
            if kind != STRUCT && kind != UNION {
                return None;
            }
            Some(at + self.member(inner, field, depth - 1)?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_direct_and_anonymous_members() {
        // struct s { int a; struct { int b; int c; }; }
        let strings = b"\0s\0a\0b\0c\0int\0";
        let record = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let mut types = record(&[9, 1 << 24, 4, 32]); // 1: int
        types.extend(record(&[0, 4 << 24 | 2, 8, 5, 1, 0, 7, 1, 32])); // 2: anonymous { b; c }
        types.extend(record(&[1, 4 << 24 | 2, 12, 3, 1, 0, 0, 2, 32])); // 3: s
        let mut data = vec![0x9f, 0xeb, 1, 0];
        data.extend(record(&[24, 0, types.len() as u32, types.len() as u32, strings.len() as u32]));
        data.extend(types);
        data.extend(strings);
        let btf = Btf::parse(&data).unwrap();
        assert_eq!(btf.offset("s", "a"), Some(0));
        assert_eq!(btf.offset("s", "c"), Some(8));
        assert_eq!(btf.offset("s", "d"), None);
        assert_eq!(btf.wanted("s", "c"), Ok(8));
        assert_eq!(btf.wanted("s", "d"), Err("the kernel's BTF has no s.d".to_owned()));
        assert!(Btf::parse(&data[..data.len() - strings.len() - 1]).is_none());
    }
}
