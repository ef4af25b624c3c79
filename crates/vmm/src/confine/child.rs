//! `leapbox confine`: a short-lived root process that makes the confinement and whose child becomes the VMM.
//!
//! It runs with a single thread, before anything else of the program has started. Its standard input is a socket: the
//! server sends the [`ConfineSpec`] over it, and every failure is reported back over it.

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

/// The longest spec that is read, in bytes; the sender's socket buffer bounds it further.
const SPEC_MAX: usize = 128 * 1024;
/// The VMM's descriptor numbers are below this; received descriptors are moved to this number or above it first.
const PARKING: RawFd = 100;
/// The highest capability number that a 64-bit set can hold. The loop ends earlier, at the first one that the kernel
/// does not know.
const CAP_LAST: i32 = 63;

/// The text of a step that failed, with its cause.
struct Failed(String);

type Step<T> = Result<T, Failed>;

fn step<T, E: std::fmt::Display>(name: &str, result: Result<T, E>) -> Step<T> {
    result.map_err(|e| Failed(format!("{name}: {e}")))
}

/// The entry point of `leapbox confine`.
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
        // This fails only if the server has ended, and nobody else waits for the report.
        let _ = socket.write_all(&line);
    }
}

fn run(socket: &mut UnixStream) -> Step<()> {
    let (spec, fds) = receive(socket)?;
    let mut fds = park(fds)?;
    if fds.len() != spec.passed.len() + 2 {
        return Err(Failed(format!("{} descriptors came with the spec, not {}", fds.len(), spec.passed.len() + 2)));
    }
    let netns = fds.remove(0);
    // Out of the server's session and process group: a Ctrl-C in its terminal must not reach a VMM, which outlives it.
    step("setsid", setsid())?;
    // Before the namespaces: the paths are the host's, and the cgroup namespace takes the group of its creator as root.
    for procs in &spec.cgroups {
        step(&format!("joining {}", procs.display()), std::fs::write(procs, "0"))?;
    }
    step("entering the network namespace", setns(&netns, CloneFlags::CLONE_NEWNET))?;
    // As root, while /dev/net/tun can be seen: the VMM's root has no devices.
    let taps = spec.taps.iter().map(|tap| open_tap(&tap.name)).collect::<Result<Vec<_>, _>>();
    let taps = taps.map_err(|error| Failed(chain(&error)))?;
    // The kernel gave them the lowest free numbers, which may be numbers that the VMM expects something else at.
    let taps = park(taps)?;
    let new = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    step("making namespaces", unshare(new))?;
    // A new pid namespace is entered by children only (unshare(2)), so the VMM is one.
    // SAFETY: this process has one thread.
    match step("fork", unsafe { fork() })? {
        ForkResult::Parent { child } => {
            // The parent reports it: the child sees itself as process 1.
            report(socket, &Report::Pid(child.as_raw()));
            Ok(())
        }
        ForkResult::Child => become_vmm(socket, &spec, fds, taps),
    }
}

fn receive(socket: &UnixStream) -> Step<(ConfineSpec, Vec<OwnedFd>)> {
    let mut text = vec![0; SPEC_MAX];
    // Room for more descriptors than a launch passes: network namespace, standard error, and seven for QEMU. If some
    // did not fit, the kernel would drop them, and `run` would miss them.
    let mut space = nix::cmsg_space!([RawFd; 32]);
    let mut buffers = [IoSliceMut::new(&mut text)];
    let message = step(
        "receiving the spec",
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
    let spec = step("reading the spec", serde_json::from_slice(&text[..length]))?;
    Ok((spec, fds))
}

/// Moves descriptors to numbers from [`PARKING`] on, so that [`place`] overwrites none that is still needed.
fn park(fds: Vec<OwnedFd>) -> Step<Vec<OwnedFd>> {
    fds.into_iter()
        .map(|fd| {
            let parked = step("moving a descriptor", fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(PARKING)))?;
            // SAFETY: `parked` is new and owned by nobody else.
            Ok(unsafe { OwnedFd::from_raw_fd(parked) })
        })
        .collect()
}

/// In the child: enters the new root, gives up all privileges and executes the VMM. Returns only with an error.
fn become_vmm(socket: &mut UnixStream, spec: &ConfineSpec, fds: Vec<OwnedFd>, taps: Vec<OwnedFd>) -> Step<()> {
    // The socket stays open until exec closes it: until then errors can be reported, and its end is the sign of
    // success.
    step("marking the socket", fcntl(&*socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)))?;
    enter_root(spec)?;
    // Standard error. Standard output stays /dev/null, which the launcher was given.
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
    // Without an environment: nothing that the server was started with is for a VMM to see.
    let empty: [CString; 0] = [];
    step(&format!("executing {}", spec.argv[0]), nix::unistd::execve(&argv[0], &argv, &empty))?;
    Ok(())
}

/// Makes a read-only root with nothing but the VMM's files and a /proc of its own pid namespace, and enters it.
fn enter_root(spec: &ConfineSpec) -> Step<()> {
    let none: Option<&str> = None;
    let root = &spec.root;
    let locked = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    // Most hosts share their mounts (systemd does): without this the mounts below would appear on the host as well.
    step("making mounts private", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
    // It holds directories only, to mount on; the bounds keep it small whatever is written before it becomes read-only.
    let size = Some("size=64k,nr_inodes=64,mode=0755");
    step("mounting the root", mount(Some("leapbox"), root, Some("tmpfs"), locked, size))?;
    for entry in step("listing the VMM's files", std::fs::read_dir(&spec.files))?.flatten() {
        let (from, to) = (entry.path(), root.join(entry.file_name()));
        step("making a directory in the root", std::fs::create_dir(&to))?;
        step("binding the VMM's files", mount(Some(&from), &to, none, MsFlags::MS_BIND, none))?;
        // A second call, because the kernel ignores all other flags of the one that binds (mount(2)).
        step("protecting the VMM's files", mount(none, &to, none, MsFlags::MS_BIND | read_only | locked, none))?;
    }
    // QEMU opens its inherited descriptors by path, as /proc/self/fd/N. Of a new pid namespace, /proc shows nothing
    // else.
    let (proc, flags) = (root.join("proc"), locked | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY);
    step("making /proc", std::fs::create_dir(&proc))?;
    step("mounting /proc", mount(Some("proc"), &proc, Some("proc"), flags, none))?;
    step("making the root read-only", mount(none, root, none, read_only | locked, none))?;
    step("entering the root", chdir(root))?;
    // With both arguments the same the old root is mounted over the new one and can be unmounted from there, so that no
    // directory for it is needed (pivot_root(2), NOTES).
    step("pivot_root", pivot_root(".", "."))?;
    step("leaving the old root", umount2(".", MntFlags::MNT_DETACH))?;
    step("chdir /", chdir("/"))
}

/// Duplicates a descriptor to the number at which the VMM expects it.
fn place(fd: &OwnedFd, number: RawFd) -> Step<()> {
    // dup2 clears close-on-exec, except if both numbers are the same. They never are: `fd` has been parked.
    // SAFETY: dup2 takes plain numbers; whatever was at `number` is parked or not ours to keep.
    let result = unsafe { libc::dup2(fd.as_raw_fd(), number) };
    step(&format!("placing descriptor {number}"), Errno::result(result)).map(drop)
}

fn limit(spec: &ConfineSpec) -> Step<()> {
    // A core dump would write the guest's memory into the host's file system. Locked memory and message queues are
    // resources of the host that a VMM has no use for.
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
    // The bounding set comes first: to drop from it takes CAP_SETPCAP, which the change of user takes away.
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
    // Changing all three user ids from 0 also empties the permitted, effective and ambient sets (capabilities(7)).
    step("setresuid", setresuid(user, user, user))?;
    step("no_new_privs", nix::sys::prctl::set_no_new_privs())?;
    nix::sys::stat::umask(Mode::from_bits_truncate(0o077));
    Ok(())
}
