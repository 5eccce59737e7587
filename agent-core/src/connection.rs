//! One TCP connection: segments of both directions -> detection -> protocol -> sink.

use crate::protocol::Sink;
use crate::segment::{Nanos, Segment};
use crate::sql::Texts;

/// Both directions of one connection, from its first segment to its end.
pub struct Connection {
    _private: (),
}

impl Connection {
    /// `begins`: the connection's first byte will be seen. `hint`: the protocol that the port promises.
    pub fn new(begins: bool, hint: Option<&'static str>) -> Self {
        let _ = (begins, hint);
        Self { _private: () }
    }

    /// Takes the next captured piece, in capture order.
    pub fn segment(&mut self, segment: &Segment<'_>, texts: &mut Texts, sink: &mut dyn Sink) {
        let _ = (segment, texts, sink);
    }

    /// Which side is the client, once it is known.
    pub fn client(&self) -> Option<crate::segment::Side> {
        None
    }

    /// The connection is gone (closed, reset, idle for too long): hands out what is pending.
    pub fn close(&mut self, time: Nanos, texts: &mut Texts, sink: &mut dyn Sink) {
        let _ = (time, texts, sink);
    }
}
