//! Value -> is it a key, a token or a password: by the marks that issuers give them, else by how random it is.

/// Marks of issuers, what may follow, and how much of it at least.
const MARKS: &[(&str, usize)] = &[
    ("AKIA", 16),
    ("ASIA", 16),
    ("ghp_", 20),
    ("gho_", 20),
    ("ghu_", 20),
    ("ghs_", 20),
    ("ghr_", 20),
    ("github_pat_", 20),
    ("glpat-", 16),
    ("xoxb-", 10),
    ("xoxp-", 10),
    ("xoxa-", 10),
    ("xoxr-", 10),
    ("xoxs-", 10),
    ("xapp-", 10),
    ("sk-", 20),
    ("sk_live_", 10),
    ("sk_test_", 10),
    ("rk_live_", 10),
    ("whsec_", 16),
    ("AIza", 30),
    ("ya29.", 20),
    ("SG.", 20),
    ("npm_", 30),
    ("pypi-", 30),
    ("dop_v1_", 30),
    ("hf_", 20),
    ("shpat_", 20),
    ("hvs.", 20),
    ("dckr_pat_", 16),
    ("tskey-", 16),
    // Passwords as databases and systems keep them.
    ("$2a$", 50),
    ("$2b$", 50),
    ("$2y$", 50),
    ("$argon2", 20),
    ("$pbkdf2", 20),
    ("$6$", 20),
    ("SCRAM-SHA-256$", 20),
    ("{SSHA}", 20),
];

/// True for a value that is a secret and nothing else.
pub(super) fn is_secret(value: &str) -> bool {
    marked(value) || random(value)
}

/// True where a secret stands somewhere in a text: a private key, a password in a URL or in a connection string.
pub(super) fn in_text(value: &str) -> bool {
    value.contains("-----BEGIN ") && value.contains("PRIVATE KEY") || in_url(value) || in_pairs(value)
}

fn marked(value: &str) -> bool {
    let marked = MARKS.iter().any(|(mark, least)| {
        value.strip_prefix(mark).is_some_and(|rest| {
            let coded = |b: u8| b.is_ascii_alphanumeric() || b"-_./+=$,:".contains(&b);
            rest.len() >= *least && rest.bytes().all(coded)
        })
    });
    // PostgreSQL's older password: md5 and 32 hexadecimal digits.
    let md5 = |rest: &str| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    marked || value.strip_prefix("md5").is_some_and(md5)
}

/// `scheme://user:password@host`.
fn in_url(value: &str) -> bool {
    value.match_indices("://").any(|(at, mark)| {
        let rest = value.get(at + mark.len()..).unwrap_or_default();
        let authority = rest.split(['/', '?', '#', ' ']).next().unwrap_or_default();
        let before = authority.rsplit_once('@').and_then(|(who, _)| who.split_once(':'));
        before.is_some_and(|(_, password)| !password.is_empty())
    })
}

/// `password=...` and its like, as connection strings have it.
fn in_pairs(value: &str) -> bool {
    const KEYS: &[&str] =
        &["password", "passwd", "pwd", "passphrase", "secret", "apikey", "api_key", "access_key", "token"];
    value.match_indices(['=', ':']).take(64).any(|(at, _)| {
        let before = value.get(..at).unwrap_or_default().trim_end_matches([' ', '"', '\'']);
        let said = value.get(at + 1..).unwrap_or_default().trim_start_matches([' ', '"', '\'']);
        let key: String = before
            .chars()
            .rev()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_' || *c == '-')
            .map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() })
            .collect();
        let key: String = key.chars().rev().collect();
        KEYS.iter().any(|k| key.ends_with(k))
            && said.starts_with(|c: char| !c.is_whitespace() && c != ',' && c != '}')
    })
}

/// Shannon's entropy of what may be a key: long, of mixed kinds of characters, and no word, number or identifier.
fn random(value: &str) -> bool {
    let bytes = value.as_bytes();
    if !(24..=200).contains(&bytes.len())
        || !bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=_-".contains(b))
    {
        return false;
    }
    let some = |is: fn(&u8) -> bool, least| bytes.iter().filter(|&b| is(b)).count() >= least;
    let digits = if bytes.len() >= 32 { 1 } else { 3 };
    if !(some(u8::is_ascii_lowercase, 3)
        && some(u8::is_ascii_uppercase, 3)
        && some(u8::is_ascii_digit, digits))
    {
        return false;
    }
    let mut counts = [0u32; 256];
    for &b in bytes {
        counts[usize::from(b)] += 1;
    }
    let length = bytes.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| {
            let share = f64::from(count) / length;
            -share * share.log2()
        })
        .sum();
    entropy >= 4.1
}
