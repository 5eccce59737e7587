//! Steps of work -> progress lines on standard error: what, why, how long. Colour on a terminal only.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// True where standard error is a terminal that wants colour.
pub fn fancy() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// `text` in an SGR style (`1` bold, `2` dim, `32` green, ...) where `on`.
pub fn style(on: bool, sgr: &str, text: impl Display) -> String {
    if on { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_string() }
}

/// A headline.
pub fn headline(text: &str) {
    eprintln!("\n{}", style(fancy(), "1", text));
}

/// A line of its own, said to the person who waits.
pub fn say(text: impl Display) {
    eprintln!("  {text}");
}

/// One step under way. Shows its title at once, its time when done, and a sign of life between.
pub struct Step {
    title: String,
    began: Instant,
    shown: Instant,
    fancy: bool,
}

impl Step {
    /// Announces the step: what it is and, in brackets, why or how long.
    pub fn start(title: &str, note: &str) -> Self {
        let fancy = fancy();
        let step = Self { title: title.to_owned(), began: Instant::now(), shown: Instant::now(), fancy };
        let note = if note.is_empty() { String::new() } else { format!("({note})") };
        if fancy {
            eprint!("  {title} {}", style(true, "2", note));
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("  {title} {note}");
        }
        step
    }

    /// A sign of life: the latest line of the program that works. Cheap to call often.
    pub fn alive(&mut self, line: &str) {
        let due = if self.fancy { Duration::from_millis(250) } else { Duration::from_secs(30) };
        if self.shown.elapsed() < due {
            return;
        }
        self.shown = Instant::now();
        let seconds = self.began.elapsed().as_secs();
        let line: String = line.trim().chars().filter(|c| !c.is_control()).take(70).collect();
        if self.fancy {
            eprint!("\r\x1b[K  {} {}", self.title, style(true, "2", format!("{seconds} s  {line}")));
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("  {} ... {seconds} s", self.title);
        }
    }

    /// The step is done.
    pub fn done(self, outcome: &str) {
        self.end("32", "ok", outcome);
    }

    /// The step failed; the error itself is told by whoever called.
    pub fn failed(self) {
        self.end("31", "failed", "");
    }

    fn end(&self, sgr: &str, word: &str, outcome: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let start = if self.fancy { "\r\x1b[K" } else { "" };
        let word = style(self.fancy, sgr, word);
        let gap = if outcome.is_empty() { "" } else { ": " };
        eprintln!(
            "{start}  {} {word}{gap}{outcome} {}",
            self.title,
            style(self.fancy, "2", format!("{seconds:.1} s"))
        );
    }
}
