//! Segments of capture files -> flows: one for each pair of ends, until it closes or its ports are used again.

use std::collections::HashMap;
use std::path::Path;

use agent_core::event::{CaptureSource, EventKind};
use agent_core::protocol::of_port;
use agent_core::segment::{Endpoint, Nanos, Segment, Side};
use hashbrown::HashMap as FastMap;

use crate::capture::pcap::{Capture, Counters, Error};

use super::{Flow, Nobody, Pipeline};

/// Files are often slightly out of order: acknowledged bytes may still turn up this much later, in nanoseconds.
const PATIENCE: u64 = 200_000_000;
/// Most connections open at a time; beyond it the one that was silent for longest is given up.
const OPEN_MAX: usize = 1 << 20;

/// Reads capture files through the pipeline.
pub struct Files {
    flows: FastMap<[Endpoint; 2], (Flow, Nanos)>,
    ports: HashMap<u16, &'static str>,
    next: u64,
    last: Nanos,
}

impl Files {
    /// `ports`: what server ports speak, where that is known.
    pub fn new(ports: HashMap<u16, &'static str>) -> Self {
        Self { flows: FastMap::new(), ports, next: 1, last: Nanos(0) }
    }

    /// Reads one file; connections may go on in the next one. `each` is called now and then.
    pub fn read(
        &mut self,
        path: &Path,
        pipeline: &mut Pipeline,
        mut each: impl FnMut(),
    ) -> Result<Counters, Error> {
        let mut capture = Capture::open(path)?;
        let mut count = 0u32;
        let done = capture.for_each(|flow, segment| {
            self.segment(flow.ends, segment, pipeline);
            count = count.wrapping_add(1);
            if count.is_multiple_of(1024) {
                each();
            }
        });
        let counters = capture.counters;
        self.report(&counters, pipeline);
        done.map(|()| counters)
    }

    fn segment(&mut self, ends: [Endpoint; 2], segment: &Segment<'_>, pipeline: &mut Pipeline) {
        self.last = segment.time;
        let reopened = match self.flows.get_mut(&ends) {
            Some((flow, seen)) if !flow.core().is_reopened_by(segment) => {
                *seen = segment.time;
                if flow.segment(segment, pipeline, &mut Nobody).encrypted {
                    tell_encrypted(&self.ports, ends, flow, segment.time, pipeline);
                }
                return;
            }
            known => known.is_some(),
        };
        if reopened && let Some((mut old, _)) = self.flows.remove(&ends) {
            old.close(segment.time, pipeline, &mut Nobody);
        }
        if self.flows.len() >= OPEN_MAX {
            self.give_up_oldest(pipeline);
        }
        let hint = ends.iter().find_map(|end| self.ports.get(&end.port)).copied();
        let begins = segment.flags.syn;
        let mut flow =
            Flow::new(self.next, super::Ends::Tcp(ends), CaptureSource::Pcap, begins, hint, PATIENCE);
        self.next += 1;
        flow.segment(segment, pipeline, &mut Nobody);
        self.flows.insert(ends, (flow, segment.time));
    }

    /// Half of what is open goes, the longest silent first: one pass for many.
    fn give_up_oldest(&mut self, pipeline: &mut Pipeline) {
        let mut times: Vec<Nanos> = self.flows.values().map(|(_, seen)| *seen).collect();
        let middle = times.len() / 2;
        let (_, &mut limit, _) = times.select_nth_unstable(middle);
        let last = self.last;
        self.flows.retain(|_, (flow, seen)| {
            let keep = *seen > limit;
            if !keep {
                flow.close(last, pipeline, &mut Nobody);
            }
            keep
        });
    }

    /// All files are read: hands out what waits for an answer.
    pub fn finish(&mut self, pipeline: &mut Pipeline) {
        let mut left: Vec<_> = self.flows.drain().map(|(_, (flow, seen))| (seen, flow)).collect();
        left.sort_by_key(|(seen, _)| *seen);
        for (_, mut flow) in left {
            flow.close(self.last, pipeline, &mut Nobody);
        }
    }

    /// What the file did not hold, or held in a way that is not read, becomes events.
    fn report(&self, counters: &Counters, pipeline: &mut Pipeline) {
        let causes = [
            ("ip_fragment", counters.fragments),
            ("malformed", counters.malformed),
            ("snap_length", counters.truncated),
            ("file_cut", counters.unfinished),
        ];
        for (reason, packets) in causes {
            if packets > 0 {
                pipeline.note(EventKind::Loss, self.last, |event| {
                    event.error_type = reason.into();
                    event.statement_complete = false;
                });
            }
        }
    }
}

/// A connection that carried TLS when the file began: told where its port is that of a database.
fn tell_encrypted(
    ports: &HashMap<u16, &'static str>,
    ends: [Endpoint; 2],
    flow: &mut Flow,
    time: Nanos,
    pipeline: &mut Pipeline,
) {
    let of = |port| ports.get(&port).copied().or_else(|| of_port(port));
    let server = [Side::A, Side::B].into_iter().find_map(|side| Some((side, of(ends[side.index()].port)?)));
    if let Some((server, protocol)) = server {
        flow.suppose(protocol, server.other(), &mut Nobody);
        flow.tell_blind(time, "tls", pipeline);
    }
}
