//! Value -> is it a personal number that a state gives, by its form and check digits.

use super::values::luhn;

/// True for one of the forms below. Bare runs of digits count only where check digits rule out nearly all others.
pub(super) fn is_id(value: &str) -> bool {
    let length = value.len();
    if !(9..=21).contains(&length) || !value.is_ascii() || !value.bytes().any(|b| b.is_ascii_digit()) {
        return false;
    }
    ssn(value)
        || nino(value)
        || steuer(value)
        || nir(value)
        || dni(value)
        || codice(value)
        || pesel(value)
        || cpf(value)
        || aadhaar(value)
        || sin(value)
}

/// The digits, where the value has this form: `9` for a digit, anything else for itself.
fn form(value: &str, form: &str) -> Option<Vec<u8>> {
    let same = value.len() == form.len()
        && value.bytes().zip(form.bytes()).all(|(v, f)| if f == b'9' { v.is_ascii_digit() } else { v == f });
    same.then(|| digits(value))
}

fn digits(value: &str) -> Vec<u8> {
    value.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect()
}

fn number(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |sum, &d| sum * 10 + u64::from(d))
}

fn weighed(digits: &[u8], weights: &[u32]) -> u32 {
    digits.iter().zip(weights).map(|(&d, w)| u32::from(d) * w).sum()
}

fn part(digits: &[u8], from: usize, to: usize) -> u64 {
    number(digits.get(from..to).unwrap_or_default())
}

/// United States: area, group and serial that the Social Security Administration gives out.
fn ssn(value: &str) -> bool {
    form(value, "999-99-9999").is_some_and(|d| {
        let area = part(&d, 0, 3);
        !matches!(area, 0 | 666 | 900..) && part(&d, 3, 5) != 0 && part(&d, 5, 9) != 0
    })
}

/// United Kingdom: National Insurance number.
fn nino(value: &str) -> bool {
    let plain: Vec<u8> = value.bytes().filter(|b| *b != b' ').collect();
    let [a, b, middle @ .., last] = plain.as_slice() else { return false };
    let never = [b"BG", b"GB", b"NK", b"KN", b"TN", b"NT", b"ZZ"];
    middle.len() == 6
        && middle.iter().all(u8::is_ascii_digit)
        && matches!(last, b'A'..=b'D')
        && a.is_ascii_uppercase()
        && b.is_ascii_uppercase()
        && !b"DFIQUV".contains(a)
        && !b"DFIOQUV".contains(b)
        && !never.contains(&&[*a, *b])
}

/// Germany: Identifikationsnummer, of whose first ten digits one stands twice or three times; ISO 7064 mod 11,10.
fn steuer(value: &str) -> bool {
    let Some(d) = form(value, "99999999999").or_else(|| form(value, "99 999 999 999")) else { return false };
    let (Some(first), Some(check)) = (d.get(..10), d.get(10)) else { return false };
    let mut counts = [0u8; 10];
    for &digit in first {
        counts[usize::from(digit)] += 1;
    }
    let repeated = counts.iter().filter(|&&c| c > 1).count() == 1 && counts.iter().all(|&c| c <= 3);
    let product = first.iter().fold(10u32, |product, &digit| {
        let sum = (u32::from(digit) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    first.first() != Some(&0) && repeated && (11 - product) % 10 == u32::from(*check)
}

/// France: NIR, whose key is 97 minus the number modulo 97; Corsica's departments have a letter.
fn nir(value: &str) -> bool {
    let plain: String = value.chars().filter(|c| *c != ' ').collect();
    let Some(department) = plain.get(5..7).filter(|_| plain.len() == 15) else { return false };
    let (put, off) = match department {
        "2A" => ("19", 0),
        "2B" => ("18", 0),
        _ => (department, 0),
    };
    let told = format!("{}{put}{}", plain.get(..5).unwrap_or_default(), plain.get(7..).unwrap_or_default());
    if !told.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let d = digits(&told);
    let month = part(&d, 3, 5);
    matches!(d.first(), Some(1 | 2))
        && (1..=12).contains(&month)
        && 97 - (part(&d, 0, 13) - off) % 97 == part(&d, 13, 15)
}

/// Spain: DNI and NIE.
fn dni(value: &str) -> bool {
    const LETTERS: &[u8] = b"TRWAGMYFPDXBNJZSQVHLCKE";
    let plain: Vec<u8> = value.bytes().filter(|b| *b != b'-').collect();
    let [first, middle @ .., letter] = plain.as_slice() else { return false };
    let lead = match first {
        b'X' => 0,
        b'Y' => 1,
        b'Z' => 2,
        b'0'..=b'9' => u64::from(first - b'0'),
        _ => return false,
    };
    let said = std::str::from_utf8(middle).unwrap_or_default();
    middle.len() == 7
        && middle.iter().all(u8::is_ascii_digit)
        && LETTERS.get(((lead * 10_000_000 + number(&digits(said))) % 23) as usize) == Some(letter)
}

/// Italy: codice fiscale, with its check letter.
fn codice(value: &str) -> bool {
    const ODD: [u32; 26] =
        [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23];
    let b = value.as_bytes();
    if b.len() != 16 {
        return false;
    }
    let letters = [0, 1, 2, 3, 4, 5, 8, 11, 15];
    let shaped = b
        .iter()
        .enumerate()
        .all(|(i, c)| if letters.contains(&i) { c.is_ascii_uppercase() } else { c.is_ascii_digit() });
    let value_of =
        |c: u8| if c.is_ascii_digit() { usize::from(c - b'0') } else { usize::from(c.wrapping_sub(b'A')) };
    let sum: u32 = b
        .iter()
        .take(15)
        .enumerate()
        .map(|(i, &c)| {
            let plain = value_of(c);
            if i % 2 == 0 { ODD.get(plain).copied().unwrap_or(0) } else { plain as u32 }
        })
        .sum();
    shaped && b.last().is_some_and(|last| u32::from(last - b'A') == sum % 26)
}

/// Poland: PESEL, a date, a serial and a check digit.
fn pesel(value: &str) -> bool {
    form(value, "99999999999").is_some_and(|d| {
        let (month, day) = (part(&d, 2, 4) % 20, part(&d, 4, 6));
        let sum = weighed(&d, &[1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1]);
        (1..=12).contains(&month) && (1..=31).contains(&day) && sum.is_multiple_of(10)
    })
}

/// Brazil: CPF as it is written, with two check digits.
fn cpf(value: &str) -> bool {
    form(value, "999.999.999-99").is_some_and(|d| {
        let check = |n: usize| {
            let sum: u32 =
                d.iter().take(n).enumerate().map(|(i, &x)| u32::from(x) * (n as u32 + 1 - i as u32)).sum();
            sum * 10 % 11 % 10
        };
        d.iter().any(|x| Some(x) != d.first())
            && d.get(9).is_some_and(|&x| u32::from(x) == check(9))
            && d.get(10).is_some_and(|&x| u32::from(x) == check(10))
    })
}

/// India: Aadhaar in groups of four, with Verhoeff's check digit.
fn aadhaar(value: &str) -> bool {
    const PRODUCT: [[u8; 10]; 10] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 2, 3, 4, 0, 6, 7, 8, 9, 5],
        [2, 3, 4, 0, 1, 7, 8, 9, 5, 6],
        [3, 4, 0, 1, 2, 8, 9, 5, 6, 7],
        [4, 0, 1, 2, 3, 9, 5, 6, 7, 8],
        [5, 9, 8, 7, 6, 0, 4, 3, 2, 1],
        [6, 5, 9, 8, 7, 1, 0, 4, 3, 2],
        [7, 6, 5, 9, 8, 2, 1, 0, 4, 3],
        [8, 7, 6, 5, 9, 3, 2, 1, 0, 4],
        [9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ];
    const PERMUTED: [[u8; 10]; 8] = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        [1, 5, 7, 6, 2, 8, 3, 0, 9, 4],
        [5, 8, 0, 3, 7, 9, 6, 1, 4, 2],
        [8, 9, 1, 6, 0, 4, 3, 5, 2, 7],
        [9, 4, 5, 3, 1, 2, 6, 8, 7, 0],
        [4, 2, 8, 6, 5, 7, 3, 9, 0, 1],
        [2, 7, 9, 3, 8, 0, 6, 4, 1, 5],
        [7, 0, 4, 6, 9, 1, 3, 2, 5, 8],
    ];
    form(value, "9999 9999 9999").is_some_and(|d| {
        let check = d.iter().rev().enumerate().fold(0u8, |sum, (i, &x)| {
            PRODUCT[usize::from(sum) % 10][usize::from(PERMUTED[i % 8][usize::from(x) % 10]) % 10]
        });
        !matches!(d.first(), Some(0 | 1)) && check == 0
    })
}

/// Canada: SIN as it is written.
fn sin(value: &str) -> bool {
    form(value, "999-999-999")
        .or_else(|| form(value, "999 999 999"))
        .is_some_and(|d| d.first() != Some(&0) && luhn(&d))
}
