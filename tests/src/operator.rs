//! The operator's commands against a running agent, and the processes that it has.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use xtask::weir::{self, Weir};

/// The agent's shim.
pub fn shim_of(agent: &Weir) -> Result<i32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid()))?;
    for pid in children.split_whitespace() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.split(|b| *b == 0).nth(1) == Some(&b"shim"[..]) {
            return Ok(pid.parse()?);
        }
    }
    anyhow::bail!("the agent has no shim")
}

/// Runs a command of weir against the agent's control socket; its status and all that it said.
pub fn operator(agent: &Weir, arguments: &[&str]) -> Result<(bool, String)> {
    let mut weir = Command::new(weir::binary()?);
    weir.args(arguments).arg("--socket").arg(agent.home().join("weir.sock"));
    let out = weir.output()?;
    Ok((out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned()))
}

/// Waits until one statement is held, and gives its id.
pub fn pending(agent: &Weir) -> Result<String> {
    for _ in 0..600 {
        let (_, said) = operator(agent, &["pending", "--format", "jsonl"])?;
        if let Some(line) = said.lines().find(|line| line.starts_with('{')) {
            let value: serde_json::Value = serde_json::from_str(line)?;
            let id = value["id"].as_str().or(value["approval_id"].as_str());
            return Ok(id.context(said.clone())?.to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    anyhow::bail!("nothing is held: {}", agent.said())
}
