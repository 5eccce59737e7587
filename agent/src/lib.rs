//! The host agent as a library: capture, identify, act, store and show around the pure `agent-core`.

pub mod capture; // kernel or file -> segments and lifecycles
pub mod identify; // process, container -> identity
pub mod pipeline; // the only place where the stages meet
pub mod gate; // verdict -> act
pub mod store; // events -> ClickHouse
pub mod audit; // receipts -> whole, or what is wrong
pub mod show; // events -> terminal
pub mod rules; // policy files -> rules in force
pub mod privileges; // root -> the capabilities that are needed
pub mod config; // one YAML file -> one documented struct
pub mod command; // the command line
