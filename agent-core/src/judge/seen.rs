//! Who touched which relation before. Bounded; as lines of JSON it outlives the agent.

use std::num::NonZeroUsize;

use lru::LruCache;
use serde::{Deserialize, Serialize};

use super::Subject;
use crate::event;
use crate::policy::{Per, Unusual};

/// Most touches that are remembered; beyond, the one that was repeated longest ago is forgotten, and is new again.
const MOST: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();
/// Who has habits.
const PERS: [Per; 2] = [Per::Principal, Per::User];
/// Between the parts of a key: in no name.
const BETWEEN: char = '\u{1f}';

/// The memory.
#[derive(Debug)]
pub(super) struct Seen {
    touches: LruCache<Box<str>, ()>,
    /// When it began, for principals and for users.
    since: [Option<u64>; 2],
    /// Lines that have not been written out.
    fresh: Vec<String>,
    key: String,
}

impl Default for Seen {
    fn default() -> Self {
        Self { touches: LruCache::new(MOST), since: [None; 2], fresh: Vec::new(), key: String::new() }
    }
}

/// One line.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    per: &'a str,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    since: Option<String>,
    #[serde(borrow, skip_serializing_if = "str::is_empty", default)]
    who: std::borrow::Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty", default)]
    database: std::borrow::Cow<'a, str>,
    #[serde(borrow, skip_serializing_if = "str::is_empty", default)]
    relation: std::borrow::Cow<'a, str>,
}

fn number(per: Per) -> usize {
    usize::from(per == Per::User)
}

fn who<'a>(per: Per, subject: &Subject<'a>) -> &'a str {
    if per == Per::User { subject.db_user } else { subject.identity_principal }
}

/// The same relation under the name that most people write.
fn plain<'a>(relation: &'a str, subject: &Subject<'_>) -> &'a str {
    let postgresql = subject.db_system_name == "postgresql";
    relation.strip_prefix("public.").filter(|_| postgresql).unwrap_or(relation)
}

impl Seen {
    /// Begins to remember what a rule in force asks for: of principals, of users.
    pub(super) fn begin(&mut self, wanted: [bool; 2], time: u64) {
        for per in PERS {
            let since = &mut self.since[number(per)];
            if wanted[number(per)] && since.is_none() {
                *since = Some(time);
                self.fresh.push(beginning(per, time));
            }
        }
    }

    /// True where the memory is old enough to know what is usual.
    pub(super) fn knows(&self, unusual: &Unusual, time: u64) -> bool {
        self.since[number(unusual.per)].is_some_and(|since| time.saturating_sub(since) >= unusual.learning)
    }

    /// True where whoever it is has not touched the relation before.
    pub(super) fn is_first(&mut self, per: Per, subject: &Subject<'_>, relation: &str) -> bool {
        self.write_key(per, subject, relation);
        self.touches.get(self.key.as_str()).is_none()
    }

    /// Remembers what a statement touched, for each kind of memory that has begun.
    pub(super) fn learn(&mut self, subject: &Subject<'_>) {
        for per in PERS {
            if self.since[number(per)].is_none() {
                continue;
            }
            for relation in &*subject.analysis.statement_relations {
                self.touch(per, subject, &relation.name);
            }
            if !subject.statement_complete {
                self.touch(per, subject, &opaque(subject));
            }
        }
    }

    fn touch(&mut self, per: Per, subject: &Subject<'_>, relation: &str) {
        if self.is_first(per, subject, relation) {
            self.touches.put(self.key.as_str().into(), ());
            let database = format!("{}/{}", subject.db_system_name, subject.db_namespace);
            if self.fresh.len() < MOST.get() {
                self.fresh.push(line(&Line {
                    per: per.name(),
                    since: None,
                    who: who(per, subject).into(),
                    database: database.into(),
                    relation: plain(relation, subject).into(),
                }));
            }
        }
    }

    fn write_key(&mut self, per: Per, subject: &Subject<'_>, relation: &str) {
        self.key.clear();
        for part in [per.name(), who(per, subject), subject.db_system_name] {
            self.key.push_str(part);
            self.key.push(BETWEEN);
        }
        // As `Line` has it.
        self.key.pop();
        self.key.push('/');
        self.key.push_str(subject.db_namespace);
        self.key.push(BETWEEN);
        self.key.push_str(plain(relation, subject));
    }

    /// Takes the lines that are new since the last time.
    pub(super) fn fresh(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// Everything, oldest first.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let begun = PERS.into_iter().filter_map(|per| Some(beginning(per, self.since[number(per)]?)));
        let touches = self.touches.iter().rev().filter_map(|(key, ())| {
            let mut parts = key.split(BETWEEN);
            let mut part = || parts.next();
            let (per, who, database, relation) = (part()?, part()?, part()?, part()?);
            let (who, database, relation) = (who.into(), database.into(), relation.into());
            Some(line(&Line { per, since: None, who, database, relation }))
        });
        begun.chain(touches)
    }

    /// Takes a line that was written out. False where it is none.
    pub(super) fn read(&mut self, text: &str) -> bool {
        let Ok(line) = serde_json::from_str::<Line<'_>>(text) else { return false };
        let per = match line.per {
            "principal" => Per::Principal,
            "user" => Per::User,
            _ => return false,
        };
        if let Some(since) = line.since {
            let Some(since) = event::parse_rfc3339(&since) else { return false };
            let known = &mut self.since[number(per)];
            *known = Some(known.map_or(since, |known| known.min(since)));
            return true;
        }
        let key =
            [per.name(), &line.who, &line.database, &line.relation].join(BETWEEN.encode_utf8(&mut [0; 4]));
        if key.matches(BETWEEN).count() != 3 {
            return false;
        }
        self.touches.put(key.into(), ());
        true
    }

    pub(super) fn len(&self) -> usize {
        self.touches.len()
    }
}

/// What stands for the relations of a statement that was not understood in full: the statement itself.
pub(super) fn opaque(subject: &Subject<'_>) -> String {
    format!("statement {}", subject.analysis.db_query_fingerprint)
}

fn beginning(per: Per, time: u64) -> String {
    let nothing = std::borrow::Cow::default;
    let since = Some(event::rfc3339(time));
    line(&Line { per: per.name(), since, who: nothing(), database: nothing(), relation: nothing() })
}

fn line(line: &Line<'_>) -> String {
    serde_json::to_string(line).unwrap_or_default()
}
