//! Events -> ClickHouse, through a spool when it is away.
