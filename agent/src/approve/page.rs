//! A request -> a page for a browser: one file, no script, nothing from elsewhere. All that is shown is escaped.

use super::View;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:44rem;margin:3rem auto;padding:0 1rem;color:#1c2330;\
background:#f7f8fa}main{background:#fff;border:1px solid #dfe3ea;border-radius:10px;padding:1.5rem 2rem}h1{font-size:1.3rem;\
margin:0 0 1rem}dl{display:grid;grid-template-columns:max-content 1fr;gap:.35rem 1.25rem;margin:1rem 0}dt{color:#687386}\
dd{margin:0;overflow-wrap:anywhere}pre{background:#f2f4f8;border-radius:6px;padding:.8rem 1rem;white-space:pre-wrap;\
overflow-wrap:anywhere}button{font:inherit;font-weight:600;color:#fff;background:#1a7f4b;border:0;border-radius:6px;\
padding:.6rem 1.4rem;cursor:pointer}button.deny{background:#b3261e}small{color:#687386}";

/// What is asked, and the button that decides.
pub(super) fn question(view: &View, approve: bool) -> String {
    let (title, verb, class) = if approve {
        ("Let this statement go on?", "Approve", "approve")
    } else {
        ("Refuse this statement?", "Deny", "deny")
    };
    let message =
        if view.message.is_empty() { String::new() } else { format!("<p>{}</p>", escaped(&view.message)) };
    let body = format!(
        "{message}{}<form method=\"post\"><button class=\"{class}\">{verb}</button></form>\
         <p><small>This link works once. It is about exactly these bytes: SHA-256 {}</small></p>",
        facts(view),
        escaped(&view.digest)
    );
    whole(title, &body)
}

/// What was decided.
pub(super) fn done(view: &View, approve: bool) -> String {
    let title = if approve { "Approved" } else { "Denied" };
    whole(title, &facts(view))
}

/// Why nothing was decided.
pub(super) fn refused(title: &str, why: &str) -> String {
    whole(title, &format!("<p>{}</p>", escaped(why)))
}

/// A line of the agent's as a sentence.
pub(super) fn sentence(line: &str) -> String {
    let mut chars = line.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

fn facts(view: &View) -> String {
    let facts = [
        ("Who", view.who()),
        ("Database", view.where_to()),
        ("As user", view.db_user.clone()),
        ("From", view.client.clone()),
        ("Rule", view.policy_rule.clone()),
        ("Until", view.expires.split('.').next().unwrap_or_default().replace('T', " ") + " UTC"),
        ("Approves", view.holds()),
        ("Request", view.approval_id.clone()),
    ];
    let mut out = format!("<pre>{}</pre><dl>", escaped(&view.db_query_text));
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        out.push_str(&format!("<dt>{name}</dt><dd>{}</dd>", escaped(value)));
    }
    out + "</dl>"
}

fn whole(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{title} · weir</title><style>{STYLE}</style></head>\
         <body><main><h1>{title}</h1>{body}</main></body></html>\n"
    )
}

/// Text that a browser shows as it is. Characters that turn a line around are shown as what they are.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            _ if crate::show::grid::is_obeyed(c) => out.extend(c.escape_default()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_shown_is_markup() {
        let hostile = "<script>alert(1)</script>\"'&\u{202e}\u{1b}[2J".to_owned();
        let view = View {
            db_query_text: hostile.clone(),
            identity_principal: hostile.clone(),
            db_namespace: hostile.clone(),
            message: hostile.clone(),
            policy_rule: hostile,
            ..View::default()
        };
        for page in [question(&view, true), question(&view, false), done(&view, true), refused("<b>", "<i>")]
        {
            let inside = page.split("<main>").nth(1).unwrap();
            for wrong in ["<script", "<b>", "<i>", "\u{202e}", "\u{1b}", "\"'"] {
                assert!(!inside.contains(wrong), "{wrong:?} in {inside}");
            }
        }
        assert!(question(&view, true).contains("&lt;script&gt;alert(1)"));
    }
}
