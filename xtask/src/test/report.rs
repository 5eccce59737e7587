//! What a test program printed -> how many passed, and which failed with what they said.

use anyhow::Result;

use crate::terminal;

/// Counts of a whole run.
#[derive(Default)]
pub(super) struct Tally {
    /// How many passed.
    pub(super) passed: usize,
    /// How many of all were test functions.
    pub(super) tests: usize,
    failures: Vec<(String, String)>,
}

impl Tally {
    /// How many failed.
    pub(super) fn failed(&self) -> usize {
        self.failures.len()
    }

    /// One more that failed, and what it said.
    pub(super) fn fail(&mut self, name: &str, said: &str) {
        self.failures.push((name.to_owned(), said.to_owned()));
    }

    /// Runs a check that is one test.
    pub(super) fn check(&mut self, name: &str, run: impl FnOnce() -> Result<()>) {
        match run() {
            Ok(()) => {
                self.passed += 1;
                terminal::say(format!("{name} {}", terminal::style(terminal::fancy(), "32", "ok")));
            }
            Err(error) => {
                terminal::say(format!("{name} {}", terminal::style(terminal::fancy(), "31", "failed")));
                self.fail(name, &format!("{error:#}"));
            }
        }
    }

    /// Tells every failure with what it said.
    pub(super) fn print_failures(&self) {
        for (name, said) in &self.failures {
            eprintln!(
                "\n{} {name}\n{}",
                terminal::style(terminal::fancy(), "31;1", "FAILED"),
                said.trim_end()
            );
        }
    }
}

/// Reads libtest's output line by line.
#[derive(Default)]
pub(super) struct Lines {
    failing: Vec<String>,
    said: Vec<(String, String)>,
    telling: bool,
}

impl Lines {
    /// Takes the next line.
    pub(super) fn take(&mut self, line: &str, tally: &mut Tally) {
        if let Some(rest) = line.strip_prefix("test ") {
            if rest.ends_with(" ... ok") {
                tally.passed += 1;
                return;
            }
            if let Some(name) = rest.strip_suffix(" ... FAILED") {
                self.failing.push(name.to_owned());
                return;
            }
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|l| l.strip_suffix(" stdout ----")) {
            self.said.push((name.to_owned(), String::new()));
            self.telling = true;
        } else if line == "failures:" || line.starts_with("test result:") {
            self.telling = false;
        } else if let Some((_, said)) = self.said.last_mut().filter(|_| self.telling) {
            said.push_str(line);
            said.push('\n');
        }
    }

    /// The output is over: hands out the failures.
    pub(super) fn end(self, tally: &mut Tally) {
        for name in self.failing {
            let said = self.said.iter().find(|(n, _)| *n == name).map_or("", |(_, s)| s.as_str());
            tally.fail(&name, said);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_keeps_what_failing_tests_said() {
        let text = "running 3 tests\ntest a ... ok\ntest b::c ... FAILED\ntest d ... ok\n\nfailures:\n\n\
                    ---- b::c stdout ----\nleft is not right\n\n\nfailures:\n    b::c\n\n\
                    test result: FAILED. 2 passed; 1 failed; 0 ignored";
        let (mut tally, mut lines) = (Tally::default(), Lines::default());
        text.lines().for_each(|l| lines.take(l, &mut tally));
        lines.end(&mut tally);
        assert_eq!((tally.passed, tally.failed()), (2, 1));
        assert_eq!(tally.failures[0].0, "b::c");
        assert_eq!(tally.failures[0].1.trim(), "left is not right");
    }
}
