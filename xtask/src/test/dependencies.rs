//! deny.toml -> licences, sources and bans of every crate that weir is built from. cargo-deny reads the same file;
//! where it is installed it does the work.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::{Filter, Tally};
use crate::shell;

pub(super) fn run(_: &Filter, tally: &mut Tally) {
    if let Err(error) = check_all(tally) {
        tally.fail("dependencies", &format!("{error:#}"));
    }
}

fn check_all(tally: &mut Tally) -> Result<()> {
    if shell::succeeds(Command::new("cargo").args(["deny", "--version"])) {
        tally.check("cargo deny", || {
            shell::output(shell::cargo().args(["deny", "check", "bans", "licenses", "sources"])).map(|_| ())
        });
        return Ok(());
    }
    let rules: toml::Table = fs::read_to_string(shell::root().join("deny.toml"))?.parse()?;
    let metadata = shell::output(shell::cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    tally.check("licences", || {
        let allowed = words(&rules, "licenses", "allow");
        check(packages, |p| {
            let licence = p["license"].as_str().unwrap_or("");
            (!permits(licence, &allowed))
                .then(|| format!("licence {licence:?} is not among the allowed ones"))
        })
    });
    tally.check("sources", || {
        let allowed = words(&rules, "sources", "allow-registry");
        check(packages, |p| {
            let source = p["source"].as_str()?;
            (!allowed.iter().any(|a| source == format!("registry+{a}")))
                .then(|| format!("comes from {source}"))
        })
    });
    tally.check("bans", || {
        let banned = rules
            .get("bans")
            .and_then(|b| b.get("deny"))
            .and_then(|d| d.as_array())
            .cloned()
            .unwrap_or_default();
        check(packages, |p| {
            let name = p["name"].as_str()?;
            let rule = banned.iter().find(|b| b.get("crate").and_then(|c| c.as_str()) == Some(name))?;
            let wrappers = rule.get("wrappers").and_then(|w| w.as_array());
            let may_have = |user: &str| wrappers.into_iter().flatten().any(|w| w.as_str() == Some(user));
            if wrappers.is_some() && users(&metadata, &p["id"]).iter().all(|user| may_have(user)) {
                return None;
            }
            Some(format!(
                "is banned: {}",
                rule.get("reason").and_then(|r| r.as_str()).unwrap_or("see deny.toml")
            ))
        })
    });
    Ok(())
}

/// The names of the packages that depend on one.
fn users<'a>(metadata: &'a Value, id: &Value) -> Vec<&'a str> {
    let nodes = metadata["resolve"]["nodes"].as_array().into_iter().flatten();
    let with = nodes.filter(|node| node["dependencies"].as_array().into_iter().flatten().any(|on| on == id));
    let ids: Vec<&Value> = with.map(|node| &node["id"]).collect();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter(|p| ids.contains(&&p["id"])).filter_map(|p| p["name"].as_str()).collect()
}

fn check(packages: &[Value], wrong: impl Fn(&Value) -> Option<String>) -> Result<()> {
    let found =
        packages.iter().filter_map(|p| Some(format!("{} {}: {}", p["name"], p["version"], wrong(p)?)));
    let found: Vec<String> = found.collect();
    if found.is_empty() { Ok(()) } else { bail!("{}", found.join("\n")) }
}

fn words(rules: &toml::Table, section: &str, key: &str) -> Vec<String> {
    let list = rules.get(section).and_then(|s| s.get(key)).and_then(|a| a.as_array());
    list.into_iter().flatten().filter_map(|w| w.as_str().map(str::to_owned)).collect()
}

/// True where an SPDX expression can be met with the allowed licences. `WITH` belongs to its licence; `/` is the
/// old spelling of `OR`.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    either(&tokens, &mut at, allowed) && at == tokens.len()
}

fn either(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = both(tokens, at, allowed);
    while tokens.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(tokens, at, allowed);
    }
    met
}

fn both(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(tokens, at, allowed);
    while tokens.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(tokens, at, allowed);
    }
    met
}

fn one(tokens: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(token) = tokens.get(*at) else { return false };
    *at += 1;
    if *token == "(" {
        let met = either(tokens, at, allowed);
        *at += 1;
        return met;
    }
    let mut licence = (*token).to_owned();
    if tokens.get(*at) == Some(&"WITH") {
        licence = format!("{licence} WITH {}", tokens.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&licence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_licence_expressions() {
        let allowed =
            ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"].map(str::to_owned);
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(permits(good, &allowed), "{good}");
        }
        for bad in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR GPL-3.0) AND GPL-2.0", "GPL-2.0 WITH LLVM-exception"]
        {
            assert!(!permits(bad, &allowed), "{bad}");
        }
    }
}
