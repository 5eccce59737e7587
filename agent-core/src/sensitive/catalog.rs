//! YAML -> the columns that somebody declared, and their classes. Declared goes before what names tell.
//!
//! ```yaml
//! relations:
//!   public.users: {mail: email, fon: phone}
//!   "*.payments": {pan: card}
//! columns: {"*_ssn": national_id}          # of any relation
//! except: [templates.email, email_subject] # no class, whatever their name tells
//! ```

use std::sync::Arc;

use saphyr::{LoadableYamlNode, MarkedYaml, Scalar, YamlData};

use super::names;
use crate::policy::{Glob, Problem, nearest};

/// What is known about relations and columns beyond their names.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    relations: Vec<(Glob, Vec<Column>)>,
    columns: Vec<Column>,
    except: Vec<(Option<Glob>, Glob)>,
    source: Option<Arc<(String, String)>>,
}

#[derive(Clone, Debug)]
struct Column {
    name: Glob,
    class: Arc<str>,
}

const KEYS: &[&str] = &["kind", "metadata", "relations", "columns", "except"];

impl Catalog {
    /// The file that it was read from: its name and text. None of one that declares nothing.
    pub fn source(&self) -> Option<&(String, String)> {
        self.source.as_deref()
    }

    /// Reads a catalogue; all its problems at once.
    pub fn read(file: &str, text: &str) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader { file, problems: Vec::new() };
        let source = Some(Arc::new((file.to_owned(), text.to_owned())));
        let mut catalog = Self { source, ..Self::default() };
        match MarkedYaml::load_from_str(text) {
            Ok(documents) => documents.iter().for_each(|document| reader.document(document, &mut catalog)),
            Err(error) => {
                let at = error.marker();
                let message = format!("not YAML: {}", error.info());
                reader.problems.push(Problem {
                    file: file.to_owned(),
                    line: at.line(),
                    column: at.col() + 1,
                    message,
                });
            }
        }
        if reader.problems.is_empty() { Ok(catalog) } else { Err(reader.problems) }
    }

    /// The class of a column. `relations`: those that it may belong to.
    pub fn column<'a>(
        &self,
        relations: &(impl Iterator<Item = &'a str> + Clone),
        name: &str,
    ) -> Option<Arc<str>> {
        if self.excepts(relations, name) {
            return None;
        }
        for (glob, columns) in &self.relations {
            if relations.clone().any(|relation| of_relation(glob, relation))
                && let Some(column) = columns.iter().find(|column| column.name.matches(name))
            {
                return Some(Arc::clone(&column.class));
            }
        }
        let declared = self.columns.iter().find(|column| column.name.matches(name));
        declared.map(|column| Arc::clone(&column.class)).or_else(|| names::class(name).map(Arc::from))
    }

    /// True where the column was declared to have no class.
    pub(crate) fn excepts<'a>(
        &self,
        relations: &(impl Iterator<Item = &'a str> + Clone),
        name: &str,
    ) -> bool {
        let among = |glob: &Glob| relations.clone().any(|relation| of_relation(glob, relation));
        let excepted = |(relation, column): &(Option<Glob>, Glob)| {
            column.matches(name) && relation.as_ref().is_none_or(among)
        };
        self.except.iter().any(excepted)
    }

    /// The columns of a relation that were declared by their whole names: what `*` stands for.
    pub fn declared<'a>(&'a self, relation: &'a str) -> impl Iterator<Item = (&'a str, &'a Arc<str>)> {
        let own = self.relations.iter().filter(move |(glob, _)| of_relation(glob, relation));
        own.flat_map(|(_, columns)| columns.iter().map(|column| (column.name.pattern(), &column.class)))
    }
}

/// `users` is `users` of any schema.
fn of_relation(glob: &Glob, relation: &str) -> bool {
    glob.matches(relation)
        || !glob.pattern().contains('.') && relation.rsplit_once('.').is_some_and(|(_, own)| glob.matches(own))
        // `public.users` is meant where a text says `users`.
        || !relation.contains('.') && glob.pattern().rsplit_once('.').is_some_and(|(_, own)| Glob::new(own).matches(relation))
}

struct Reader<'a> {
    file: &'a str,
    problems: Vec<Problem>,
}

fn scalar(node: &MarkedYaml<'_>) -> Option<String> {
    match &node.data {
        YamlData::Value(Scalar::String(text)) if !text.trim().is_empty() => Some(text.to_string()),
        _ => None,
    }
}

impl Reader<'_> {
    fn problem(&mut self, node: &MarkedYaml<'_>, message: String) {
        let start = node.span.start;
        let file = self.file.to_owned();
        self.problems.push(Problem { file, line: start.line(), column: start.col() + 1, message });
    }

    fn document(&mut self, document: &MarkedYaml<'_>, catalog: &mut Catalog) {
        if matches!(document.data, YamlData::Value(Scalar::Null)) {
            return;
        }
        let YamlData::Mapping(fields) = &document.data else {
            return self.problem(document, format!("a catalogue is a mapping with {}", KEYS.join(", ")));
        };
        for (key, value) in fields {
            match scalar(key).unwrap_or_default().as_str() {
                "relations" => {
                    for (relation, columns) in self.mapping(value, "relations") {
                        let columns = self.columns(columns);
                        catalog.relations.push((Glob::new(&relation), columns));
                    }
                }
                "columns" => catalog.columns.extend(self.columns(value)),
                "except" => self.except(value, catalog),
                "kind" | "metadata" => {}
                other => {
                    let hint = match nearest(other, KEYS) {
                        Some(near) => format!("did you mean '{near}'?"),
                        None => format!("known: {}", KEYS.join(", ")),
                    };
                    self.problem(key, format!("a catalogue has no field '{other}'; {hint}"));
                }
            }
        }
    }

    fn mapping<'y>(&mut self, node: &'y MarkedYaml<'y>, what: &str) -> Vec<(String, &'y MarkedYaml<'y>)> {
        let YamlData::Mapping(fields) = &node.data else {
            self.problem(node, format!("{what} must be a mapping"));
            return Vec::new();
        };
        let mut named = Vec::new();
        for (key, value) in fields {
            match scalar(key) {
                Some(name) => named.push((name, value)),
                None => self.problem(key, "a name must be a text that is not empty".into()),
            }
        }
        named
    }

    fn columns<'y>(&mut self, node: &'y MarkedYaml<'y>) -> Vec<Column> {
        let mut columns = Vec::new();
        for (name, class) in self.mapping(node, "columns") {
            match scalar(class) {
                Some(class) => columns.push(Column { name: Glob::new(&name), class: class.into() }),
                None => self
                    .problem(class, format!("the class of '{name}' must be a text, such as email or card")),
            }
        }
        columns
    }

    fn except(&mut self, node: &MarkedYaml<'_>, catalog: &mut Catalog) {
        let YamlData::Sequence(items) = &node.data else {
            return self.problem(node, "except must be a list of columns".into());
        };
        for item in items {
            let Some(name) = scalar(item) else {
                self.problem(item, "a column must be a text that is not empty".into());
                continue;
            };
            catalog.except.push(match name.rsplit_once('.') {
                Some((relation, column)) => (Some(Glob::new(relation)), Glob::new(column)),
                None => (None, Glob::new(&name)),
            });
        }
    }
}
