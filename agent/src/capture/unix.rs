//! The two programs on Unix sockets: attached while such sockets are wanted, gone when they are not.

use aya::Btf;
use aya::programs::BtfTracePoint;

use super::live::{CaptureError, Live, typed};

/// Program and tracepoint.
const PROGRAMS: [(&str, &str); 2] =
    [("weir_unix_received", "sock_recv_length"), ("weir_unix_sent", "sock_send_length")];

/// What the programs must know of this kernel; `offset` asks for that of a field in a structure.
pub(super) fn globals(offset: impl Fn(&str, &str) -> u32) -> Vec<(&'static str, u32)> {
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let mut globals = vec![
        ("SOCK_FAMILY", offset("sock_common", "skc_family")),
        ("SOCK_TYPE", offset("sock", "sk_type")),
        ("UNIX_PEER", offset("unix_sock", "peer")),
        ("UNIX_ADDR", offset("unix_sock", "addr")),
        ("CALL_WRITE", number(libc::SYS_write)),
        ("CALL_SENDTO", number(libc::SYS_sendto)),
        ("CALL_WRITEV", number(libc::SYS_writev)),
        ("CALL_SENDMSG", number(libc::SYS_sendmsg)),
    ];
    // Saved registers by architecture: the system call's number, its second and third argument.
    if cfg!(target_arch = "aarch64") {
        let first = offset("user_pt_regs", "regs");
        globals.extend([
            ("REGS_NUMBER", offset("pt_regs", "syscallno")),
            ("REGS_SECOND", first + 8),
            ("REGS_THIRD", first + 16),
        ]);
    } else {
        globals.extend([
            ("REGS_NUMBER", offset("pt_regs", "orig_ax")),
            ("REGS_SECOND", offset("pt_regs", "si")),
            ("REGS_THIRD", offset("pt_regs", "dx")),
        ]);
    }
    globals
}

impl Live {
    /// Attaches them. Receives first: an answer that is seen must say what it has read.
    pub fn attach_unix(&mut self) -> Result<(), CaptureError> {
        let btf = Btf::from_sys_fs().map_err(|error| CaptureError::Load(error.into()))?;
        for (name, tracepoint) in PROGRAMS {
            let program: &mut BtfTracePoint = typed(&mut self.ebpf, name)?;
            let refused = |source| CaptureError::Program { name, source: Box::new(source) };
            if program.fd().is_err() {
                program.load(tracepoint, &btf).map_err(refused)?;
            }
            program.attach().map_err(refused)?;
        }
        Ok(())
    }

    /// Detaches them: sockets cost nothing again.
    pub fn detach_unix(&mut self) -> Result<(), CaptureError> {
        for (name, _) in PROGRAMS {
            let program: &mut BtfTracePoint = typed(&mut self.ebpf, name)?;
            program.unload().map_err(|source| CaptureError::Program { name, source: Box::new(source) })?;
        }
        Ok(())
    }
}
