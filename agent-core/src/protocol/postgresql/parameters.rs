//! Bind messages -> names and parameter values.

use super::prepared::Prepared;
use super::types;
use crate::exchange::Parameter;
use crate::reader::Reader;

/// What a Bind message says.
pub(super) struct Bind<'a> {
    pub(super) portal: &'a [u8],
    pub(super) statement: &'a [u8],
    rest: Reader<'a>,
}

/// Reads the names; the values wait until their types are known.
pub(super) fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let mut rest = Reader::new(body);
    Some(Bind { portal: rest.cstring()?, statement: rest.cstring()?, rest })
}

impl Bind<'_> {
    /// The bound values, and whether all of them were there.
    pub(super) fn values(mut self, prepared: Option<&Prepared>) -> (Vec<Parameter>, bool) {
        let mut values = Vec::new();
        let whole = read(&mut self.rest, prepared, &mut values).is_some();
        (values, whole)
    }
}

/// The arguments of a function call message, behind the function's id.
pub(super) fn arguments(rest: &mut Reader<'_>) -> (Vec<Parameter>, bool) {
    let mut values = Vec::new();
    let whole = read(rest, None, &mut values).is_some();
    (values, whole)
}

fn read(rest: &mut Reader<'_>, prepared: Option<&Prepared>, values: &mut Vec<Parameter>) -> Option<()> {
    let count = usize::from(rest.u16()?);
    let mut formats = rest.child(2 * count)?;
    // No format: all text. One: it is for all. Else one for each.
    let mut format = match count {
        0 => 0,
        _ => formats.u16()?,
    };
    let total = rest.u16()?;
    for index in 0..usize::from(total) {
        if index > 0 && count > 1 {
            format = formats.u16()?;
        }
        let Ok(length) = usize::try_from(rest.i32()?) else {
            values.push(Parameter::Null);
            continue;
        };
        let bytes = rest.bytes(length)?;
        values.push(if format == 0 {
            Parameter::Text(types::text(bytes))
        } else {
            types::binary(prepared.map_or(0, |prepared| prepared.parameter(index)), bytes)
        });
    }
    Some(())
}
