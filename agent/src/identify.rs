//! Sockets -> processes, containers: who is at the client end.

pub mod container; // cgroup path -> container
pub mod netlink; // questions to the kernel's table of sockets
mod proc; // /proc/PID -> what a living process is
pub mod process; // lifecycle records -> every process, also exited ones
mod redact; // arguments -> one line without secrets
pub mod resolver;
pub mod sockets; // sockets -> the processes that hold them
mod users; // uid -> name // connection -> who

pub use process::{Exec, ProcessTable};
pub use redact::command_line as redact_command_line;
pub use resolver::{Resolver, Tapped};
