//! A multipart form -> its fields: how clients send a query whose parameters do not fit into an address.

/// The boundary that a content type names; none where it is no form.
pub(super) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let named = |parameter: &str| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"').to_owned())
    };
    parameters.split(';').find_map(named).filter(|boundary| !boundary.is_empty())
}

/// Names and values; none where the form is not whole.
pub(super) fn fields(body: &[u8], boundary: &str) -> Option<Vec<(String, Vec<u8>)>> {
    let (first, between) = (format!("--{boundary}"), format!("\r\n--{boundary}"));
    let mut rest = body.strip_prefix(first.as_bytes())?;
    let mut found = Vec::new();
    while let Some(part) = rest.strip_prefix(b"\r\n") {
        let end = position(part, between.as_bytes())?;
        let (part, after) = part.split_at(end);
        rest = &after[between.len()..];
        let head = position(part, b"\r\n\r\n")?;
        let name = name(std::str::from_utf8(&part[..head]).ok()?)?;
        found.push((name, part[head + 4..].to_vec()));
    }
    rest.starts_with(b"--").then_some(found)
}

fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

/// The field's name in the head of a part.
fn name(head: &str) -> Option<String> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"))?;
    let (_, rest) = line.split_once("name=\"")?;
    Some(rest.split_once('"')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORM: &[u8] = b"--x\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT {a:String}\r\n--x\r\n\
        content-disposition: form-data; name=\"param_a\"\r\nContent-Type: text/plain\r\n\r\n1\r\n2\r\n--x--\r\n";

    #[test]
    fn forms_are_taken_apart() {
        let found = fields(FORM, "x").unwrap();
        assert_eq!(found[0], ("query".to_owned(), b"SELECT {a:String}".to_vec()));
        assert_eq!(found[1], ("param_a".to_owned(), b"1\r\n2".to_vec()));
        assert_eq!(fields(b"--x--", "x"), Some(vec![]));
        for cut in 0..FORM.len() - 4 {
            assert_eq!(fields(&FORM[..cut], "x"), None, "cut at {cut}");
        }
    }

    #[test]
    fn only_forms_have_a_boundary() {
        assert_eq!(boundary("multipart/form-data; boundary=ab-c").as_deref(), Some("ab-c"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=\"q\"").as_deref(), Some("q"));
        for other in
            ["text/plain", "text/plain; boundary=x", "multipart/form-data", "multipart/form-data; boundary="]
        {
            assert_eq!(boundary(other), None, "{other}");
        }
    }
}
