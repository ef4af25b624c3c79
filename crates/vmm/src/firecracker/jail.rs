//! Launches one Firecracker through its jailer, into a new jail.
//!
//! ```text
//! server ─► new directory, root's alone ─► joins the control group, own ipc, uts and cgroup namespaces
//!        ─► jailer: network namespace, rlimits, own mount and pid namespaces, chroot, own uid ─► firecracker
//!        ─► the API answers: the jail's directories become root's again, then the guest's files are linked in
//! ```
//!
//! Until the last step the VMM's uid owns nothing in the jail but what the jailer has just made, and no guest has
//! run: nobody can have planted a link for the jailer to follow (CVE-2026-1386). After it the uid can create nothing
//! there.

#![allow(unsafe_code)]

use super::api::Api;
use super::binaries::Binaries;
use super::console::Console;
use super::exit::Logs;
use super::files::{self, SOCKET};
use crate::cgroup::Cgroup;
use crate::error::VmmError;
use crate::log::bounded_log;
use crate::process::Process;
use crate::socket::SocketPath;
use crate::spec::Confinement;
use leapbox_errors::FileError;
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use std::fs::File;
use std::io::{self, Read};
use std::num::ParseIntError;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::time::error::Elapsed;

/// The size of the VMM's standard error log in bytes.
const LOG_BYTES: u64 = 64 * 1024;
/// The most descriptors that a Firecracker may have open; it has about 30 with eight vCPUs.
const OPEN_FILES: u64 = 128;
/// Bounds the jailer, which takes 4 ms on a quiet host: one that hangs must not hold up a create for ever.
const JAILER_DEADLINE: Duration = Duration::from_secs(30);
/// Bounds the time from the jailer's end to the first connection to the API, on a busy host.
const API_DEADLINE: Duration = Duration::from_secs(30);
/// The time between two attempts to connect; it is part of the latency of every create.
const API_POLL: Duration = Duration::from_millis(1);
/// The jailer names a directory of the jail after the program.
const PROGRAM: &str = "firecracker";
/// The file in the jail's root into which the jailer writes the id of the Firecracker that it leaves behind.
const PID_FILE: &str = "firecracker.pid";

/// A Firecracker in its jail whose API answers and which has no guest yet.
pub(super) struct Jailed {
    pub process: Process,
    pub api: Api,
    pub logs: Logs,
    pub root: PathBuf,
}

/// The root of the jail of machine `name` below the machine's directory, as the jailer lays it out.
pub(super) fn root_of(dir: &Path, name: &str) -> PathBuf {
    dir.join(PROGRAM).join(name).join("root")
}

/// Launches a Firecracker in the machine's directory, which must be new. `file_bytes` is the size of the largest file
/// that it may write. On failure the caller removes the group and the directory.
pub(super) async fn launch(
    binaries: &Binaries,
    confinement: &Confinement,
    netns: &OwnedFd,
    group: &Cgroup,
    file_bytes: u64,
) -> Result<Jailed, VmmError> {
    let (logs, output) = new_logs()?;
    let status = run_jailer(binaries, confinement, netns, group, file_bytes, &output).await?;
    // While this process has the pipe's writing end open, the console's reader never sees the end.
    drop(output);
    if !status.success() {
        let errors = crate::log::log_text(&logs.errors);
        return Err(VmmError::Launch { message: format!("the jailer ended with {status}: {errors}") });
    }
    let root = root_of(&confinement.dir, &confinement.name);
    let process = Process::open(read_pid(&root.join(PID_FILE))?)?;
    let api = wait_for_api(&process, &root, &logs).await?;
    // Not earlier, because Firecracker creates its socket in the jail as the VMM's uid.
    files::reclaim_directories(&root)?;
    Ok(Jailed { process, api, logs, root })
}

/// The files that a Firecracker is given as its output.
pub(super) struct Output {
    pub stdout: File,
    pub stderr: File,
}

/// Makes the console and the log of a new process, and the files that it must be given to write to them.
pub(super) fn new_logs() -> Result<(Logs, Output), VmmError> {
    let (console, stdout) = Console::new()?;
    let errors = bounded_log(LOG_BYTES)?;
    let shared = errors.try_clone();
    let stderr = shared.map_err(|source| VmmError::System { step: "sharing the log", source })?;
    Ok((Logs { console, errors }, Output { stdout, stderr }))
}

/// Waits until the API of `process` can be connected to.
pub(super) async fn wait_for_api(process: &Process, dir: &Path, logs: &Logs) -> Result<Api, VmmError> {
    let api = Api::new(SocketPath::new(dir, SOCKET)?);
    let up = async {
        // Polled: nothing reports that a socket has begun to listen.
        while !api.is_up().await {
            tokio::time::sleep(API_POLL).await;
        }
    };
    let waited = tokio::select! {
        biased;
        waited = tokio::time::timeout(API_DEADLINE, up) => waited,
        reason = process.exited() => {
            return Err(VmmError::Died { stage: "starting", reason: logs.explain(reason).await });
        }
    };
    waited.map_err(|_: Elapsed| VmmError::Hung {
        command: "a connection to its API".to_owned(),
        seconds: API_DEADLINE.as_secs(),
    })?;
    Ok(api)
}

async fn run_jailer(
    binaries: &Binaries,
    confinement: &Confinement,
    netns: &OwnedFd,
    group: &Cgroup,
    file_bytes: u64,
    output: &Output,
) -> Result<ExitStatus, VmmError> {
    let system = |step| move |source| VmmError::System { step, source };
    let uid = confinement.uid.to_string();
    let mut command = tokio::process::Command::new(&binaries.jailer);
    command.arg("--exec-file").arg(&binaries.firecracker).args(["--id", &confinement.name]);
    command.args(["--uid", &uid, "--gid", &uid]).arg("--chroot-base-dir").arg(&confinement.dir);
    // The jailer opens the namespace by path, after it has closed all descriptors that it inherited; so the path leads
    // through the server's own.
    command.args(["--netns", &format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd())]);
    command.args(["--new-pid-ns", "--resource-limit", &format!("fsize={file_bytes}")]);
    command.args(["--resource-limit", &format!("no-file={OPEN_FILES}")]);
    command.args(["--", "--api-sock", SOCKET, "--level", "Warn"]);
    let share = |log: &File| log.try_clone().map_err(system("sharing the log"));
    command.env_clear().stdin(Stdio::null()).stdout(share(&output.stdout)?).stderr(share(&output.stderr)?);
    let joins = group.open_procs().map_err(system("opening the control group"))?;
    let numbers: Vec<RawFd> = joins.iter().map(AsRawFd::as_raw_fd).collect();
    // Done here because the jailer does not: it has options for two other resource limits only, and of the namespaces
    // it makes mount and pid.
    // SAFETY: the closure makes plain system calls only and allocates nothing; that may be done between fork and exec.
    unsafe { command.pre_exec(move || isolate(&numbers)) };
    let mut child = command.spawn().map_err(system("starting the jailer"))?;
    match tokio::time::timeout(JAILER_DEADLINE, child.wait()).await {
        Ok(status) => status.map_err(system("waiting for the jailer")),
        Err(_) => {
            // The kill may find a Firecracker that the jailer has started already: the caller's clean-up ends the
            // group.
            let _ = child.start_kill();
            Err(VmmError::Hung { command: "its launch by the jailer".to_owned(), seconds: JAILER_DEADLINE.as_secs() })
        }
    }
}

/// Runs between fork and exec of the jailer: joins the control group, sets limits and makes the namespaces that the
/// jailer does not.
fn isolate(groups: &[RawFd]) -> io::Result<()> {
    // First, so that everything from here on is counted and, if the server dies now, found. The cgroup namespace made
    // below takes the group of that moment for its root.
    for group in groups {
        // SAFETY: write with a buffer of that length; `0` is the writing process.
        if unsafe { libc::write(*group, b"0".as_ptr().cast(), 1) } != 1 {
            return Err(io::Error::last_os_error());
        }
    }
    // A core dump would write the guest's memory into the host's file system. Locked memory and message queues are
    // resources of the host that a VMM has no use for.
    for resource in [Resource::RLIMIT_CORE, Resource::RLIMIT_MEMLOCK, Resource::RLIMIT_MSGQUEUE] {
        setrlimit(resource, 0, 0)?;
    }
    // Kept across exec: with transparent huge pages each thread's stack, 2 MiB of address space of which a few KiB are
    // used, would take 2 MiB of memory.
    // SAFETY: prctl with plain numbers.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP)?;
    Ok(())
}

fn read_pid(path: &Path) -> Result<i32, VmmError> {
    let mut text = String::new();
    // The largest number the kernel gives has seven digits; the file is in a directory of the VMM's uid.
    let read = File::open(path).and_then(|file| file.take(16).read_to_string(&mut text));
    read.map_err(FileError::of("reading", path))?;
    text.trim().parse().map_err(|_: ParseIntError| VmmError::Launch {
        message: format!("the jailer wrote {text:?} as the process id"),
    })
}
