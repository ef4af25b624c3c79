//! Runs commands as the image's user. Called by `connection`.
//!
//! ```text
//! exec ─▶ environment (argv, env) ─▶ cgroup ─▶ spawn ─▶ capture (output, end, time-out) ─▶ answer
//!                                                          ├─ pipes of background processes ─▶ drain
//!                                                          └─ the caller hung up ─▶ detached
//! ```

mod capture;
pub(crate) mod detached;
pub(crate) mod drain;
mod environment;
mod spawn;
pub(crate) mod variables;

use crate::budget::Lease;
use crate::cgroup::Group;
use crate::fault;
use crate::guest::Guest;
use capture::{Capture, End};
use detached::Command;
use environment::{CStrings, c_string};
use leapbox_guest_protocol::{ExecOutput, ExecRequest, FaultKind, GuestFault, MAX_STREAM_OUTPUT};
use spawn::{Child, Launch, LaunchError, Stage};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

/// The exit code of a command that was killed at its time-out, as timeout(1) has it.
const TIMED_OUT: i32 = 124;

/// Runs a request's command. If the caller hangs up meanwhile, the command continues without it.
pub(crate) fn exec(
    guest: &Guest,
    request: &ExecRequest,
    caller: &TcpStream,
    lease: &mut Lease<'_>,
) -> Result<ExecOutput, GuestFault> {
    let env = guest.sandbox_env()?;
    run(guest, &env, request, Some(caller.as_fd()), lease)
}

/// Warms the guest up: runs `true` the way any command is run, so that every clone of the base snapshot that is taken
/// next has the shell in its page cache.
pub(crate) fn warm_up(guest: &Guest, lease: &mut Lease<'_>) -> Result<(), GuestFault> {
    let request =
        ExecRequest { command: "true".to_owned(), cwd: None, env: Vec::new(), timeout_ms: 30_000, output_limit: 1024 };
    run(guest, &[], &request, None, lease).map(drop)
}

fn run(
    guest: &Guest,
    sandbox_env: &[(String, String)],
    request: &ExecRequest,
    caller: Option<BorrowedFd<'_>>,
    lease: &mut Lease<'_>,
) -> Result<ExecOutput, GuestFault> {
    let deadline = Instant::now() + Duration::from_millis(request.timeout_ms.into());
    let argv = CStrings::new(["/bin/sh", "-c", &request.command])?;
    let envp = environment::process_environment(guest, sandbox_env, &request.env)?;
    let cwd = c_string(request.cwd.as_deref().unwrap_or(&guest.image.workdir))?;
    let no_pipe = |error: io::Error| fault::from_io("starting the command", &error);
    let (stdout, stdout_end) = io::pipe().map_err(no_pipe)?;
    let (stderr, stderr_end) = io::pipe().map_err(no_pipe)?;
    let launch = Launch {
        argv: argv.pointers(),
        envp: envp.pointers(),
        cwd: &cwd,
        user: &guest.user,
        stdio: [guest.dev_null.as_raw_fd(), stdout_end.as_raw_fd(), stderr_end.as_raw_fd()],
    };
    let (child, group) = start(guest, &launch).map_err(|error| explain(&error, request, guest))?;
    // Only the command may hold the writing ends: otherwise reading would never see the end of its output.
    drop((stdout_end, stderr_end));
    let limit = usize::try_from(request.output_limit).unwrap_or(usize::MAX).min(MAX_STREAM_OUTPUT);
    let mut capture = Capture::new([stdout, stderr], limit);
    let end = capture.until_end(&child, caller, deadline, lease);
    let command = Command { child, group, deadline };
    match end {
        End::Ended => finish(guest, command, capture, false, lease),
        End::TimeOut => finish(guest, command, capture, true, lease),
        End::HungUp => Err(detach(guest, command, capture)),
    }
}

/// Starts the process in a cgroup of its own.
fn start(guest: &Guest, launch: &Launch<'_>) -> Result<(Child, Group), LaunchError> {
    let unusable = |source| LaunchError { stage: Stage::Clone, source };
    let group = guest.cgroups.acquire().map_err(unusable)?;
    match launch.start(group.dir()) {
        // The guest's root may have removed the pooled group. A new one is tried once; if it is not the group, this
        // fails in the same way.
        Err(error) if error.stage == Stage::Clone => {
            let group = guest.cgroups.create().map_err(unusable)?;
            let child = launch.start(group.dir())?;
            Ok((child, group))
        }
        started => Ok((started?, group)),
    }
}

/// Reaps a command that has ended, or kills it first if its time is up, and returns its exit code and output.
fn finish(
    guest: &Guest,
    mut command: Command,
    mut capture: Capture,
    timed_out: bool,
    lease: &mut Lease<'_>,
) -> Result<ExecOutput, GuestFault> {
    if timed_out {
        command.kill();
    }
    let status = command.child.wait().map_err(|error| fault::from_io("waiting for the command", &error));
    // After the command's end, because its last output may still be in the pipes then.
    capture.read_remaining(lease);
    let ([stdout, stderr], open) = capture.into_parts();
    open.for_each(|pipe| guest.drain.take(pipe));
    guest.cgroups.release(command.group);
    Ok(ExecOutput {
        exit_code: if timed_out { TIMED_OUT } else { status? },
        stdout: stdout.bytes,
        stderr: stderr.bytes,
        timed_out,
        stdout_truncated: stdout.truncated,
        stderr_truncated: stderr.truncated,
    })
}

/// Lets a command continue without its caller: its output is read and dropped. Returns the fault that is written to the
/// caller's connection, in case only its sending half was closed.
fn detach(guest: &Guest, command: Command, capture: Capture) -> GuestFault {
    let (_, open) = capture.into_parts();
    open.for_each(|pipe| guest.drain.take(pipe));
    guest.detached.take(command);
    GuestFault::new(FaultKind::Io, "the caller has hung up; the command continues to run")
}

/// Makes the fault for a command that could not be started, naming what the caller can change.
fn explain(error: &LaunchError, request: &ExecRequest, guest: &Guest) -> GuestFault {
    let cwd = request.cwd.as_deref().unwrap_or(&guest.image.workdir);
    match (error.stage, error.source.raw_os_error()) {
        (Stage::Chdir, _) => fault::from_io(format_args!("working directory {cwd}"), &error.source),
        (Stage::Exec, Some(libc::E2BIG)) => {
            GuestFault::new(FaultKind::TooLarge, "the command or its environment is too long")
        }
        (Stage::Exec, _) => fault::from_io("/bin/sh", &error.source),
        (Stage::Clone, Some(libc::EAGAIN | libc::ENOMEM)) => {
            GuestFault::new(FaultKind::Busy, "the sandbox has no memory or no process left to run a command")
        }
        (stage, _) => fault::from_io(format_args!("starting the command ({stage})"), &error.source),
    }
}
