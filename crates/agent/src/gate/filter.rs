//! The filters of the gate as programs for the kernel: which system calls of an engine are told to the keeper, and which
//! socket of a group gets a new connection.

use std::mem::offset_of;

/// One instruction of a classic BPF program.
pub(super) type Instruction = libc::sock_filter;

/// A call that is told to the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Bind,
    Listen,
}

/// A processor that engines run on, as a filter sees it. System calls made in another processor's way (such as 32-bit programs
/// on x86-64) are not told: their engine binds its port itself, and fails because the gate has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// `AUDIT_ARCH_*` of linux/audit.h.
    arch: u32,
    bind: u32,
    listen: u32,
}

impl Machine {
    /// asm/unistd_64.h
    pub(super) const X86_64: Self = Self { arch: 0xc000_003e, bind: 49, listen: 50 };
    /// asm-generic/unistd.h
    pub(super) const AARCH64: Self = Self { arch: 0xc000_00b7, bind: 200, listen: 201 };

    /// This machine; `None` where no filter was written for it.
    pub(super) fn own() -> Option<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Self::X86_64),
            "aarch64" => Some(Self::AARCH64),
            _ => None,
        }
    }

    /// Which of the calls that are told this one is.
    pub(super) fn call(self, number: u32) -> Option<Call> {
        match number {
            n if n == self.bind => Some(Call::Bind),
            n if n == self.listen => Some(Call::Listen),
            _ => None,
        }
    }

    /// Tells `bind` and `listen`, and lets everything else through. It looks at nothing but the number of a call, so the kernel
    /// remembers its answers and does not run it again: it costs an engine nothing that can be measured.
    pub(super) fn program(self) -> [Instruction; 7] {
        [
            load(offset_of!(libc::seccomp_data, arch)),
            unless_equal(self.arch, 3),
            load(offset_of!(libc::seccomp_data, nr)),
            if_equal(self.bind, 2),
            if_equal(self.listen, 1),
            give(libc::SECCOMP_RET_ALLOW),
            give(libc::SECCOMP_RET_USER_NOTIF),
        ]
    }
}

/// Sends every new connection of a group to its socket with this index.
pub(super) fn steering(index: u32) -> [Instruction; 1] {
    [give(index)]
}

/// Loads four bytes at this offset. All offsets here are below 64.
fn load(offset: usize) -> Instruction {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, u32::try_from(offset).unwrap_or(u32::MAX))
}

fn if_equal(value: u32, skip: u8) -> Instruction {
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, skip, 0, value)
}

fn unless_equal(value: u32, skip: u8) -> Instruction {
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value)
}

fn give(value: u32) -> Instruction {
    step(libc::BPF_RET | libc::BPF_K, 0, 0, value)
}

fn step(code: u32, jt: u8, jf: u8, k: u32) -> Instruction {
    // All codes are below 256.
    Instruction { code: u16::try_from(code).unwrap_or(u16::MAX), jt, jf, k }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::{Instruction, Machine, steering};

    /// What the kernel makes of a program: of the few instructions that there are here.
    fn run(program: &[Instruction], arch: u32, number: u32) -> u32 {
        let (mut at, mut value) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) {
                // BPF_LD | BPF_W | BPF_ABS; `nr` is first in seccomp_data, `arch` second.
                0x20 => value = if step.k == 4 { arch } else { number },
                // BPF_JMP | BPF_JEQ | BPF_K
                0x15 => at += usize::from(if value == step.k { step.jt } else { step.jf }),
                // BPF_RET | BPF_K
                0x06 => return step.k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn bind_and_listen_are_told_and_nothing_else_is_on_either_machine() {
        for (machine, bind, listen, arch) in
            [(Machine::X86_64, 49, 50, 0xc000_003e), (Machine::AARCH64, 200, 201, 0xc000_00b7)]
        {
            for number in 0..600 {
                let told = run(&machine.program(), arch, number) == libc::SECCOMP_RET_USER_NOTIF;
                assert_eq!(told, number == bind || number == listen, "call {number} of {machine:?}");
            }
            // 32-bit calls on x86-64 have other numbers.
            assert_eq!(run(&machine.program(), 0x4000_0003, bind), libc::SECCOMP_RET_ALLOW);
        }
    }

    #[test]
    fn the_numbers_are_those_of_this_machine() {
        let machine = Machine::own().expect("tests run where engines run");
        assert_eq!(machine.call(u32::try_from(libc::SYS_bind).expect("small")), Some(super::Call::Bind));
        assert_eq!(machine.call(u32::try_from(libc::SYS_listen).expect("small")), Some(super::Call::Listen));
    }

    #[test]
    fn steering_names_the_socket() {
        assert_eq!(run(&steering(3), 0, 0), 3);
    }
}
