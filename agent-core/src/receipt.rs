//! Event -> canonical bytes -> hash chain; verifies one. No I/O: the agent brings the events.
