//! Name of a column or relation -> the class of what it holds.

/// Words that stand together in a name, and the class. Sorted by the words; plural forms are cut before.
static NAMES: &[(&[&str], &str)] = &[
    (&["aadhaar"], "national_id"),
    (&["access", "key"], "secret"),
    (&["access", "token"], "secret"),
    (&["account", "number"], "bank_account"),
    (&["address", "line"], "address"),
    (&["api", "key"], "secret"),
    (&["apikey"], "secret"),
    (&["auth", "token"], "secret"),
    (&["authentication", "string"], "secret"),
    (&["bank", "account"], "bank_account"),
    (&["billing", "address"], "address"),
    (&["birth", "date"], "birth_date"),
    (&["birthdate"], "birth_date"),
    (&["birthday"], "birth_date"),
    (&["bsn"], "national_id"),
    (&["card", "no"], "card"),
    (&["card", "number"], "card"),
    (&["cardholder"], "person_name"),
    (&["cardno"], "card"),
    (&["cardnumber"], "card"),
    (&["cc", "num"], "card"),
    (&["cc", "number"], "card"),
    (&["ccnum"], "card"),
    (&["cell", "phone"], "phone"),
    (&["codice", "fiscale"], "national_id"),
    (&["cpf"], "national_id"),
    (&["credential"], "secret"),
    (&["credit", "card"], "card"),
    (&["creditcard"], "card"),
    (&["curp"], "national_id"),
    (&["cvc"], "card"),
    (&["cvv"], "card"),
    (&["date", "of", "birth"], "birth_date"),
    (&["debit", "card"], "card"),
    (&["diagnosis"], "health"),
    (&["dni"], "national_id"),
    (&["dob"], "birth_date"),
    (&["driver", "license"], "national_id"),
    (&["e", "mail"], "email"),
    (&["email"], "email"),
    (&["emailaddress"], "email"),
    (&["family", "name"], "person_name"),
    (&["fax"], "phone"),
    (&["first", "name"], "person_name"),
    (&["firstname"], "person_name"),
    (&["full", "name"], "person_name"),
    (&["fullname"], "person_name"),
    (&["given", "name"], "person_name"),
    (&["home", "address"], "address"),
    (&["iban"], "iban"),
    (&["id", "card"], "national_id"),
    (&["insee"], "national_id"),
    (&["jwt"], "jwt"),
    (&["last", "name"], "person_name"),
    (&["lastname"], "person_name"),
    (&["maiden", "name"], "person_name"),
    (&["mail", "address"], "email"),
    (&["medical"], "health"),
    (&["mobile"], "phone"),
    (&["msisdn"], "phone"),
    (&["national", "id"], "national_id"),
    (&["national", "insurance"], "national_id"),
    (&["nationalid"], "national_id"),
    (&["nino"], "national_id"),
    (&["otp"], "secret"),
    (&["pan"], "card"),
    (&["passcode"], "secret"),
    (&["passphrase"], "secret"),
    (&["passport"], "national_id"),
    (&["passwd"], "secret"),
    (&["password"], "secret"),
    (&["passwort"], "secret"),
    (&["patient"], "health"),
    (&["personnummer"], "national_id"),
    (&["pesel"], "national_id"),
    (&["phone"], "phone"),
    (&["phonenumber"], "phone"),
    (&["pin", "code"], "secret"),
    (&["postal", "address"], "address"),
    (&["prescription"], "health"),
    (&["private", "key"], "secret"),
    (&["pwd"], "secret"),
    (&["refresh", "token"], "secret"),
    (&["rolpassword"], "secret"),
    (&["salary"], "salary"),
    (&["secret"], "secret"),
    (&["session", "token"], "secret"),
    (&["shipping", "address"], "address"),
    (&["social", "security"], "national_id"),
    (&["sozialversicherungsnummer"], "national_id"),
    (&["ssn"], "national_id"),
    (&["steuer", "id"], "national_id"),
    (&["street"], "address"),
    (&["surname"], "person_name"),
    (&["tax", "id"], "national_id"),
    (&["telefon"], "phone"),
    (&["telephone"], "phone"),
    (&["token"], "secret"),
    (&["wage"], "salary"),
];

/// Words behind which a name is about something else: `password_changed_at`, `email_verified`, `token_count`.
static ABOUT: &[&str] = &[
    "at",
    "age",
    "algorithm",
    "attempt",
    "changed",
    "column",
    "confirmed",
    "count",
    "created",
    "date",
    "domain",
    "enabled",
    "expire",
    "expired",
    "expires",
    "expiry",
    "flag",
    "format",
    "has",
    "history",
    "is",
    "len",
    "length",
    "limit",
    "max",
    "min",
    "policy",
    "provider",
    "required",
    "reset",
    "sent",
    "status",
    "template",
    "time",
    "type",
    "updated",
    "valid",
    "verified",
    "version",
    "usage",
];

/// Longest name that is looked at, bytes.
const LONGEST: usize = 64;

/// The class that a name tells; names of the catalogs' own keepers of passwords are known as they are.
pub(super) fn class(name: &str) -> Option<&'static str> {
    if !(3..=LONGEST).contains(&name.len()) {
        return None;
    }
    let mut buffer = [0u8; LONGEST * 2];
    let mut ends = [0usize; 16];
    let count = words(name, &mut buffer, &mut ends);
    let word = |at: usize| -> &[u8] {
        let from = at.checked_sub(1).and_then(|p| ends.get(p)).copied().unwrap_or(0);
        let word = ends.get(at).and_then(|&end| buffer.get(from..end)).unwrap_or_default();
        match word.strip_suffix(b"s") {
            Some(one) if word.len() > 3 && !word.ends_with(b"ss") && !word.ends_with(b"is") => one,
            _ => word,
        }
    };
    let about = |at: usize| ABOUT.iter().any(|a| a.as_bytes() == word(at));
    for at in 0..count {
        let first = NAMES.partition_point(|(words, _)| words.first().is_none_or(|w| w.as_bytes() < word(at)));
        let same = NAMES
            .get(first..)
            .unwrap_or_default()
            .iter()
            .take_while(|(words, _)| words.first().is_some_and(|w| w.as_bytes() == word(at)));
        for (words, class) in same {
            let whole = words.iter().enumerate().all(|(i, w)| at + i < count && w.as_bytes() == word(at + i));
            let others = (0..count).filter(|i| !(at..at + words.len()).contains(i));
            if whole && !others.into_iter().any(about) {
                return Some(class);
            }
        }
    }
    None
}

/// The class of a relation by its name, without its schema.
pub(crate) fn relation(name: &str) -> Option<&'static str> {
    let own = name.rsplit('.').next().unwrap_or(name);
    match own {
        "pg_authid" | "pg_shadow" | "pg_user_mapping" | "pg_user_mappings" | "sql_logins" => Some("secret"),
        "user" | "global_priv" if name.starts_with("mysql.") => Some("secret"),
        _ => class(own),
    }
}

/// Cuts `cardNumber`, `card_number`, `Card-Number` into words in lower case; `ends` says where each ends.
fn words(name: &str, buffer: &mut [u8; LONGEST * 2], ends: &mut [usize; 16]) -> usize {
    let (mut length, mut count, mut open, mut lower) = (0, 0, false, false);
    let mut close = |length: usize, open: &mut bool, count: &mut usize| {
        if std::mem::take(open)
            && let Some(end) = ends.get_mut(*count)
        {
            *end = length;
            *count += 1;
        }
    };
    for b in name.bytes() {
        if !b.is_ascii_alphabetic() && b < 128 {
            close(length, &mut open, &mut count);
            lower = false;
            continue;
        }
        if b.is_ascii_uppercase() && lower {
            close(length, &mut open, &mut count);
        }
        lower = b.is_ascii_lowercase();
        if let Some(slot) = buffer.get_mut(length) {
            *slot = b.to_ascii_lowercase();
            length += 1;
            open = true;
        }
    }
    close(length, &mut open, &mut count);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted() {
        assert!(NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }

    #[test]
    fn what_a_name_tells() {
        for (name, told) in [
            ("email", "email"),
            ("Email", "email"),
            ("user_email", "email"),
            ("contactEmail", "email"),
            ("e-mail", "email"),
            ("emails", "email"),
            ("email2", "email"),
            ("card_number", "card"),
            ("cardNumber", "card"),
            ("credit_cards", "card"),
            ("pan", "card"),
            ("ssn", "national_id"),
            ("PASSWORD_HASH", "secret"),
            ("api_keys", "secret"),
            ("refresh_token", "secret"),
            ("dateOfBirth", "birth_date"),
            ("phone_home", "phone"),
        ] {
            assert_eq!(class(name), Some(told), "{name}");
        }
        for name in [
            "id",
            "mailing",
            "company",
            "pants",
            "password_changed_at",
            "email_verified",
            "is_email",
            "token_count",
            "birth",
            "card",
            "discard",
            "address",
            "keys",
            "panel",
            "hashed",
            "created_at",
            "passwordless_",
        ] {
            assert_eq!(class(name), None, "{name}");
        }
        assert_eq!(relation("pg_catalog.pg_authid"), Some("secret"));
        assert_eq!(relation("mysql.user"), Some("secret"));
        assert_eq!(relation("public.user"), None);
    }
}
