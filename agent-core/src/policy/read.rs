//! YAML -> rules. Goes on after an error, so that all of them are told at once, each with its place.

use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::{Action, AgentMatch, Glob, Match, Mode, Policy, Problem, RelationMatch, Source};
use crate::receipt::sha256;
use crate::sql::{Access, Effect};

mod approval; // who may release what is held
mod conditions; // how often, for the first time, when

/// Where a policy begins.
#[derive(Clone, Debug)]
pub(super) struct Place {
    file: String,
    line: usize,
    column: usize,
}

impl Place {
    pub(super) fn problem(&self, message: String) -> Problem {
        Problem { file: self.file.clone(), line: self.line, column: self.column, message }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The known word that is nearest to this one, if any is near enough to have been meant.
pub fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let plain = |s: &str| s.to_ascii_lowercase().replace(['_', '-'], "");
    let word = plain(word);
    let (distance, best) =
        known.iter().map(|k| (strsim::damerau_levenshtein(&word, &plain(k)), *k)).min_by_key(|(d, _)| *d)?;
    let most = (word.chars().count() / 3).max(1);
    let begins = word.chars().count() >= 3 && plain(best).starts_with(&word);
    (distance <= most || begins).then_some(best)
}

/// Reads one file.
pub(super) fn file(source: Source<'_>, policies: &mut Vec<(Policy, Place)>, problems: &mut Vec<Problem>) {
    let documents = match MarkedYaml::load_from_str(source.text) {
        Ok(documents) => documents,
        Err(error) => {
            let at = error.marker();
            problems.push(Problem {
                file: source.file.to_owned(),
                line: at.line(),
                column: at.col() + 1,
                message: format!("not YAML: {}", error.info()),
            });
            return;
        }
    };
    for document in &documents {
        if is_null(document) {
            continue;
        }
        let mut reader = Reader { file: source.file, problems };
        let before = reader.problems.len();
        let policy = reader.policy(document, &version(source.text, document));
        if let Some(policy) = policy.filter(|_| problems.len() == before) {
            let start = document.span.start;
            policies.push((
                policy,
                Place { file: source.file.to_owned(), line: start.line(), column: start.col() + 1 },
            ));
        }
    }
}

/// Hash of the document's own text: it changes when the rule does, and not when its neighbour does.
fn version(text: &str, document: &MarkedYaml<'_>) -> Arc<str> {
    let hash = sha256(&[own(text, document).as_bytes()]);
    let mut version = String::with_capacity(12);
    for byte in hash.iter().take(6) {
        use std::fmt::Write as _;
        let _ = write!(version, "{byte:02x}");
    }
    version.into()
}

/// The text of one document of a file.
fn own(text: &str, document: &MarkedYaml<'_>) -> String {
    let (from, to) = (document.span.start.index(), document.span.end.index());
    let own: String = text.chars().skip(from).take(to.saturating_sub(from)).collect();
    own.trim().to_owned()
}

/// The documents of a file, each under the version that it has as a policy. None where the file is no YAML.
pub fn documents(text: &str) -> Vec<(Arc<str>, String)> {
    let documents = MarkedYaml::load_from_str(text).unwrap_or_default();
    documents.iter().map(|document| (version(text, document), own(text, document))).collect()
}

fn is_null(node: &MarkedYaml<'_>) -> bool {
    matches!(node.data, YamlData::Value(Scalar::Null))
}

/// A scalar as text.
fn scalar(node: &MarkedYaml<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(Scalar::String(text)) => Some(text.to_string()),
        YamlData::Value(Scalar::Integer(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::FloatingPoint(number)) => Some(number.to_string()),
        YamlData::Value(Scalar::Boolean(value)) => Some(value.to_string()),
        YamlData::Tagged(_, inner) => scalar(inner),
        _ => None,
    }
}

struct Reader<'a> {
    file: &'a str,
    problems: &'a mut Vec<Problem>,
}

type Fields<'y> = Vec<(String, &'y MarkedYaml<'y>)>;

fn field<'y>(fields: &Fields<'y>, name: &str) -> Option<&'y MarkedYaml<'y>> {
    fields.iter().find(|(key, _)| key == name).map(|(_, value)| *value)
}

const ACTIONS: &[(&str, Action)] = &[
    ("allow", Action::Allow),
    ("alert", Action::Alert),
    ("mask", Action::Mask),
    ("block", Action::Block),
    ("kill", Action::Kill),
    ("require_approval", Action::RequireApproval),
];

impl Reader<'_> {
    fn problem(&mut self, node: &MarkedYaml<'_>, message: String) {
        let start = node.span.start;
        self.problems.push(Problem {
            file: self.file.to_owned(),
            line: start.line(),
            column: start.col() + 1,
            message,
        });
    }

    /// The fields of a mapping, unknown ones reported.
    fn fields<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str, known: &[&str]) -> Fields<'y> {
        let YamlData::Mapping(mapping) = &node.data else {
            self.problem(node, format!("{what} must be a mapping with {}", list(known)));
            return Vec::new();
        };
        let mut fields = Vec::new();
        for (key, value) in mapping {
            let name = scalar(key).unwrap_or_default();
            if known.contains(&name.as_str()) {
                fields.push((name, value));
            } else {
                self.unknown(key, &format!("{what} has no field"), &name, known);
            }
        }
        fields
    }

    fn unknown(&mut self, node: &MarkedYaml<'_>, says: &str, word: &str, known: &[&str]) {
        let hint = match nearest(word, known) {
            Some(near) => format!("did you mean '{near}'?"),
            None => format!("known: {}", list(known)),
        };
        self.problem(node, format!("{says} '{word}'; {hint}"));
    }

    fn text(&mut self, node: &MarkedYaml<'_>, what: &str) -> Option<String> {
        let text = scalar(node).filter(|text| !text.trim().is_empty());
        if text.is_none() {
            self.problem(node, format!("{what} must be a text that is not empty"));
        }
        text
    }

    fn boolean(&mut self, node: &MarkedYaml<'_>, what: &str) -> Option<bool> {
        if let YamlData::Value(Scalar::Boolean(value)) = node.data {
            return Some(value);
        }
        self.problem(node, format!("{what} must be true or false"));
        None
    }

    fn word<T: Copy>(&mut self, node: &MarkedYaml<'_>, what: &str, table: &[(&str, T)]) -> Option<T> {
        let word = self.text(node, what)?;
        if let Some((_, value)) = table.iter().find(|(name, _)| *name == word) {
            return Some(*value);
        }
        let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
        self.unknown(node, &format!("{what} cannot be"), &word, &known);
        None
    }

    /// The elements of a list; one element may stand alone.
    fn list<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str) -> Vec<&'y MarkedYaml<'y>> {
        match &node.data {
            YamlData::Sequence(items) if items.is_empty() => {
                self.problem(node, format!("{what} is empty: leave it out, or name what it is about"));
                Vec::new()
            }
            YamlData::Sequence(items) => items.iter().collect(),
            YamlData::Value(Scalar::Null) => {
                self.problem(node, format!("{what} is empty: leave it out, or name what it is about"));
                Vec::new()
            }
            _ => vec![node],
        }
    }

    fn globs<'y>(&mut self, node: Option<&'y MarkedYaml<'y>>, what: &str) -> Vec<Glob> {
        let Some(node) = node else { return Vec::new() };
        let items = self.list(node, what);
        items.into_iter().filter_map(|item| self.text(item, what)).map(|text| Glob::new(&text)).collect()
    }

    fn policy<'y>(&mut self, document: &'y MarkedYaml<'y>, version: &Arc<str>) -> Option<Policy> {
        let top = self.fields(document, "a policy", &["apiVersion", "kind", "metadata", "spec"]);
        if top.is_empty() {
            return None;
        }
        match field(&top, "kind") {
            Some(kind) => {
                self.word(kind, "kind", &[("DatabasePolicy", ())]);
            }
            None => self.problem(document, "kind is missing: write 'kind: DatabasePolicy'".into()),
        }
        let mut name = None;
        match field(&top, "metadata") {
            Some(metadata) => {
                let fields =
                    self.fields(metadata, "metadata", &["name", "labels", "annotations", "namespace"]);
                match field(&fields, "name") {
                    Some(node) => name = self.text(node, "metadata.name"),
                    None => {
                        self.problem(metadata, "metadata.name is missing: events name the rule by it".into());
                    }
                }
            }
            None => self.problem(document, "metadata is missing: write 'metadata: {name: ...}'".into()),
        }
        let Some(spec) = field(&top, "spec") else {
            self.problem(document, "spec is missing: it holds mode, match and action".into());
            return None;
        };
        self.spec(spec, name.as_deref().unwrap_or_default(), version)
    }

    fn spec<'y>(&mut self, spec: &'y MarkedYaml<'y>, name: &str, version: &Arc<str>) -> Option<Policy> {
        const KNOWN: &[&str] = &[
            "mode",
            "match",
            "schedule",
            "except",
            "action",
            "onUnknown",
            "onTimeout",
            "approval",
            "message",
        ];
        let fields = self.fields(spec, "spec", KNOWN);
        let mode = field(&fields, "mode")
            .map_or(Some(Mode::Monitor), |node| {
                self.word(node, "spec.mode", &[("monitor", Mode::Monitor), ("enforce", Mode::Enforce)])
            })
            .unwrap_or_default();
        let (matching, before) = if let Some(node) = field(&fields, "match") {
            self.matching(node, "spec.match", &["rate", "unusual"])
        } else {
            self.problem(spec, "spec.match is missing: write 'match: {}' for every statement".into());
            Default::default()
        };
        let rate = field(&before, "rate").and_then(|node| self.rate(node));
        let unusual = field(&before, "unusual").and_then(|node| self.unusual(node));
        let schedule = field(&fields, "schedule").and_then(|node| self.schedule(node, "spec.schedule"));
        let except = field(&fields, "except").map_or_else(Vec::new, |node| {
            let blocks = self.list(node, "spec.except");
            blocks.into_iter().map(|block| self.except(block)).collect()
        });
        let Some(action_node) = field(&fields, "action") else {
            self.problem(spec, format!("spec.action is missing: one of {}", list(&names(ACTIONS))));
            return None;
        };
        let action = self.word(action_node, "spec.action", ACTIONS);
        if let Some(action) = action {
            let remembers = rate.is_some() || unusual.is_some();
            if mode == Mode::Enforce
                && remembers
                && matches!(action, Action::Block | Action::RequireApproval | Action::Mask)
            {
                // The gate decides about one statement at a time, before it is known what others bring.
                let name = action.name();
                self.problem(
                    action_node,
                    format!(
                        "spec.action: '{name}' cannot depend on what happened before; use 'kill' or 'alert'"
                    ),
                );
            }
        }
        let on_unknown =
            field(&fields, "onUnknown").and_then(|node| self.word(node, "spec.onUnknown", ACTIONS));
        let approval = self.approval(&fields, [action, on_unknown]);
        let message = field(&fields, "message").and_then(|node| self.text(node, "spec.message"));
        Some(Policy {
            number: 0,
            name: name.into(),
            version: Arc::clone(version),
            mode,
            matching,
            rate,
            unusual,
            schedule,
            except,
            action: action?,
            on_unknown: on_unknown.unwrap_or(match action {
                Some(Action::Mask) => Action::Mask,
                _ => Action::Alert,
            }),
            approval,
            message: message.unwrap_or_default().into(),
        })
    }

    /// Predicates, and the fields among them that are `more`.
    fn matching<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str, more: &[&str]) -> (Match, Fields<'y>) {
        const KNOWN: &[&str] = &["database", "workload", "actor", "statement", "relations", "data"];
        let mut out = Match::default();
        let mut others = Vec::new();
        for (name, value) in self.fields(node, what, &[KNOWN, more].concat()) {
            if more.contains(&name.as_str()) {
                others.push((name, value));
                continue;
            }
            let what = format!("{what}.{name}");
            match name.as_str() {
                "database" => {
                    let fields = self.fields(value, &what, &["system", "namespace", "user"]);
                    out.system = self.globs(field(&fields, "system"), &format!("{what}.system"));
                    out.namespace = self.globs(field(&fields, "namespace"), &format!("{what}.namespace"));
                    out.user = self.globs(field(&fields, "user"), &format!("{what}.user"));
                }
                "actor" => self.actor(value, &what, &mut out),
                "statement" => self.statement(value, &what, &mut out),
                "relations" => {
                    for item in self.list(value, &what) {
                        out.relations.extend(self.relation(item, &what));
                    }
                }
                // Never skipped in silence: a rule that is narrower than it was meant, or wider, is worse than none.
                "workload" => self.problem(
                    value,
                    format!(
                        "{what}: this build does not know workloads yet; match the actor, or leave it out"
                    ),
                ),
                _ => {
                    let fields = self.fields(value, &what, &["classes"]);
                    out.data = self.globs(field(&fields, "classes"), &format!("{what}.classes"));
                    if out.data.is_empty() && !fields.is_empty() {
                        self.problem(value, format!("{what}.classes is missing: write e.g. [card, iban]"));
                    }
                }
            }
        }
        (out, others)
    }

    fn actor<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str, out: &mut Match) {
        let fields = self.fields(node, what, &["ai_agent", "principal", "user"]);
        out.principal = self.globs(field(&fields, "principal"), &format!("{what}.principal"));
        if let Some(node) = field(&fields, "user") {
            if !out.user.is_empty() {
                self.problem(node, format!("{what}.user: database.user says it already"));
            }
            out.user = self.globs(Some(node), &format!("{what}.user"));
        }
        let Some(agent) = field(&fields, "ai_agent") else { return };
        out.ai_agent = match scalar(agent).as_deref() {
            Some("any" | "true") => Some(AgentMatch::Any),
            Some("none" | "false") => Some(AgentMatch::Nobody),
            _ => Some(AgentMatch::Named(self.globs(Some(agent), &format!("{what}.ai_agent")))),
        };
    }

    fn statement<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str, out: &mut Match) {
        let fields =
            self.fields(node, what, &["effects", "unbounded", "complete", "operation", "fingerprint"]);
        let table: Vec<(&str, Effect)> = Effect::ALL.iter().map(|e| (e.name(), *e)).collect();
        if let Some(effects) = field(&fields, "effects") {
            let what = format!("{what}.effects");
            for item in self.list(effects, &what) {
                out.effects.extend(self.word(item, &what, &table));
            }
        }
        out.unbounded =
            field(&fields, "unbounded").and_then(|node| self.boolean(node, &format!("{what}.unbounded")));
        out.complete =
            field(&fields, "complete").and_then(|node| self.boolean(node, &format!("{what}.complete")));
        let operations = self.globs(field(&fields, "operation"), &format!("{what}.operation"));
        out.operation = operations.iter().map(|o| Glob::new(&o.pattern().to_ascii_uppercase())).collect();
        out.fingerprint = self.globs(field(&fields, "fingerprint"), &format!("{what}.fingerprint"));
    }

    fn relation<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str) -> Option<RelationMatch> {
        if let Some(name) = scalar(node) {
            return Some(RelationMatch { name: Glob::new(&name), access: None });
        }
        let fields = self.fields(node, what, &["name", "access"]);
        let access = field(&fields, "access").and_then(|node| {
            self.word(node, &format!("{what}.access"), &[("read", Access::Read), ("write", Access::Write)])
        });
        let Some(name) = field(&fields, "name") else {
            self.problem(node, format!("{what}: name is missing; write '*' for every relation"));
            return None;
        };
        let name = self.text(name, &format!("{what}.name"))?;
        Some(RelationMatch { name: Glob::new(&name), access })
    }
}

fn names<T>(table: &[(&'static str, T)]) -> Vec<&'static str> {
    table.iter().map(|(name, _)| *name).collect()
}

fn list(words: &[&str]) -> String {
    words.join(", ")
}
