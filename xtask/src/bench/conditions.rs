//! This machine -> what a number hangs on: processors, memory, kernel, how busy it was.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::{postgres, shell};

/// What all processors have done from some moment on.
pub(super) struct Processors(Times);

/// Ticks of `/proc/stat`, a hundredth of a second each.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    busy: u64,
    stolen: u64,
    all: u64,
}

impl Processors {
    /// From now on.
    pub(super) fn begin() -> Self {
        Self(times(&fs::read_to_string("/proc/stat").unwrap_or_default()))
    }

    /// Time that this virtual machine wanted since then and did not get, in percent of all there was.
    pub(super) fn stolen_percent(&self) -> f64 {
        let Self(now) = Self::begin();
        let (stolen, all) = (now.stolen - self.0.stolen, now.all - self.0.all);
        if all == 0 { 0.0 } else { 100.0 * stolen as f64 / all as f64 }
    }

    /// Time in which something ran since then, of whatever process and of the kernel, in microseconds.
    pub(super) fn busy_us(&self) -> f64 {
        (Self::begin().0.busy - self.0.busy) as f64 * 10_000.0
    }
}

/// Reads the first line: user, nice, system, idle, iowait, irq, softirq, steal.
fn times(stat: &str) -> Times {
    let mut words = stat.split_whitespace().skip(1).map_while(|ticks| ticks.parse::<u64>().ok());
    let [user, nice, system, idle, waiting, irq, softirq, stolen] =
        std::array::from_fn(|_| words.next().unwrap_or_default());
    let busy = user + nice + system + irq + softirq;
    Times { busy, stolen, all: busy + idle + waiting + stolen }
}

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

#[cfg(test)]
mod tests {
    #[test]
    fn reads_what_the_processors_did() {
        let stat = "cpu  100 1 20 300 4 5 6 70 8 9\ncpu0 50 0 10 150 2 2 3 35 4 4\n";
        assert_eq!(super::times(stat), super::Times { busy: 132, stolen: 70, all: 506 });
        assert_eq!(super::times(""), super::Times { busy: 0, stolen: 0, all: 0 });
    }
}
