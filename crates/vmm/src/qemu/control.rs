//! Controls a running QEMU over its control connection (QMP).

use super::console::Console;
use super::qmp::Qmp;
use super::ram::NAME;
use super::state;
use crate::cgroup::Cgroup;
use crate::driver::Control;
use crate::error::{ExitReason, VmmError};
use crate::log::log_text;
use crate::machine::Machine;
use crate::memory::Mapping;
use crate::process::{Process, is_shortage};
use crate::socket::SocketPath;
use crate::spec::Snapshot;
use crate::started::Started;
use crate::watchdog::{self, Reply};
use async_trait::async_trait;
use leapbox_errors::FileError;
use serde_json::json;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The [`Control`] of one QEMU.
struct QemuControl {
    qmp: Arc<Qmp>,
    console: Console,
}

/// Opens the control connection of a process. If the process ends meanwhile, the error is [`VmmError::Died`] with
/// `stage`. Nothing of the machine is changed on failure.
pub(super) async fn connect(
    process: &Process,
    log: &File,
    socket: &SocketPath,
    deadline: Duration,
    stage: &'static str,
) -> Result<Arc<Qmp>, VmmError> {
    let path = socket.path();
    tokio::select! {
        biased;
        qmp = Qmp::connect(&path, deadline) => qmp.map(Arc::new),
        reason = process.exited() => Err(VmmError::Died { stage, reason: with_log(reason, log) }),
    }
}

/// Makes a [`Machine`] of a process with an open control connection.
pub(super) fn watch(started: Started, qmp: Arc<Qmp>, log: File) -> Machine {
    let console = Console::new(Arc::clone(&qmp));
    let control = QemuControl { qmp: Arc::clone(&qmp), console: console.clone() };
    let group = started.group.clone();
    Machine::watch(started, control, |process| ended(process, group, qmp, console, log))
}

#[async_trait]
impl Control for QemuControl {
    async fn pause(&self, machine: &Machine) -> Result<(), VmmError> {
        let stop = async { self.qmp.run("stop", json!({})).await.map(drop) };
        machine.while_alive("being paused", stop).await
    }

    async fn resume(&self, machine: &Machine) -> Result<(), VmmError> {
        let cont = async {
            self.qmp.run("cont", json!({})).await?;
            // Of the last saved state: QEMU closes descriptors only while its guest runs.
            state::close_state_fd(&self.qmp).await
        };
        machine.while_alive("being resumed", cont).await
    }

    async fn save_state(&self, machine: &Machine) -> Result<Vec<u8>, VmmError> {
        machine.while_alive("saving its state", state::save(&self.qmp)).await
    }

    async fn write_snapshot(&self, machine: &Machine, snapshot: &Snapshot) -> Result<(), VmmError> {
        // The memory is in its file already: a machine that boots maps it shared.
        let state = self.save_state(machine).await?;
        Ok(std::fs::write(&snapshot.state, state).map_err(FileError::of("writing", &snapshot.state))?)
    }

    fn mapping(&self) -> Result<Mapping, VmmError> {
        Ok(Mapping::Memfd(NAME))
    }

    async fn console_tail(&self) -> String {
        self.console.tail().await
    }
}

/// Waits for the first of three ends: the process exits, the guest shuts down, or QEMU stops answering.
async fn ended(process: Arc<Process>, group: Cgroup, qmp: Arc<Qmp>, console: Console, log: File) -> ExitReason {
    let heard = AtomicU64::new(qmp.heard());
    let question = || ask(&qmp, &heard);
    tokio::select! {
        biased;
        reason = process.exited() => with_log(reason, &log),
        () = qmp.shutdown() => ExitReason::GuestShutdown { console: console.tail().await },
        hung = watchdog::watch(process.pid(), &group, question) => {
            process.kill();
            hung
        }
    }
}

/// The watchdog's question. `heard` is the number of answers at the end of the question before it.
async fn ask(qmp: &Qmp, heard: &AtomicU64) -> Reply {
    let told = qmp.run("query-status", json!({})).await;
    // An answer to any command, a refusal, and one that came too late for its command: all show that QEMU is alive.
    let now = qmp.heard();
    if heard.swap(now, Ordering::Relaxed) != now {
        return Reply::Answered;
    }
    match told {
        Err(VmmError::System { source, .. }) if is_shortage(&source) => Reply::NotAsked,
        _ => Reply::Silent,
    }
}

pub(super) fn with_log(reason: ExitReason, log: &File) -> ExitReason {
    match reason {
        ExitReason::Exited { code, .. } => ExitReason::Exited { code, message: log_text(log) },
        other => other,
    }
}
