//! The host agent as a library: capture, identify, act, store and show around the pure `agent-core`.

pub mod capture; // kernel or file -> segments and lifecycles
pub mod identify; // process, container -> identity
pub mod pipeline; // the only place where the stages meet
pub mod gate; // verdict -> act
pub mod approve; // what is held -> somebody who decides
pub mod serve; // connections -> HTTP requests -> answers
pub mod store; // events -> ClickHouse
pub mod audit; // receipts -> whole, or what is wrong
pub mod signals; // judged events -> somebody's attention
pub mod show; // events -> terminal
pub mod metrics; // what happens -> numbers for Prometheus
pub mod rules; // policy files -> rules in force
pub mod habits; // what was seen before <-> a file
pub mod privileges; // root -> the capabilities that are needed
pub mod config; // one YAML file -> one documented struct
pub mod command; // the command line
