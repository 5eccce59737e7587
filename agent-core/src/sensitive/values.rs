//! Value -> the classes of what it looks like: by its form and its check digits, never by what is near it.

use super::{national, secrets};

/// Most bytes of a value that are looked at.
const LONGEST: usize = 1024;
/// Shortest value that may be of a class.
const SHORTEST: usize = 7;

/// Tells the classes of one value. A text is looked at as a whole and by its pieces.
pub fn classes(value: &str, found: &mut dyn FnMut(&'static str)) {
    if value.len() < SHORTEST {
        return;
    }
    let value = value.get(..value.floor_char_boundary(LONGEST)).unwrap_or_default().trim();
    let bytes = value.as_bytes();
    // Most values are words or small numbers.
    let digits = bytes.iter().filter(|b| b.is_ascii_digit()).count();
    if digits < 6 && value.len() < 16 && !bytes.contains(&b'@') {
        return;
    }
    if let Some(class) = whole(value) {
        found(class);
        return;
    }
    if secrets::in_text(value) {
        found("secret");
    }
    if digits >= 13 && has_card(bytes) {
        found("card");
    }
    let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'`,;:{}[]()<>=&|\\".contains(c);
    let mut pieces = value.split(ends).filter(|piece| piece.len() >= SHORTEST).take(64).peekable();
    if pieces.peek().is_some_and(|piece| piece.len() == value.len()) {
        return; // it was looked at
    }
    for piece in pieces {
        let piece = piece.trim_end_matches(['.', '!', '?']);
        if let Some(class) = whole(piece).filter(|class| *class != "card") {
            found(class);
        }
    }
}

/// The class of a value that is nothing else.
fn whole(value: &str) -> Option<&'static str> {
    if is_jwt(value) {
        Some("jwt")
    } else if is_email(value) {
        Some("email")
    } else if secrets::is_secret(value) {
        Some("secret")
    } else if is_iban(value) {
        Some("iban")
    } else if national::is_id(value) {
        Some("national_id")
    } else if is_card(value) {
        Some("card")
    } else if is_phone(value) {
        Some("phone")
    } else {
        None
    }
}

fn is_email(value: &str) -> bool {
    let Some((name, host)) = value.rsplit_once('@') else { return false };
    let local = |c: char| c.is_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let Some((_, top)) = host.rsplit_once('.') else { return false };
    let labels = || host.split('.');
    !name.is_empty()
        && name.len() <= 64
        && name.chars().all(local)
        && top.chars().count() >= 2
        && top.chars().all(|c| c.is_alphabetic() || c == '-')
        && labels().all(|l| !l.is_empty() && l.chars().all(|c| c.is_alphanumeric() || c == '-'))
}

/// `+49 30 901820`, `(212) 555-0123`, `212-555-0123`: international with a plus, or as North America writes it.
fn is_phone(value: &str) -> bool {
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    let form = |c: char| c.is_ascii_digit() || " ()-./".contains(c);
    if let Some(rest) = value.strip_prefix('+') {
        return (8..=15).contains(&digits)
            && rest.starts_with(|c: char| c.is_ascii_digit())
            && rest.chars().all(form);
    }
    let plain: String = value.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    ["(999) 999-9999", "(999)999-9999", "999-999-9999", "999.999.9999", "1-999-999-9999"]
        .contains(&plain.as_str())
        && !value.starts_with(['0', '1'])
        || plain == "1-999-999-9999"
}

/// ISO 13616: country, check digits, and mod 97 of it all.
fn is_iban(value: &str) -> bool {
    let plain: Vec<u8> = value.bytes().filter(|b| *b != b' ').map(|b| b.to_ascii_uppercase()).collect();
    if !(15..=34).contains(&plain.len()) || value.len() > 42 {
        return false;
    }
    let (head, rest) = plain.split_at(4);
    let headed =
        head.iter().take(2).all(u8::is_ascii_uppercase) && head.iter().skip(2).all(u8::is_ascii_digit);
    if !headed || !rest.iter().all(u8::is_ascii_alphanumeric) {
        return false;
    }
    let remainder = rest.iter().chain(head).fold(0u32, |sum, &b| {
        if b.is_ascii_digit() {
            (sum * 10 + u32::from(b - b'0')) % 97
        } else {
            (sum * 100 + u32::from(b - b'A') + 10) % 97
        }
    });
    remainder == 1
}

/// Header, claims and signature of a JSON web token: the header is an object.
fn is_jwt(value: &str) -> bool {
    let mut parts = value.split('.');
    let (Some(head), Some(claims), Some(sign), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let coded = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_=".contains(&b));
    head.starts_with("eyJ")
        && claims.starts_with("eyJ")
        && head.len() > 10
        && [head, claims, sign].into_iter().all(coded)
}

fn is_card(value: &str) -> bool {
    let bytes = value.as_bytes();
    let form = bytes.iter().all(|b| b.is_ascii_digit() || b" -".contains(b));
    form && bytes.first().is_some_and(u8::is_ascii_digit) && digits_of_card(bytes) == Some(bytes.len())
}

/// True where a card's number stands in a text, with its groups apart or not.
fn has_card(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&b) = bytes.get(at) {
        let begins = b.is_ascii_digit()
            && !at.checked_sub(1).and_then(|p| bytes.get(p)).is_some_and(u8::is_ascii_alphanumeric);
        if begins && digits_of_card(bytes.get(at..).unwrap_or_default()).is_some() {
            return true;
        }
        at += 1;
    }
    false
}

/// How many bytes the card's number at the start takes, if it is one: an issuer's prefix, its length, Luhn's sum.
fn digits_of_card(bytes: &[u8]) -> Option<usize> {
    let mut digits = [0u8; 20];
    let (mut count, mut end, mut apart) = (0, 0, false);
    for (i, &b) in bytes.iter().enumerate() {
        if b.is_ascii_digit() {
            *digits.get_mut(count)? = b - b'0';
            count += 1;
            end = i + 1;
            apart = false;
        } else if b" -".contains(&b) && !apart {
            apart = true;
        } else {
            break;
        }
    }
    if bytes.get(end).is_some_and(u8::is_ascii_alphanumeric) {
        return None;
    }
    let digits = digits.get(..count)?;
    let prefix = |n: usize| digits.iter().take(n).fold(0u32, |sum, &d| sum * 10 + u32::from(d));
    let issued = match count {
        16 => {
            prefix(1) == 4
                || (51..=55).contains(&prefix(2))
                || (2221..=2720).contains(&prefix(4))
                || prefix(4) == 6011
                || prefix(2) == 65
                || (3528..=3589).contains(&prefix(4))
                || prefix(2) == 62
        }
        15 => matches!(prefix(2), 34 | 37),
        14 => matches!(prefix(2), 36 | 38) || (300..=305).contains(&prefix(3)),
        13 | 19 => prefix(1) == 4,
        _ => false,
    };
    let varied = digits.iter().any(|d| Some(d) != digits.first());
    (issued && varied && luhn(digits)).then_some(end)
}

/// Luhn's sum is a multiple of ten.
pub(super) fn luhn(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(i, &d)| {
            if i % 2 == 1 {
                let d = u32::from(d) * 2;
                if d > 9 { d - 9 } else { d }
            } else {
                u32::from(d)
            }
        })
        .sum();
    sum.is_multiple_of(10)
}
