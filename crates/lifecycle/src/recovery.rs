//! What a start of the server does about the one before it.
//!
//! ```text
//! running, snapshotting ─► machine adopted, let go on ─► running      (lost machine: failed, with the reason)
//! paused, unpausing     ─► paused                                     (a half-woken machine is removed)
//! stopping              ─► machine ended, its disk stored (in the background) ─► stopped
//! stopped, starting over a stored disk ─► stopped
//! starting, deleting    ─► gone                                       (nobody was told of it, or it was to go)
//! ```
//!
//! Whatever the host still has that no adopted sandbox owns is removed: half-made and half-woken machines, pooled clones.

use crate::clock::now_ms;
use crate::error::StartError;
use crate::handle::Published;
use crate::inner::Inner;
use crate::sandbox::{NextState, sandbox};
use futures::stream::{self, StreamExt};
use leapbox_db::{Db, Live, Sandbox, Status};
use leapbox_errors::chain;
use leapbox_vmm::Vmm;
use std::collections::BTreeSet;
use std::sync::Arc;

const AT_ONCE: usize = 32;

/// Refuses to start where another driver's machines still run: this one could not take them over and would end them.
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

/// Goes on with every sandbox of the former server, or marks it deleted.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<(), StartError> {
    let mut owned = BTreeSet::new();
    let sandboxes = inner.db.sandbox_unfinished().await?;
    // Side by side, because a guest that does not answer costs its whole deadline.
    let mut recovered = stream::iter(sandboxes).map(|found| recover_one(inner, found)).buffer_unordered(AT_ONCE);
    while let Some(recovered) = recovered.next().await {
        let (sandbox, next) = recovered?;
        // The machine that it has, or whose disk is still to be stored.
        owned.extend(sandbox.status.live().map(|live| live.vm.machine.name.clone()));
        resume(inner, sandbox, next);
    }
    drop(recovered);
    inner.machines.remove_leftovers(&owned).await.map_err(StartError::Leftovers)
}

type Recovered = (Sandbox, NextState);

async fn recover_one(inner: &Arc<Inner>, found: Sandbox) -> Result<Recovered, StartError> {
    match found.status.clone() {
        Status::Running(live) | Status::Snapshotting(live) => adopt(inner, found, live).await,
        Status::Paused(stored) => Ok((found, NextState::Paused(stored))),
        Status::Unpausing(stored) => {
            Ok((settle(inner, &found, Status::Paused(stored.clone()), None).await?, NextState::Paused(stored)))
        }
        Status::Stopped(stored) => Ok((found, NextState::Stopped(stored))),
        Status::Starting(stored) => {
            Ok((settle(inner, &found, Status::Stopped(stored.clone()), None).await?, NextState::Stopped(stored)))
        }
        // The workload had its time to end, and the disk is what counts.
        Status::Stopping(live) => Ok((found, NextState::Stopping(live, None))),
        Status::Creating(_) | Status::Deleting(_) | Status::Deleted => {
            Ok((settle(inner, &found, Status::Deleted, None).await?, NextState::Ended))
        }
    }
}

/// Takes over a machine that runs, or was being stored.
async fn adopt(inner: &Arc<Inner>, found: Sandbox, live: Live) -> Result<Recovered, StartError> {
    let id = found.id().clone();
    let egress = match inner.egress_of(&found.spec) {
        Ok(egress) => egress,
        Err(error) => {
            tracing::warn!(sandbox = %id, error = %chain(&error), "a sandbox could not be taken over");
            return mark_lost(inner, &found, error.to_string()).await;
        }
    };
    let machine = match inner.machines.adopt(&found.spec, &live, &egress).await {
        Ok(machine) => machine,
        Err(error) => {
            tracing::warn!(sandbox = %id, error = %chain(&error), "a sandbox could not be taken over");
            let reason = "its virtual machine was lost while the server was down".to_owned();
            return mark_lost(inner, &found, reason).await;
        }
    };
    tracing::info!(event = "adopted", sandbox = %id, "adopted a running sandbox");
    if let Status::Running(_) = found.status {
        return Ok((found, NextState::Running(live, machine)));
    }
    // The guest may be frozen, and its clock may have stood still.
    if let Err(error) = machine.go_on(&id).await {
        tracing::warn!(sandbox = %id, error = %chain(&error), "an adopted guest did not confirm that it goes on");
    }
    let running = settle(inner, &found, Status::Running(live.clone()), None).await?;
    Ok((running, NextState::Running(live, machine)))
}

async fn mark_lost(inner: &Arc<Inner>, found: &Sandbox, reason: String) -> Result<Recovered, StartError> {
    tracing::warn!(sandbox = %found.id(), %reason, "a sandbox was lost");
    Ok((settle(inner, found, Status::Deleted, Some(reason)).await?, NextState::Ended))
}

async fn settle(
    inner: &Arc<Inner>,
    found: &Sandbox,
    status: Status,
    reason: Option<String>,
) -> Result<Sandbox, StartError> {
    let settled = Sandbox { reason, ..found.in_status(status, now_ms()) };
    inner.db.sandbox_update(&settled).await?;
    Ok(settled)
}

fn resume(inner: &Arc<Inner>, found: Sandbox, next: NextState) {
    let image = match &next {
        NextState::Running(live, _) | NextState::Stopping(live, _) => &live.origin.image,
        NextState::Paused(stored) => &stored.origin.image,
        NextState::Stopped(stored) => &stored.image,
        NextState::Ended => return,
    };
    let id = found.id().clone();
    let Some(image) = inner.catalog.config_of(&found.spec.template, Some(image)) else {
        // Its row and what is stored of it stay, for when the template is there again.
        tracing::error!(sandbox = %id, template = %found.spec.template, "the template of a sandbox is not there");
        return;
    };
    let (handle, driver) = sandbox(Arc::clone(inner), Published::new(found, image));
    inner.remember(id, handle);
    inner.tasks.spawn(driver.resume(next));
}
