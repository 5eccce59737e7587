//! What the developer commands and the end-to-end tests share: a machine made ready, servers that go when asked to.

pub mod bench;
pub mod build; // sources -> the binary
pub mod clickhouse; // a query -> rows, over HTTP
pub mod demo; // README command 1
pub mod image; // sources -> container image
pub mod postgres; // settings -> a PostgreSQL server of our own
pub mod scratch; // temporary directories, and what was left behind
pub mod setup; // a bare machine -> one that builds and tests weir
pub mod shell; // programs, run and awaited
pub mod terminal; // steps of work -> progress lines
pub mod test; // README command 2
pub mod weir; // arguments -> a running agent // the numbers, each against its peer
