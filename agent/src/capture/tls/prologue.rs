//! A function's first instructions -> where a probe on it is cheap.
//!
//! A probe is a breakpoint. The instruction under it must run all the same: the kernel emulates a few (`push`, direct
//! jumps and calls), every other is single-stepped, which costs about ten times as much. A probe on the return
//! replaces the return address, so it must sit where that lies on top of the stack.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register};

/// Where to probe a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Here, at this address: the arguments are in their registers, the return address is on top of the stack, and
    /// the instruction is emulated.
    At(u64),
    /// On the function of this address, to which the first one passes its session, buffer and length on, and a
    /// pointer to its own count as the last of these (3: the fourth argument); probed at the second.
    Callee(u64, u64, usize),
    /// Nowhere cheap: at its first instruction.
    Entry,
}

/// Instructions that are looked at on each path.
const LOOK: usize = 40;

/// Finds the place for the function at `address`. `code`: bytes from an address on, to the end of what is mapped.
pub fn place<'a>(address: u64, code: &impl Fn(u64) -> Option<&'a [u8]>) -> Place {
    if let Some(at) = direct(address, code) {
        return Place::At(at);
    }
    walk(address, code, Registers::default(), LOOK).unwrap_or(Place::Entry)
}

/// The first emulated instruction before anything has moved: behind `endbr64` and what changes no argument.
fn direct<'a>(address: u64, code: &impl Fn(u64) -> Option<&'a [u8]>) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code(address)?, address, DecoderOptions::NONE);
    for _ in 0..8 {
        let instruction = decoder.decode();
        match instruction.code() {
            Code::Push_r64 | Code::Jmp_rel32_64 | Code::Jmp_rel8_64 => return Some(instruction.ip()),
            Code::Endbr64 => {}
            // Scratch registers that carry none of the first three arguments.
            Code::Xor_r32_rm32 | Code::Xor_rm32_r32 | Code::Mov_r64_rm64 | Code::Mov_rm64_r64
                if instruction.op0_kind() == OpKind::Register
                    && matches!(
                        instruction.op0_register().full_register(),
                        Register::RAX | Register::R8 | Register::R9 | Register::R10 | Register::R11
                    ) => {}
            // The fourth argument is of use to those with a count only, which take nothing but the first row.
            Code::Xor_r32_rm32 | Code::Xor_rm32_r32 if instruction.op0_register() == Register::ECX => {}
            _ => return None,
        }
    }
    None
}

/// What a path knows of the argument registers.
#[derive(Clone, Copy)]
struct Registers {
    session: bool,
    buffer: bool,
    length: bool,
    /// The fourth and the fifth argument: do they point into the function's own frame?
    frame: [bool; 2],
}

impl Default for Registers {
    fn default() -> Self {
        Self { session: true, buffer: true, length: true, frame: [false; 2] }
    }
}

/// Follows a wrapper to the call that does its work.
fn walk<'a>(
    address: u64,
    code: &impl Fn(u64) -> Option<&'a [u8]>,
    mut known: Registers,
    look: usize,
) -> Option<Place> {
    let mut decoder = Decoder::with_ip(64, code(address)?, address, DecoderOptions::NONE);
    for looked in 0..look {
        let instruction = decoder.decode();
        match instruction.flow_control() {
            FlowControl::Next => known.follow(&instruction),
            FlowControl::ConditionalBranch => {
                let (next, far) = (instruction.next_ip(), instruction.near_branch_target());
                let left = look - looked - 1;
                return walk(next, code, known, left).or_else(|| walk(far, code, known, left / 2));
            }
            FlowControl::UnconditionalBranch if instruction.near_branch_target() != 0 => {
                return walk(instruction.near_branch_target(), code, known, look - looked - 1);
            }
            FlowControl::Call if instruction.code() == Code::Call_rel32_64 => {
                let callee = instruction.near_branch_target();
                let argument = known.frame.iter().position(|&frame| frame)? + 3;
                let whole = known.session && known.buffer && known.length;
                let at = direct(callee, code).filter(|_| whole)?;
                return (at == behind_endbr(callee, code)?).then_some(Place::Callee(callee, at, argument));
            }
            _ => return None,
        }
    }
    None
}

/// Does the function at `address` call the one at `callee`, or end in it?
pub fn calls<'a>(address: u64, callee: u64, code: &impl Fn(u64) -> Option<&'a [u8]>) -> bool {
    let Some(bytes) = code(address) else { return false };
    let decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    decoder
        .into_iter()
        .take(LOOK)
        .take_while(|instruction| !matches!(instruction.flow_control(), FlowControl::Return))
        .any(|instruction| {
            matches!(instruction.code(), Code::Call_rel32_64 | Code::Jmp_rel32_64)
                && instruction.near_branch_target() == callee
        })
}

/// The function's first instruction that does something.
fn behind_endbr<'a>(address: u64, code: &impl Fn(u64) -> Option<&'a [u8]>) -> Option<u64> {
    let mut decoder = Decoder::with_ip(64, code(address)?, address, DecoderOptions::NONE);
    let first = decoder.decode();
    Some(if first.code() == Code::Endbr64 { first.next_ip() } else { first.ip() })
}

impl Registers {
    fn follow(&mut self, instruction: &Instruction) {
        let frame = match instruction.mnemonic() {
            Mnemonic::Lea => instruction.memory_base() == Register::RSP,
            Mnemonic::Mov => instruction.op1_register() == Register::RSP,
            _ => false,
        };
        // A comparison's first operand is only read.
        if matches!(instruction.mnemonic(), Mnemonic::Test | Mnemonic::Cmp | Mnemonic::Push)
            || instruction.op0_kind() != OpKind::Register
        {
            return;
        }
        match instruction.op0_register().full_register() {
            Register::RDI => self.session = false,
            Register::RSI => self.buffer = false,
            // The sign is extended: the length stays what it is.
            Register::RDX if instruction.mnemonic() == Mnemonic::Movsxd => {}
            Register::RDX => self.length = false,
            Register::RCX => self.frame[0] = frame,
            Register::R8 => self.frame[1] = frame,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(code: &[u8]) -> Place {
        place(0x1000, &|address| code.get(usize::try_from(address.checked_sub(0x1000)?).ok()?..))
    }

    #[test]
    fn a_push_behind_endbr64() {
        assert_eq!(find(b"\xf3\x0f\x1e\xfa\x41\x57\xc3"), Place::At(0x1004));
        assert_eq!(find(b"\x55\x48\x89\xe5\xc3"), Place::At(0x1000));
    }

    #[test]
    fn a_tail_call() {
        // xor r8d,r8d; xor ecx,ecx; jmp ..: gnutls_record_send of GnuTLS 3.7
        assert_eq!(find(b"\x45\x31\xc0\x31\xc9\xe9\x00\x10\x00\x00"), Place::At(0x1005));
    }

    #[test]
    fn the_function_behind_a_wrapper() {
        // SSL_read of OpenSSL 3.0: no push of its own, but its callee has one.
        let mut code = b"\x48\x83\xec\x18\x64\x48\x8b\x04\x25\x28\x00\x00\x00\x48\x89\x44\x24\x08\x31\xc0\
            \x85\xd2\x78\x2f\x48\x89\xe1\x48\x63\xd2\xe8\x1d\x00\x00\x00"
            .to_vec();
        code.resize(0x40, 0xcc);
        let mut good = code.clone();
        good.extend(b"\x41\x55\x41\x54\xc3");
        assert_eq!(find(&good), Place::Callee(0x1040, 0x1040, 3));
        // The count as the fifth argument (OpenSSL 3.3's writes): lea r8,[rsp]; xor ecx,ecx.
        let fifth = b"\x48\x83\xec\x18\x4c\x8d\x04\x24\x31\xc9\x48\x63\xd2\xe8\x2e\x00\x00\x00";
        let mut other = fifth.to_vec();
        other.resize(0x40, 0xcc);
        other.extend(b"\x55\xc3");
        assert_eq!(find(&other), Place::Callee(0x1040, 0x1040, 4));
        // A callee that starts with something else, and a wrapper that changes the buffer.
        let mut bad = code.clone();
        bad.extend(b"\x48\x83\xec\x18\xc3");
        assert_eq!(find(&bad), Place::Entry);
        let mut moved = good.clone();
        moved[0x18..0x1b].copy_from_slice(b"\x48\x89\xe6"); // mov rsi,rsp
        assert_eq!(find(&moved), Place::Entry);
    }

    #[test]
    fn garbage_is_probed_at_its_entry() {
        assert_eq!(find(b""), Place::Entry);
        assert_eq!(find(b"\xff\xff\xff\xff"), Place::Entry);
    }
}
