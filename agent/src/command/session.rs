//! What `run` and `tap` share: a live capture from attach, over `ready`, to a clean end.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

use crate::capture::live::{Live, Plaintext};
use crate::capture::tls::Search;
use crate::gate::Gate;
use crate::pipeline::Pipeline;
use crate::pipeline::live::Driver;
use crate::pipeline::unix::Want;

/// Set once SIGINT or SIGTERM came. A second signal ends the process at once, by default action.
pub fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The order matters: the first signal must find the flag unset.
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .context("cannot handle signals")?;
    }
    Ok(flag)
}

/// This host's name.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".into(), |s| s.trim().into())
}

/// What is tapped besides TCP connections that speak for themselves.
#[derive(Default)]
pub struct Taps {
    /// What a server port speaks.
    pub ports: HashMap<u16, &'static str>,
    /// Unix sockets.
    pub unix: Want,
    /// Plaintext of TLS.
    pub tls: bool,
}

/// Attaches, prints `ready`, hands records to the pipeline until a signal comes or `each` returns false.
pub fn capture(
    ring_bytes: u32,
    taps: Taps,
    mut gate: Option<Gate>,
    pipeline: &mut Pipeline,
    stop: &AtomicBool,
    mut each: impl FnMut(&mut Pipeline) -> bool,
) -> anyhow::Result<()> {
    crate::privileges::hurry();
    crate::privileges::keep(&crate::privileges::CAPTURE).context("cannot drop privileges")?;
    crate::privileges::no_dumps().context("cannot forbid core dumps")?;
    crate::identify::redact::prepare();
    let held = gate.as_ref().map(|gate| &gate.settings).filter(|settings| settings.tls && taps.tls);
    let servers: Vec<_> =
        held.map(|s| s.remote.iter().map(|(server, _)| *server).collect()).unwrap_or_default();
    let (records, mut live) = Live::attach(ring_bytes, &servers)?;
    let (search, plaintext) = if taps.tls { search(&mut live) } else { (None, None) };
    if let Some(gate) = &mut gate {
        gate.settings.plaintext = plaintext.map(Arc::new);
    }
    let mut driver = Driver::new((records, live), gate, taps.ports, taps.unix, search);
    driver.look_after_unix(true, pipeline);
    driver.look_after_gate(pipeline);
    if !each(pipeline) {
        return Ok(());
    }
    eprintln!("ready");
    driver.run(pipeline, |pipeline| each(pipeline) && !stop.load(Ordering::Relaxed));
    Ok(())
}

/// Begins to look for TLS libraries. Without their plaintext everything else still works, and what is blind is told.
fn search(live: &mut Live) -> (Option<Search>, Option<Plaintext>) {
    let begun = live.load_tls().map_err(anyhow::Error::from).and_then(|(programs, plaintext)| {
        let search = Search::start(programs).context("cannot look for TLS libraries")?;
        Ok((Some(search), plaintext))
    });
    begun.inspect_err(|error| tracing::warn!(%error, "plaintext of TLS is not read")).unwrap_or_default()
}
