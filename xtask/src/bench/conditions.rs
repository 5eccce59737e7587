//! This machine -> what a number hangs on: processors, memory, kernel, how busy it was.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::{postgres, shell};

/// As of now.
pub(super) fn now() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name")?.split_once(": "))
        .map_or("", |(_, m)| m)
        .to_owned();
    let memory = read("/proc/meminfo");
    let kilobytes: u64 = memory
        .lines()
        .find_map(|l| l.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or_default();
    let postgres = postgres::directory().and_then(|d| postgres::version(&d)).unwrap_or_default();
    json!({
        "processors": std::thread::available_parallelism().map_or(1, usize::from),
        "model": model,
        "memory_gib": kilobytes >> 20,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_before": read("/proc/loadavg").split(' ').next().and_then(|l| l.parse::<f64>().ok()),
        "postgresql": postgres,
        "rustc": shell::output(Command::new("rustc").arg("--version")).unwrap_or_default(),
    })
}

/// The same for a person.
pub(super) fn sentence(conditions: &Value) -> String {
    let word =
        |key: &str| conditions[key].as_str().map_or_else(|| conditions[key].to_string(), str::to_owned);
    format!(
        "{} x {}, {} GiB, Linux {}, PostgreSQL {}, {}; load before {}",
        word("processors"),
        word("model"),
        word("memory_gib"),
        word("kernel"),
        word("postgresql"),
        word("rustc"),
        word("load_before")
    )
}
