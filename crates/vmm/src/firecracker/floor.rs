//! Starts Firecracker as one would by hand, without its jailer; see [`crate::floor`].

#![allow(unsafe_code)]

use super::Firecracker;
use super::files::SOCKET;
use super::jail::{Jailed, Output, new_logs, wait_for_api};
use crate::driver::Vmm;
use crate::error::VmmError;
use crate::machine::Machine;
use crate::process::Process;
use crate::spec::RestoreSpec;
use crate::started::{clean_up, make_dir};
use nix::sched::{CloneFlags, setns};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;

impl Firecracker {
    /// Restores as [`Vmm::restore`] does, in a Firecracker that runs as root, without a jail or a control group.
    pub(crate) async fn restore_unconfined(&self, spec: RestoreSpec) -> Result<Machine, VmmError> {
        let snapshot = &spec.snapshot;
        snapshot.check_fits(&self.compatibility_key(snapshot.shape, &spec.image))?;
        snapshot.check_memory()?;
        let dir = &spec.confinement.dir;
        make_dir(dir)?;
        let jailed = match start(&self.binaries.firecracker, dir, &spec.network.netns).await {
            Ok(jailed) => jailed,
            Err(error) => {
                clean_up(&self.cgroups.named(&spec.confinement.name), dir).await;
                return Err(error);
            }
        };
        let idle = self.idle(&spec.confinement, snapshot.shape, jailed);
        self.load_in(idle, spec).await
    }
}

/// Starts `program` in the directory `dir` and waits for its API. On failure no process is left.
async fn start(program: &Path, dir: &Path, netns: &Arc<OwnedFd>) -> Result<Jailed, VmmError> {
    let (logs, output) = new_logs()?;
    let process = spawn(program, dir, netns, output)?;
    match wait_for_api(&process, dir, &logs).await {
        Ok(api) => Ok(Jailed { process, api, logs, root: dir.to_path_buf() }),
        Err(error) => {
            process.kill();
            process.exited().await;
            Err(error)
        }
    }
}

/// Starts `program` in the directory `dir` and the network namespace `netns`.
fn spawn(program: &Path, dir: &Path, netns: &Arc<OwnedFd>, output: Output) -> Result<Process, VmmError> {
    let system = |step| move |source| VmmError::System { step, source };
    let mut command = std::process::Command::new(program);
    command.args(["--api-sock", SOCKET, "--level", "Warn"]).current_dir(dir).env_clear().stdin(Stdio::null());
    command.stdout(output.stdout).stderr(output.stderr);
    use std::os::unix::process::CommandExt;
    let netns = Arc::clone(netns);
    // SAFETY: the closure makes one system call; that may be done between fork and exec.
    unsafe { command.pre_exec(move || Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?)) };
    // The `Child` is dropped without a wait: `Process` reaps it through its pidfd.
    let child = command.spawn().map_err(system("starting Firecracker"))?;
    Process::open(child.id() as i32)
}
