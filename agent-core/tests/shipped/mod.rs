//! The folder of shipped policies -> rules in force, for the tests that judge by them.

use agent_core::policy::{Policies, Source};

/// All of them; panics with every mistake where there is one.
pub(crate) fn shipped() -> Policies {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/policies");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let texts: Vec<(String, String)> =
        files.iter().map(|f| (f.display().to_string(), std::fs::read_to_string(f).unwrap())).collect();
    let sources: Vec<Source<'_>> = texts.iter().map(|(file, text)| Source { file, text }).collect();
    Policies::load(&sources).unwrap_or_else(|problems| panic!("{problems:#?}"))
}
