//! Controls a running QEMU over its control connection (QMP).

use super::console::Console;
use super::qmp::Qmp;
use super::ram::NAME;
use super::state;
use crate::driver::Control;
use crate::error::{ExitReason, VmmError};
use crate::log::log_text;
use crate::machine::Machine;
use crate::memory::Mapping;
use crate::process::Process;
use crate::socket::SocketPath;
use crate::spec::Snapshot;
use crate::started::Started;
use crate::watchdog;
use async_trait::async_trait;
use leapbox_errors::FileError;
use serde_json::json;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// The [`Control`] of one QEMU.
struct QemuControl {
    qmp: Arc<Qmp>,
    console: Console,
}

/// Opens the control connection and makes a [`Machine`] of the process. A restore goes on to use the returned
/// connection. On failure nothing of the machine is left.
pub(super) async fn connect(
    started: Started,
    log: File,
    socket: SocketPath,
    deadline: Duration,
) -> Result<(Machine, Arc<Qmp>), VmmError> {
    let path = socket.path();
    let connected = tokio::select! {
        biased;
        qmp = Qmp::connect(&path, deadline) => qmp,
        reason = started.process.exited() => {
            Err(VmmError::Died { stage: "starting", reason: with_log(reason, &log) })
        }
    };
    let qmp = match connected {
        Ok(qmp) => Arc::new(qmp),
        Err(error) => return Err(started.abort(error, async |reason| with_log(reason, &log)).await),
    };
    let console = Console::new(Arc::clone(&qmp));
    let control = QemuControl { qmp: Arc::clone(&qmp), console: console.clone() };
    let asked = Arc::clone(&qmp);
    let machine = Machine::watch(started, control, |process| ended(process, asked, console, log));
    Ok((machine, qmp))
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
async fn ended(process: Arc<Process>, qmp: Arc<Qmp>, console: Console, log: File) -> ExitReason {
    let ping = || async { qmp.run("query-status", json!({})).await.is_ok() };
    tokio::select! {
        biased;
        reason = process.exited() => with_log(reason, &log),
        () = qmp.shutdown() => ExitReason::GuestShutdown { console: console.tail().await },
        hung = watchdog::watch(ping) => {
            process.kill();
            hung
        }
    }
}

fn with_log(reason: ExitReason, log: &File) -> ExitReason {
    match reason {
        ExitReason::Exited { code, .. } => ExitReason::Exited { code, message: log_text(log) },
        other => other,
    }
}
