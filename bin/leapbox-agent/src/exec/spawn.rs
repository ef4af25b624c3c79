//! Starts a process with a raw `clone3`. Called by `exec`.
//!
//! The child shares the agent's memory until it runs its program, while the thread that started it is suspended (as
//! `vfork` and `posix_spawn` do): nothing is copied, which under emulation is most of a fork's cost. It starts inside
//! its cgroup, because *moving* a process into one waits for an RCU grace period, tens of milliseconds. The C library
//! does not offer both.

use crate::user::User;
use nix::errno::Errno;
use std::arch::asm;
use std::ffi::{CStr, c_char, c_int, c_long};
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// From <linux/sched.h>; the `libc` crate's are cut to 32 bits.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Bytes of the child's stack until it runs its program. It makes a few system calls there and allocates nothing.
const STACK_BYTES: usize = 32 << 10;

/// The part of starting a process that failed. Its `Display` is a part of a fault's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Stage {
    Clone,
    Stdio,
    Identity,
    Chdir,
    Exec,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Clone => "clone",
            Stage::Stdio => "standard streams",
            Stage::Identity => "user",
            Stage::Chdir => "working directory",
            Stage::Exec => "exec",
        })
    }
}

/// A process that could not be started.
#[derive(Debug)]
pub(crate) struct LaunchError {
    pub(crate) stage: Stage,
    pub(crate) source: io::Error,
}

/// The program to start, its surroundings and its user.
pub(crate) struct Launch<'a> {
    /// The arguments, with a null pointer at the end; the first is the program's path.
    pub(crate) argv: &'a [*const c_char],
    /// The environment, with a null pointer at the end.
    pub(crate) envp: &'a [*const c_char],
    pub(crate) cwd: &'a CStr,
    pub(crate) user: &'a User,
    /// Descriptors above 2 that become 0, 1 and 2. All others of the agent are close-on-exec.
    pub(crate) stdio: [RawFd; 3],
}

/// A started process, by its pidfd: its number could be another process's by the time it is used.
#[derive(Debug)]
pub(crate) struct Child {
    pidfd: OwnedFd,
}

/// Memory shared between the suspended parent and the child.
struct Plan<'a> {
    launch: &'a Launch<'a>,
    /// The stage at which the child failed, and its errno.
    failure: Option<(Stage, c_int)>,
}

impl Launch<'_> {
    /// Starts the process inside the cgroup whose directory this is. Returns when it runs its program, or has failed
    /// to.
    pub(crate) fn start(&self, cgroup: BorrowedFd<'_>) -> Result<Child, LaunchError> {
        let mut stack: Box<[MaybeUninit<u128>]> = Box::new_uninit_slice(STACK_BYTES / 16);
        let mut plan = Plan { launch: self, failure: None };
        let mut pidfd: RawFd = -1;
        // SAFETY: clone_args is plain integers, all-zero is "not given".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        // CLONE_CLEAR_SIGHAND, because a signal that arrives before the program runs must not run a handler of the
        // agent's in the memory that the child shares with it.
        args.flags =
            (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) as u64 | CLONE_CLEAR_SIGHAND | CLONE_INTO_CGROUP;
        args.pidfd = &raw mut pidfd as u64;
        args.exit_signal = libc::SIGCHLD as u64;
        args.stack = stack.as_mut_ptr() as u64;
        args.stack_size = STACK_BYTES as u64;
        args.cgroup = cgroup.as_raw_fd() as u64;
        // SAFETY: `args`, `plan` and `stack` outlive the child's use of them: CLONE_VFORK suspends this thread until
        // the child has run its program or exited.
        let pid = unsafe { clone_and_call(&args, &mut plan) };
        if pid < 0 {
            let source = io::Error::from_raw_os_error(c_int::try_from(-pid).unwrap_or(libc::EIO));
            return Err(LaunchError { stage: Stage::Clone, source });
        }
        // SAFETY: the kernel has put a new descriptor there, which nobody else knows.
        let child = Child { pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } };
        match plan.failure {
            None => Ok(child),
            Some((stage, errno)) => {
                // It has exited with 127 and is reaped here; the caller gets the stage instead of the code.
                let _ = child.wait();
                Err(LaunchError { stage, source: io::Error::from_raw_os_error(errno) })
            }
        }
    }
}

/// Calls `clone3`, after which the child calls [`run_child`] on its own stack and never returns.
///
/// # Safety
/// `args` must ask for CLONE_VM, CLONE_VFORK and a stack that is 16-byte aligned at its end.
unsafe fn clone_and_call(args: &libc::clone_args, plan: &mut Plan<'_>) -> c_long {
    let pid: c_long;
    // SAFETY: the system call changes rax, rcx and r11 alone. The parent falls through with its stack untouched; the
    // child, on a stack of its own, calls a function that never returns.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r9",
            "call r8",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => pid,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r8") run_child as extern "C" fn(*mut Plan<'static>) -> !,
            in("r9") std::ptr::from_mut(plan),
            out("rcx") _,
            out("r11") _,
        );
    }
    pid
}

/// Runs in the child, from `clone3` until it runs its program.
extern "C" fn run_child(plan: *mut Plan<'static>) -> ! {
    // Only system calls are made from here on: the child shares the agent's memory and the thread-local state of its
    // parent, which allocating, locking or unwinding could leave broken.
    // SAFETY: the parent is suspended and its `Plan` lives; nobody else has it.
    let plan = unsafe { &mut *plan };
    let stage = become_program(plan.launch);
    plan.failure = Some((stage, Errno::last_raw()));
    // SAFETY: ends this process alone; its memory is the parent's, so nothing may be unwound or dropped here.
    unsafe { libc::_exit(127) }
}

/// Runs the program; returns only the stage that failed, with `errno` set.
fn become_program(launch: &Launch<'_>) -> Stage {
    // SAFETY: system calls without effect on this process's shared memory; pointers come from live Rust values of the
    // suspended parent. Ids are set with raw calls, because the C library's would signal the agent's threads.
    unsafe {
        // First, while the child is still root: the file is root's.
        reset_oom_score();
        // A session of its own: a command has no terminal, and signals to its group reach none of the agent's threads.
        libc::setsid();
        for (target, source) in (0..).zip(launch.stdio) {
            if libc::dup2(source, target) < 0 {
                return Stage::Stdio;
            }
        }
        // The uid last: without uid 0 the child may not change its groups.
        let user = launch.user;
        let (uid, gid) = (c_long::from(user.uid), c_long::from(user.gid));
        if libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) < 0
            || libc::syscall(libc::SYS_setresgid, gid, gid, gid) < 0
            || libc::syscall(libc::SYS_setresuid, uid, uid, uid) < 0
        {
            return Stage::Identity;
        }
        // As the user, so that a directory it may not enter is refused.
        if libc::chdir(launch.cwd.as_ptr()) < 0 {
            return Stage::Chdir;
        }
        reset_signals();
        libc::execve(launch.argv[0], launch.argv.as_ptr(), launch.envp.as_ptr());
        Stage::Exec
    }
}

/// Takes away the exemption from the out-of-memory killer that the child has inherited from the agent. If the guest's
/// root has unmounted /proc, the exemption stays.
unsafe fn reset_oom_score() {
    // SAFETY: plain system calls on a descriptor that is the child's own.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, c"0".as_ptr().cast(), 1);
            libc::close(file);
        }
    }
}

/// Restores the signal settings that programs expect: Rust ignores SIGPIPE, and the agent blocks SIGCHLD. Handlers were
/// reset by `clone3`.
unsafe fn reset_signals() {
    // SAFETY: the signal table is the child's own (no CLONE_SIGHAND), the structures live on its stack.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

impl Child {
    /// The process's pidfd, which is readable once it has ended.
    pub(crate) fn pidfd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.pidfd.as_fd()
    }

    /// Sends SIGKILL, which does nothing to a process that has ended.
    pub(crate) fn kill(&self) {
        // SAFETY: an open pidfd, no siginfo.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
        }
    }

    /// Waits until the process has ended, and returns its exit code, or 128 + the number of the signal that killed it,
    /// as shells do.
    pub(crate) fn wait(&self) -> io::Result<i32> {
        loop {
            // SAFETY: an all-zero siginfo_t is valid and is filled in by the kernel.
            let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
            let id = self.pidfd.as_raw_fd().cast_unsigned();
            // SAFETY: an open pidfd of a child of this process, and a live siginfo_t.
            let result = unsafe { libc::waitid(libc::P_PIDFD, id, &mut info, libc::WEXITED) };
            match Errno::result(result) {
                Ok(_) => {
                    // SAFETY: waitid for an exit fills in these fields.
                    let status = unsafe { info.si_status() };
                    return Ok(if info.si_code == libc::CLD_EXITED { status } else { 128 + status });
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
