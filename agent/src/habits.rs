//! What principals touched before <-> a file of the state directory. Lines are only ever added while the agent runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use agent_core::judge::Memory;

/// The file, and whether it takes lines.
pub struct Habits {
    path: PathBuf,
    file: Option<File>,
}

impl Habits {
    /// Reads what the agents before this one have learned; a file that is missing holds nothing. What cannot be read is
    /// told and left out: what it held is new again.
    pub fn open(state: &Path) -> (Self, Memory) {
        let path = state.join("seen.jsonl");
        let mut memory = Memory::default();
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(%error, path = %path.display(), "what was seen before is not known");
                }
                String::new()
            }
        };
        let lines = text.lines().filter(|line| !line.is_empty());
        let (read, wrong) =
            lines.fold(
                (0, 0),
                |(read, wrong), line| {
                    if memory.read(line) { (read + 1, wrong) } else { (read, wrong + 1) }
                },
            );
        if wrong > 0 {
            tracing::warn!(wrong, path = %path.display(), "some of what was seen before cannot be read");
        }
        let habits = Self { path, file: None };
        // What was forgotten, cut off or said twice goes.
        if wrong > 0 || read > 2 * memory.size().0 + 2 {
            let all: Vec<String> = memory.lines().collect();
            habits.told(habits.rewrite(&all));
        }
        (habits, memory)
    }

    /// Writes out what is new.
    pub fn save(&mut self, memory: &mut Memory) {
        let fresh = memory.fresh();
        if !fresh.is_empty() {
            let written = self.append(&fresh);
            if written.is_err() {
                self.file = None;
            }
            self.told(written);
        }
    }

    fn append(&mut self, lines: &[String]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(options().append(true).open(&self.path)?),
        };
        file.write_all(joined(lines).as_bytes())
    }

    fn rewrite(&self, lines: &[String]) -> io::Result<()> {
        let other = self.path.with_extension("new");
        let mut file = options().write(true).truncate(true).open(&other)?;
        file.write_all(joined(lines).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(other, &self.path)
    }

    fn told(&self, done: io::Result<()>) {
        if let Err(error) = done {
            tracing::error!(%error, path = %self.path.display(), "what was seen cannot be kept: it is new again after a restart");
        }
    }
}

/// Nobody else's business: it says who uses what.
fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.create(true).mode(0o600);
    options
}

fn joined(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use agent_core::judge::{Look, Subject, judge};
    use agent_core::policy::{Policies, Source};
    use agent_core::sql::{Dialect, analyze};

    use super::*;

    const RULE: &str = "kind: DatabasePolicy\nmetadata: {name: new}\nspec:\n  match: {unusual: {first: relation, learning: 0s}}\n  action: alert\n";

    /// Whether the relation is new for joe.
    fn is_new(memory: &mut Memory, relation: &str) -> bool {
        let policies = Policies::load(&[Source { file: "r", text: RULE }]).unwrap();
        let analysis = analyze(Dialect::Postgresql, format!("SELECT * FROM {relation}").as_bytes());
        let subject = Subject { identity_principal: "joe", time: 1 << 60, ..Subject::new(&analysis) };
        let held = memory.look(&policies, &subject, Look::Request);
        let verdict = judge(&policies, &Subject { held: &held, ..subject });
        memory.learn(&policies, &subject);
        !verdict.policy_rule.is_empty()
    }

    #[test]
    fn what_was_seen_is_known_to_the_next_agent() {
        let dir = tempfile::tempdir().unwrap();
        let (mut habits, mut memory) = Habits::open(dir.path());
        assert!(is_new(&mut memory, "orders") && !is_new(&mut memory, "orders"));
        habits.save(&mut memory);
        assert!(is_new(&mut memory, "items"));
        habits.save(&mut memory);
        drop(habits);
        let path = dir.path().join("seen.jsonl");
        // The agent was killed in the middle of a line.
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"{\"per\":\"princ");
        std::fs::write(&path, &torn).unwrap();
        let (mut habits, mut memory) = Habits::open(dir.path());
        assert!(
            !is_new(&mut memory, "orders") && !is_new(&mut memory, "items") && is_new(&mut memory, "new")
        );
        habits.save(&mut memory);
        let (_, mut memory) = Habits::open(dir.path());
        assert!(!is_new(&mut memory, "orders") && !is_new(&mut memory, "new"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().count() == 4 && text.ends_with('\n'), "{text}");
    }

    #[test]
    fn nothing_was_seen_where_there_is_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut habits, mut memory) = Habits::open(dir.path());
        assert!(is_new(&mut memory, "orders"));
        std::fs::remove_dir_all(dir.path()).unwrap();
        // A disk that does not take it is told, and stops nothing.
        habits.save(&mut memory);
        assert!(!is_new(&mut memory, "orders"));
    }
}
