//! Rows of text -> aligned columns. What comes from the wire may hold anything: nothing of it reaches the terminal raw.

/// Longest cell that is shown whole.
const WIDEST: usize = 72;

/// Text without what a terminal would obey, cut where it is long.
pub fn cell(text: &str) -> String {
    let mut out = String::new();
    for (at, c) in text.chars().enumerate() {
        if at == WIDEST {
            out.push('…');
            break;
        }
        if is_obeyed(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Controls, and those that turn the direction of a line around.
pub fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Lines of aligned columns under their heads; `right`: which columns hold numbers.
pub fn grid(heads: &[String], rows: &[Vec<String>], right: &[bool]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(heads.get(column).map(|head| head.chars().count())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut out = String::new();
    for row in std::iter::once(heads).chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width - cell.chars().count().min(*width));
            let (before, after) =
                if right.get(column) == Some(&true) { (pad, String::new()) } else { (String::new(), pad) };
            line.push_str(&format!("{}{before}{cell}{after}", if column == 0 { "" } else { "  " }));
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_terminals_obey_nobody() {
        let rows = vec![vec!["a".to_owned(), "10".to_owned()], vec![cell("b\u{1b}[2J\n"), "2".to_owned()]];
        let text = grid(&["who".to_owned(), "n".to_owned()], &rows, &[false, true]);
        assert_eq!(text, "who            n\na             10\nb\\u{1b}[2J\\n   2\n");
        assert_eq!(cell(&"x".repeat(100)).chars().count(), WIDEST + 1);
        assert_eq!(cell("\u{202e}x"), "\\u{202e}x");
    }
}
