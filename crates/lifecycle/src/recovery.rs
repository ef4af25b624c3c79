//! Takes over the sandboxes of the previous server when the server starts, in the state that their rows name.
//!
//! ```text
//! running, snapshotting ─► machine adopted and resumed ─► running     (a lost machine: deleted, with the reason)
//! paused, unpausing     ─► paused                                     (a half-woken machine is removed)
//! stopping              ─► machine ended, its disk stored (in the background) ─► stopped
//! stopped, starting with a stored disk ─► stopped
//! starting without one, deleting       ─► deleted  (the create was never acknowledged, or the delete is finished)
//! ```
//!
//! Whatever the host still has that no adopted sandbox owns is removed: half-made and half-woken machines, pooled
//! clones. Called by `service`, before it serves anything.

use crate::clock::now_ms;
use crate::error::StartError;
use crate::handle::Published;
use crate::sandbox::{NextState, new_task};
use crate::shared::Shared;
use futures::stream::{self, StreamExt};
use leapbox_db::{Db, Live, Sandbox, Status};
use leapbox_errors::chain;
use leapbox_vmm::Vmm;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Sandboxes that are recovered at once. One whose guest does not answer costs its whole deadline of ten seconds, and
/// the server serves nothing until all of them have been looked at.
const AT_ONCE: usize = 32;

/// Refuses to start where machines of another driver still run: this driver cannot take them over, and recovery would
/// remove them.
pub(crate) async fn check_driver(db: &Db, vmm: &dyn Vmm) -> Result<(), StartError> {
    let sandboxes = db.sandbox_unfinished().await?;
    let records = sandboxes.iter().filter_map(|sandbox| Some(&sandbox.status.live()?.vm.machine));
    let others: Vec<_> = records.filter(|record| record.driver != vmm.name() && record.is_alive()).collect();
    match others.first() {
        None => Ok(()),
        Some(record) => {
            Err(StartError::OtherDriver { count: others.len(), recorded: record.driver.clone(), own: vmm.name() })
        }
    }
}

/// Re-adopts each sandbox of the previous server, or marks it deleted; then removes every machine that none of them
/// owns.
pub(crate) async fn recover(shared: &Arc<Shared>) -> Result<(), StartError> {
    let mut owned = BTreeSet::new();
    let sandboxes = shared.db.sandbox_unfinished().await?;
    let mut recovered = stream::iter(sandboxes).map(|found| recover_one(shared, found)).buffer_unordered(AT_ONCE);
    while let Some(recovered) = recovered.next().await {
        let (sandbox, next) = recovered?;
        // Also the machine of a sandbox that is being stopped: its disk is still to be stored.
        owned.extend(sandbox.status.live().map(|live| live.vm.machine.name.clone()));
        resume(shared, sandbox, next);
    }
    drop(recovered);
    // Only now that every sandbox has been looked at: a machine that is removed too early cannot be adopted any more. A
    // row that could not be read has ended the start before, because its machine would be taken for a leftover.
    shared.machines.remove_leftovers(&owned).await.map_err(StartError::Leftovers)
}

type Recovered = (Sandbox, NextState);

async fn recover_one(shared: &Arc<Shared>, found: Sandbox) -> Result<Recovered, StartError> {
    match found.status.clone() {
        Status::Running(live) | Status::Snapshotting(live) => adopt(shared, found, live).await,
        Status::Paused(stored) => Ok((found, NextState::Paused(stored))),
        // The machine that it was waking in is removed, and a checkpoint is removed only after the row says `running`.
        Status::Unpausing(stored) => {
            Ok((settle(shared, &found, Status::Paused(stored.clone()), None).await?, NextState::Paused(stored)))
        }
        Status::Stopped(stored) => Ok((found, NextState::Stopped(stored))),
        Status::Booting(stored) => {
            Ok((settle(shared, &found, Status::Stopped(stored.clone()), None).await?, NextState::Stopped(stored)))
        }
        // The machine may still run. Its workload has had its time to end, so the task only stores the disk.
        Status::Stopping(live) => Ok((found, NextState::Stopping(live, None))),
        Status::Creating(_) | Status::Deleting(_) | Status::Deleted => {
            Ok((settle(shared, &found, Status::Deleted, None).await?, NextState::Ended))
        }
    }
}

/// Takes over a machine that was running, or was being stored.
async fn adopt(shared: &Arc<Shared>, found: Sandbox, live: Live) -> Result<Recovered, StartError> {
    let id = found.id().clone();
    let egress = match shared.egress_of(&found.spec) {
        Ok(egress) => egress,
        Err(error) => {
            tracing::warn!(sandbox = %id, error = %chain(&error), "a sandbox could not be taken over");
            return mark_lost(shared, &found, error.to_string()).await;
        }
    };
    let machine = match shared.machines.adopt(&found.spec, &live, &egress).await {
        Ok(machine) => machine,
        Err(error) => {
            tracing::warn!(sandbox = %id, error = %chain(&error), "a sandbox could not be taken over");
            // The cause may name the host's paths; its owner reads this instead.
            let reason = "its virtual machine was lost while the server was down".to_owned();
            return mark_lost(shared, &found, reason).await;
        }
    };
    tracing::info!(event = "adopted", sandbox = %id, "adopted a running sandbox");
    // The row stays as it is, and the timeout with it: a restart does not make a sandbox live longer.
    if let Status::Running(_) = found.status {
        return Ok((found, NextState::Running(live, machine)));
    }
    // It was being stored: its workload may be frozen, and its clock may have stood still. If the guest does not
    // confirm now, its task asks again.
    if let Err(error) = machine.resume_workload(&id).await {
        tracing::warn!(
            sandbox = %id, error = %chain(&error),
            "an adopted guest did not confirm that its workload runs again; it is asked again"
        );
    }
    let running = settle(shared, &found, Status::Running(live.clone()), None).await?;
    Ok((running, NextState::Running(live, machine)))
}

/// Marks a sandbox deleted with a reason, so that its owner sees what happened instead of a 404.
async fn mark_lost(shared: &Arc<Shared>, found: &Sandbox, reason: String) -> Result<Recovered, StartError> {
    tracing::warn!(sandbox = %found.id(), %reason, "a sandbox was lost");
    Ok((settle(shared, found, Status::Deleted, Some(reason)).await?, NextState::Ended))
}

/// Writes the status that recovery has decided on.
async fn settle(
    shared: &Arc<Shared>,
    found: &Sandbox,
    status: Status,
    reason: Option<String>,
) -> Result<Sandbox, StartError> {
    let settled = Sandbox { reason, ..found.in_status(status, now_ms()) };
    shared.db.sandbox_update(&settled).await?;
    Ok(settled)
}

/// Starts the task of a recovered sandbox.
fn resume(shared: &Arc<Shared>, found: Sandbox, next: NextState) {
    let image = match &next {
        NextState::Running(live, _) | NextState::Stopping(live, _) => &live.origin.image,
        NextState::Paused(stored) => &stored.origin.image,
        NextState::Stopped(stored) => &stored.image,
        NextState::Ended => return,
    };
    let id = found.id().clone();
    let Some(image) = shared.catalog.config_of(&found.spec.template, Some(image)) else {
        // Its row and its checkpoint stay, so that it can be used again once `leapbox setup` has built the template.
        tracing::error!(
            sandbox = %id, template = %found.spec.template,
            "the template of a sandbox is missing: the sandbox cannot be used until `leapbox setup` has built it again"
        );
        return;
    };
    let (handle, task) = new_task(Arc::clone(shared), Published::new(found, image));
    shared.register(id, handle);
    shared.tasks.spawn(task.resume(next));
}
