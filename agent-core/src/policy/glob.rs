//! Pattern + name -> does it match. `*` is any run of characters, `?` is one.

use std::sync::Arc;

/// A pattern as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(Arc<str>);

impl Glob {
    /// Takes a pattern as written.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.into())
    }

    /// The pattern.
    pub fn pattern(&self) -> &str {
        &self.0
    }

    /// The name that it is, where it has no wildcard.
    pub fn exact(&self) -> Option<&str> {
        (!self.0.contains(['*', '?'])).then_some(&self.0)
    }

    /// True where the whole name fits. Time is the product of both lengths at worst.
    pub fn matches(&self, name: &str) -> bool {
        fits(self.0.as_bytes(), name.as_bytes())
    }

    /// [`Glob::matches`] for `schema.name`, without putting the two together.
    pub fn matches_in(&self, schema: &str, name: &str) -> bool {
        match self.0.rsplit_once('.') {
            Some((pattern, last)) => {
                fits(pattern.as_bytes(), schema.as_bytes()) && fits(last.as_bytes(), name.as_bytes())
            }
            None => fits(self.0.as_bytes(), name.as_bytes()),
        }
    }
}

/// Greedy with one way back: the last `*` seen.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut back = None;
    while let Some(&byte) = name.get(n) {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p + 1, n));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                n += 1;
                // One character, not one byte.
                while name.get(n).is_some_and(|b| b & 0xc0 == 0x80) {
                    n += 1;
                }
            }
            Some(&wanted) if wanted == byte => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((star, from)) = back else { return false };
                back = Some((star, from + 1));
                (p, n) = (star, from + 1);
            }
        }
    }
    pattern.get(p..).is_none_or(|rest| rest.iter().all(|&b| b == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("public.*", "public.orders", true),
            ("public.*", "private.orders", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a?c", "abc", true),
            ("a?c", "aéc", true),
            ("a?c", "ac", false),
            ("*@example.com", "joe@example.com", true),
            ("*@example.com", "joe@example.com.evil", false),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXcXb", false),
            ("**x", "x", true),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), fits, "{pattern} {name}");
        }
    }
}
