//! An event -> one aligned line: when, who, where, what came of it, what it was.

use std::io::{self, Write};

use agent_core::event::{Disposition, Event, EventKind, rfc3339};

/// Longest part of a text that is shown.
const TEXT: usize = 160;
/// The header is repeated after this many lines.
const PAGE: u32 = 40;

/// Writes events as a table.
pub struct Table {
    colour: bool,
    lines: u32,
}

const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

impl Table {
    /// `colour`: whether to use ANSI colours.
    pub fn new(colour: bool) -> Self {
        Self { colour, lines: 0 }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Writes one event, and the header where it is due.
    pub fn write(&mut self, out: &mut impl Write, event: &Event) -> io::Result<()> {
        if self.lines.is_multiple_of(PAGE) {
            let header = format!(
                "{:<12} {:<24} {:<22} {:>9} {:>10}  {}",
                "TIME", "PROCESS", "USER@DATABASE", "ROWS", "DURATION", "STATEMENT"
            );
            writeln!(out, "{}", self.paint(BOLD, header.trim_end()))?;
        }
        self.lines += 1;
        let clock = rfc3339(event.time);
        let process = match event.process_pid {
            Some(pid) => {
                let name = event.process_executable_path.rsplit('/').next().unwrap_or_default();
                format!("{}({pid})", if name.is_empty() { "?" } else { name })
            }
            None => format!("{}:{}", event.client_address, event.client_port),
        };
        let place = format!("{}@{}", event.db_user, event.db_namespace);
        let rows = match (event.db_response_returned_rows, event.db_response_affected_rows) {
            (_, Some(n)) if n > 0 => format!("~{n}"),
            (Some(n), _) | (None, Some(n)) => n.to_string(),
            (None, None) => String::new(),
        };
        writeln!(
            out,
            "{} {} {} {:>9} {:>10}  {}",
            self.paint(DIM, clock.get(11..23).unwrap_or_default()),
            self.paint(GREEN, &fit(&process, 24)),
            fit(&place, 22),
            rows,
            event.duration_ns.map(duration).unwrap_or_default(),
            self.what(event),
        )
    }

    fn what(&self, event: &Event) -> String {
        match event.event_kind {
            EventKind::Statement => {
                let text =
                    if event.db_query_text.is_empty() { "(text unknown)" } else { &*event.db_query_text };
                let mut line = clean(text);
                if !event.error_type.is_empty() {
                    line = format!("{} {line}", self.paint(RED, &event.error_type));
                }
                if event.disposition != Disposition::Allowed {
                    let verdict = format!("{:?} {}", event.disposition, event.policy_rule).to_lowercase();
                    line = format!("{} {line}", self.paint(YELLOW, &verdict));
                }
                line
            }
            EventKind::Session => {
                let how = if &*event.error_type == "adopted" { "session, joined" } else { "session" };
                self.paint(DIM, &format!("{how} application {:?}", event.db_application_name))
            }
            EventKind::Loss => {
                self.paint(RED, &format!("lost {} bytes ({})", event.capture_lost_before, event.error_type))
            }
            EventKind::Blind => self.paint(YELLOW, &format!("blind: {}", event.error_type)),
            other => format!("{other:?} {}", event.error_type).to_lowercase(),
        }
    }
}

/// Exactly `width` characters: padded, or cut with an ellipsis.
fn fit(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return format!("{text:<width$}");
    }
    text.chars().take(width - 1).chain(['…']).collect()
}

/// One line without control characters: a statement must not be able to drive the reader's terminal.
fn clean(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(TEXT));
    let mut space = false;
    for c in text.chars() {
        if c.is_whitespace() {
            space = !line.is_empty();
            continue;
        }
        if std::mem::take(&mut space) {
            line.push(' ');
        }
        if line.len() >= TEXT {
            line.push('…');
            break;
        }
        line.push(if c.is_control() { '\u{fffd}' } else { c });
    }
    line
}

/// `1.234 ms`: three significant places, the unit that fits.
fn duration(nanos: u64) -> String {
    let n = nanos as f64;
    match nanos {
        0..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} us", n / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", n / 1e6),
        _ => format!("{:.2} s", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_cannot_drive_the_terminal() {
        assert_eq!(clean("select\n\t '\x1b[2J'  "), "select '\u{fffd}[2J'");
    }

    #[test]
    fn columns_keep_their_width() {
        assert_eq!(fit("ab", 4), "ab  ");
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(duration(1_234_567), "1.23 ms");
    }
}
