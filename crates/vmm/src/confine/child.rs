//! `leapbox confine`: the short-lived root process that builds the walls and becomes the VMM.
//!
//! Runs single-threaded and before anything else of the program has started. Every failure is told to the server over
//! standard input, which is the socket the orders came by.

#![allow(unsafe_code)]

use super::spec::{ConfineSpec, Report};
use super::tap::open_tap;
use leapbox_errors::chain;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Gid, Uid, chdir, fork, pivot_root, setgroups, setresgid, setresuid, setsid};
use std::ffi::CString;
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Longest spec, in bytes; the sender's socket buffer is the real bound.
const SPEC_MAX: usize = 128 * 1024;
/// Descriptors below this number may be targets; received ones are moved above it first.
const PARKING: RawFd = 100;
/// Highest capability number the kernel may know; asking past its own last one ends the loop.
const CAP_LAST: i32 = 63;

/// A step that failed.
struct Failed(String);

type Step<T> = Result<T, Failed>;

fn step<T, E: std::fmt::Display>(name: &str, result: Result<T, E>) -> Step<T> {
    result.map_err(|e| Failed(format!("{name}: {e}")))
}

/// The whole program. Never returns.
pub fn main() -> ! {
    // SAFETY: descriptor 0 is the socket the server gave us; nothing else owns it.
    let mut socket = unsafe { UnixStream::from_raw_fd(0) };
    let code = match run(&mut socket) {
        Ok(()) => 0,
        Err(Failed(message)) => {
            report(&mut socket, &Report::Failed(message));
            1
        }
    };
    std::process::exit(code);
}

fn report(socket: &mut UnixStream, report: &Report) {
    if let Ok(mut line) = serde_json::to_vec(report) {
        line.push(b'\n');
        // The server is gone if this fails; there is nobody else to tell.
        let _ = socket.write_all(&line);
    }
}

fn run(socket: &mut UnixStream) -> Step<()> {
    let (spec, fds) = receive(socket)?;
    let mut fds = park(fds)?;
    if fds.len() != spec.passed.len() + 2 {
        return Err(Failed(format!("{} descriptors came with the orders, not {}", fds.len(), spec.passed.len() + 2)));
    }
    let netns = fds.remove(0);
    step("setsid", setsid())?;
    for procs in &spec.cgroups {
        step(&format!("joining {}", procs.display()), std::fs::write(procs, "0"))?;
    }
    step("entering the network namespace", setns(&netns, CloneFlags::CLONE_NEWNET))?;
    let taps = spec.taps.iter().map(|tap| open_tap(&tap.name)).collect::<Result<Vec<_>, _>>();
    let taps = taps.map_err(|error| Failed(chain(&error)))?;
    // Parked like the received ones: they may have got a target's number.
    let taps = park(taps)?;
    let new = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    step("making namespaces", unshare(new))?;
    // SAFETY: this process has one thread.
    match step("fork", unsafe { fork() })? {
        ForkResult::Parent { child } => {
            report(socket, &Report::Pid(child.as_raw()));
            Ok(())
        }
        ForkResult::Child => become_vmm(socket, &spec, fds, taps),
    }
}

fn receive(socket: &UnixStream) -> Step<(ConfineSpec, Vec<OwnedFd>)> {
    let mut text = vec![0; SPEC_MAX];
    let mut space = nix::cmsg_space!([RawFd; 32]);
    let mut buffers = [IoSliceMut::new(&mut text)];
    let message = step(
        "receiving the orders",
        recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC),
    )?;
    let mut fds = Vec::new();
    for control in step("reading the descriptors", message.cmsgs())? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for us.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let length = message.bytes;
    let spec = step("reading the orders", serde_json::from_slice(&text[..length]))?;
    Ok((spec, fds))
}

/// Moves descriptors out of the way of their targets.
fn park(fds: Vec<OwnedFd>) -> Step<Vec<OwnedFd>> {
    fds.into_iter()
        .map(|fd| {
            let parked = step("moving a descriptor", fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(PARKING)))?;
            // SAFETY: `parked` is new and owned by nobody else.
            Ok(unsafe { OwnedFd::from_raw_fd(parked) })
        })
        .collect()
}

/// In the child: from here on only this machine's own things remain. Returns only with an error.
fn become_vmm(socket: &mut UnixStream, spec: &ConfineSpec, fds: Vec<OwnedFd>, taps: Vec<OwnedFd>) -> Step<()> {
    // The socket stays at 0 until exec closes it, so that errors can be told and success shows as its end.
    step("marking the socket", fcntl(&*socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)))?;
    enter_root(spec)?;
    place(&fds[0], 2)?;
    for (number, fd) in spec.passed.iter().zip(&fds[1..]) {
        place(fd, *number)?;
    }
    for (tap, fd) in spec.taps.iter().zip(&taps) {
        place(fd, tap.fd)?;
    }
    limit(spec)?;
    drop_privileges(spec.uid)?;
    let argv = spec
        .argv
        .iter()
        .map(|argument| step("an argument", CString::new(argument.as_str())))
        .collect::<Step<Vec<_>>>()?;
    let empty: [CString; 0] = [];
    step(&format!("executing {}", spec.argv[0]), nix::unistd::execve(&argv[0], &argv, &empty))?;
    Ok(())
}

/// A read-only root of its own with nothing but the VMM's files, and a /proc of its own pid namespace.
fn enter_root(spec: &ConfineSpec) -> Step<()> {
    let none: Option<&str> = None;
    let root = &spec.root;
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let again = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    step("making mounts private", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
    let room = Some("size=64k,nr_inodes=64,mode=0755");
    step("mounting the root", mount(Some("leapbox"), root, Some("tmpfs"), locked, room))?;
    for entry in step("listing the VMM's files", std::fs::read_dir(&spec.files))?.flatten() {
        let (from, to) = (entry.path(), root.join(entry.file_name()));
        step("making a folder in the root", std::fs::create_dir(&to))?;
        step("binding the VMM's files", mount(Some(&from), &to, none, MsFlags::MS_BIND, none))?;
        step("protecting the VMM's files", mount(none, &to, none, MsFlags::MS_BIND | again | locked, none))?;
    }
    let (proc, flags) = (root.join("proc"), locked | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY);
    step("making /proc", std::fs::create_dir(&proc))?;
    step("mounting /proc", mount(Some("proc"), &proc, Some("proc"), flags, none))?;
    step("making the root read-only", mount(none, root, none, again | locked, none))?;
    step("entering the root", chdir(root))?;
    // Both arguments the same: the old root lies over the new one and is taken off (pivot_root(2), NOTES).
    step("pivot_root", pivot_root(".", "."))?;
    step("leaving the old root", umount2(".", MntFlags::MNT_DETACH))?;
    step("chdir /", chdir("/"))
}

/// Puts a descriptor at the number the VMM expects, open across exec.
fn place(fd: &OwnedFd, number: RawFd) -> Step<()> {
    // SAFETY: dup2 takes plain numbers; whatever was at `number` is parked or not ours to keep.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    step(&format!("placing descriptor {number}"), Errno::result(result)).map(drop)
}

fn limit(spec: &ConfineSpec) -> Step<()> {
    let limits = [
        (Resource::RLIMIT_NOFILE, spec.rlimits.files),
        (Resource::RLIMIT_FSIZE, spec.rlimits.file_bytes),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
    ];
    for (resource, value) in limits {
        step(&format!("limiting {resource:?}"), setrlimit(resource, value, value))?;
    }
    Ok(())
}

fn drop_privileges(uid: u32) -> Step<()> {
    for capability in 0..=CAP_LAST {
        // SAFETY: prctl with plain numbers.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            match Errno::last() {
                Errno::EINVAL => break,
                errno => return Err(Failed(format!("dropping capability {capability}: {errno}"))),
            }
        }
    }
    step("setgroups", setgroups(&[]))?;
    let (group, user) = (Gid::from_raw(uid), Uid::from_raw(uid));
    step("setresgid", setresgid(group, group, group))?;
    step("setresuid", setresuid(user, user, user))?;
    step("no_new_privs", nix::sys::prctl::set_no_new_privs())?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
    Ok(())
}
