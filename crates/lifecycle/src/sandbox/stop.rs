//! Stopping a sandbox: its processes end, its disk is kept.
//!
//! ```text
//! row stopping ─► workload ends ─► machine gone but for its disk ─► store disk ─► row stopped ─► disk gone
//!                                                                       └── fails: again, until it succeeds or is deleted
//! ```

use super::handle::{Reply, Request, refused};
use super::{Driver, Life};
use crate::error::{CheckpointError, LifecycleError, chain};
use crate::machines::Body;
use crate::policy::{Action, Refusal};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::SandboxRow;
use leapbox_ids::CheckpointId;
use std::time::Duration;

/// After a disk could not be stored, it is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(5);

/// A machine that was to stop, and goes on instead; and who is to be told.
pub(super) type Unstopped = (Box<dyn Body>, Reply<SandboxRow>, LifecycleError);

impl Driver {
    /// Ends the workload and the machine, but for its disk.
    pub(super) async fn stop(&mut self, machine: Box<dyn Body>, reply: Reply<SandboxRow>) -> Result<Life, Unstopped> {
        if let Err(error) = self.enter(self.row_in(SandboxState::Stopping)).await {
            return Err((machine, reply, error));
        }
        self.cut_off();
        machine.shut_down().await;
        machine.end_but_disk().await;
        Ok(Life::Stopping(Some(reply)))
    }

    /// Stores the disk that is left of a sandbox. There is no way back, so this is tried until it succeeds; whoever asked
    /// for the stop is told of the first failure.
    pub(super) async fn stopping(&mut self, mut reply: Option<Reply<SandboxRow>>) -> Life {
        loop {
            let Err(error) = self.store_disk().await else {
                if let Some(reply) = reply {
                    let _ = reply.send(Ok(self.row()));
                }
                return Life::Stopped;
            };
            let (id, again_s) = (self.row().id, STORE_AGAIN.as_secs());
            tracing::warn!(sandbox = %id, error = %chain(&error), again_s, "a disk could not be stored");
            let is_lost = matches!(error, LifecycleError::Checkpoint(CheckpointError::DiskLost));
            let reason = error.to_string();
            if let Some(reply) = reply.take() {
                let _ = reply.send(Err(error));
            }
            if is_lost {
                return self.gone(Some(reason)).await;
            }
            if let Some(life) = self.between_attempts().await {
                return life;
            }
        }
    }

    async fn store_disk(&mut self) -> Result<(), LifecycleError> {
        let _turn = self.storing_turn().await?;
        let checkpoint = CheckpointId::generate();
        let before = self.row();
        let stored = self.inner.machines.salvage(&before, checkpoint.as_str()).await;
        let row = self.row_of_stored(SandboxState::Stopped, &checkpoint);
        let written = match stored {
            Ok(_unnamed) => self.inner.db.sandbox_update(&row).await.map_err(LifecycleError::from),
            Err(error) => Err(error.into()),
        };
        // A row that was refused may have been written all the same: the disk stays, and what was stored is garbage for
        // later.
        written?;
        self.inner.machines.remove_disk(&before).await;
        self.publish_row(row);
        Ok(())
    }

    /// Waits for the next attempt. Its owner may give the sandbox up meanwhile.
    async fn between_attempts(&mut self) -> Option<Life> {
        let again = tokio::time::sleep(STORE_AGAIN);
        tokio::pin!(again);
        loop {
            let stop = self.inner.stop.clone();
            let request = tokio::select! {
                biased;
                () = stop.cancelled() => return Some(Life::Over),
                request = self.requests.recv() => match request {
                    Some(request) => request,
                    None => return Some(Life::Over),
                },
                () = &mut again => return None,
            };
            let row = self.row();
            match request {
                Request::Do(Action::Delete, reply) => {
                    if let Some(life) = self.answer_deleted(reply).await {
                        self.inner.machines.remove_disk(&row).await;
                        return Some(life);
                    }
                }
                Request::Do(_, reply) => drop(reply.send(Err(refused(&row, Refusal::InTransition)))),
                Request::Snapshot(_, reply) => drop(reply.send(Err(refused(&row, Refusal::InTransition)))),
                Request::Wake(_) => {}
            }
        }
    }
}
