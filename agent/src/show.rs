//! Events -> terminal.
