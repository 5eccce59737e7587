//! Sockets -> processes, containers: who is at the client end.

mod proc; // /proc/PID -> what a living process is
pub(crate) mod redact; // arguments -> one line without secrets
mod users; // uid -> name
pub mod container; // cgroup path -> container
pub mod cgroup; // cgroup id -> container
pub mod process; // lifecycle records -> every process, also exited ones
pub mod netlink; // questions to the kernel's table of sockets
pub mod sockets; // sockets -> the processes that hold them
pub mod resolver; // connection -> who

pub use process::{Exec, ProcessTable};
pub use redact::command_line as redact_command_line;
pub use resolver::{Resolver, Tapped};
