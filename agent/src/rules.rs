//! A directory of policy files -> the rules in force, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use agent_core::policy::{Policies, Problem, Source, documents};

/// Why the rules cannot be used: all that is wrong, one problem a line.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// A file or directory cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The files say what means nothing.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problem>),
}

/// All `.yaml` and `.yml` files under the given files and directories, sorted; a path that is a file is taken as it is.
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, RulesError> {
    let mut found = Vec::new();
    let mut todo = paths.to_vec();
    while let Some(path) = todo.pop() {
        let read = |source| RulesError::Read { path: path.clone(), source };
        if std::fs::metadata(&path).map_err(read)?.is_dir() {
            for entry in std::fs::read_dir(&path).map_err(read)? {
                let inner = entry.map_err(read)?.path();
                // Kubernetes mounts a ConfigMap through `..data`, a link to a hidden directory.
                let hidden = inner.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
                let yaml = inner.extension().is_some_and(|e| e == "yaml" || e == "yml");
                if !hidden && (yaml || inner.is_dir()) {
                    todo.push(inner);
                }
            }
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads and compiles policy files.
pub fn load(paths: &[PathBuf]) -> Result<Policies, RulesError> {
    compile(&texts(paths)?)
}

/// Names and texts of policy files.
fn texts(paths: &[PathBuf]) -> Result<Vec<(String, String)>, RulesError> {
    let mut texts = Vec::new();
    for path in files(paths)? {
        let text = std::fs::read_to_string(&path)
            .map_err(|source| RulesError::Read { path: path.clone(), source })?;
        texts.push((path.display().to_string(), text));
    }
    Ok(texts)
}

fn compile(texts: &[(String, String)]) -> Result<Policies, RulesError> {
    let sources: Vec<_> = texts.iter().map(|(file, text)| Source { file, text }).collect();
    Policies::load(&sources).map_err(RulesError::Wrong)
}

/// A rule in force as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// `policy_rule` of its events.
    pub rule: String,
    /// `policy_version` of its events.
    pub version: String,
    /// The document.
    pub text: String,
    /// The file that it stands in.
    pub file: String,
}

/// The rules in force and where they come from.
pub struct Rules {
    directory: PathBuf,
    canary: bool,
    policies: Arc<Policies>,
    texts: Vec<RuleText>,
    seen: Vec<(PathBuf, Option<SystemTime>, u64)>,
}

impl Rules {
    /// Reads the directory; one that is missing holds no rules. `canary`: see [`Policies::with_canary`].
    pub fn load(directory: &Path, canary: bool) -> Result<Self, RulesError> {
        let mut rules = Self {
            directory: directory.into(),
            canary,
            policies: Arc::default(),
            texts: Vec::new(),
            seen: Vec::new(),
        };
        rules.seen = rules.look();
        (rules.policies, rules.texts) = rules.read()?;
        Ok(rules)
    }

    /// The rules in force.
    pub fn policies(&self) -> Arc<Policies> {
        Arc::clone(&self.policies)
    }

    /// The same as they were written.
    pub fn texts(&self) -> &[RuleText] {
        &self.texts
    }

    fn read(&self) -> Result<(Arc<Policies>, Vec<RuleText>), RulesError> {
        if !self.directory.exists() {
            return Ok((Arc::default(), Vec::new()));
        }
        let files = texts(std::slice::from_ref(&self.directory))?;
        let policies = compile(&files)?.with_canary(self.canary);
        let mut written = Vec::new();
        for (file, text) in &files {
            for (version, text) in documents(text) {
                if let Some(policy) = policies.iter().find(|policy| policy.version == version) {
                    let (rule, version) = (policy.name.to_string(), version.to_string());
                    written.push(RuleText { rule, version, text, file: file.clone() });
                }
            }
        }
        Ok((Arc::new(policies), written))
    }

    /// Names, times and sizes: what tells that something changed.
    fn look(&self) -> Vec<(PathBuf, Option<SystemTime>, u64)> {
        let found = files(std::slice::from_ref(&self.directory)).unwrap_or_default();
        let stat = |path: PathBuf| {
            let meta = std::fs::metadata(&path).ok();
            let modified = meta.as_ref().and_then(|m| m.modified().ok());
            (path, modified, meta.map_or(0, |m| m.len()))
        };
        found.into_iter().map(stat).collect()
    }

    /// Reads the directory again where it changed. `Some(Err)`: the new rules are refused, the old ones stay in force.
    pub fn changed(&mut self) -> Option<Result<(), RulesError>> {
        let now = self.look();
        if now == self.seen {
            return None;
        }
        self.seen = now;
        Some(self.read().map(|(policies, texts)| {
            self.policies = policies;
            self.texts = texts;
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "kind: DatabasePolicy\nmetadata: {name: a}\nspec:\n  mode: monitor\n  match: {statement: {effects: [drop]}}\n  action: alert\n";

    #[test]
    fn rules_follow_their_files_and_outlive_broken_ones() {
        let dir = tempfile::tempdir().unwrap();
        let mut rules = Rules::load(dir.path(), false).unwrap();
        assert!(rules.policies().is_empty() && rules.changed().is_none());
        std::fs::write(dir.path().join("a.yaml"), ONE).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "not: a policy").unwrap();
        assert!(rules.changed().unwrap().is_ok());
        assert_eq!(rules.policies().len(), 1);
        let [text] = rules.texts() else { panic!("one text") };
        let policies = rules.policies();
        let policy = policies.iter().next().unwrap();
        assert_eq!((text.rule.as_str(), text.version.as_str()), ("a", &*policy.version));
        assert_eq!((text.text.as_str(), text.file.ends_with("a.yaml")), (ONE.trim(), true));
        std::fs::write(dir.path().join("a.yaml"), "kind: DatabasePolice\n").unwrap();
        let error = rules.changed().unwrap().unwrap_err().to_string();
        assert!(error.contains("a.yaml"), "{error}");
        assert_eq!(rules.policies().len(), 1, "the old rule stays in force");
        assert_eq!(rules.texts().len(), 1);
        assert!(rules.changed().is_none(), "a refusal is said once");
    }

    #[test]
    fn a_missing_directory_holds_no_rules() {
        assert!(Rules::load(Path::new("/nonexistent/weir"), false).unwrap().policies().is_empty());
    }
}
