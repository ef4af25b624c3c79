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
use crate::error::{StartError, chain};
use crate::inner::Inner;
use crate::machines::stored_vm;
use crate::sandbox::{Life, Published, sandbox};
use futures::stream::{self, StreamExt};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::{Db, SandboxRow};
use leapbox_vmm::Vmm;
use std::collections::BTreeSet;
use std::sync::Arc;

const AT_ONCE: usize = 32;

/// Refuses to start where another driver's machines still run: this one could not take them over and would end them.
pub(crate) async fn check_driver(db: &Db, vmm: &dyn Vmm) -> Result<(), StartError> {
    let mut others = Vec::new();
    for row in db.sandbox_unfinished().await? {
        let stored = row.machine.as_deref().and_then(stored_vm);
        others.extend(stored.filter(|record| record.driver != vmm.name() && record.is_alive()));
    }
    match others.first() {
        None => Ok(()),
        Some(record) => {
            Err(StartError::OtherDriver { count: others.len(), recorded: record.driver.clone(), own: vmm.name() })
        }
    }
}

/// Goes on with every sandbox of the former server, or buries it.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<(), StartError> {
    let mut owned = BTreeSet::new();
    let rows = inner.db.sandbox_unfinished().await?;
    // Side by side, because a guest that does not answer costs its whole deadline.
    let mut recovered = stream::iter(rows).map(|row| recover_one(inner, row)).buffer_unordered(AT_ONCE);
    while let Some(recovered) = recovered.next().await {
        let Recovered { row, life } = recovered?;
        // The machine that it has, or whose disk is still to be stored.
        owned.extend(row.machine.as_deref().and_then(stored_vm).map(|record| record.name));
        go_on(inner, row, life);
    }
    drop(recovered);
    inner.machines.remove_leftovers(&owned).await.map_err(StartError::Leftovers)
}

struct Recovered {
    row: SandboxRow,
    life: Life,
}

async fn recover_one(inner: &Arc<Inner>, row: SandboxRow) -> Result<Recovered, StartError> {
    use SandboxState::{Deleted, Deleting, Paused, Running, Snapshotting, Starting, Stopped, Stopping, Unpausing};
    match (row.state, row.checkpoint.is_some()) {
        (Running | Snapshotting, _) => adopt(inner, row).await,
        (Paused | Unpausing, true) => asleep(inner, row, Paused, Life::Paused).await,
        (Stopped | Starting, true) => asleep(inner, row, Stopped, Life::Stopped).await,
        // The workload had its time to end, and the disk is what counts.
        (Stopping, _) => Ok(Recovered { row, life: Life::Stopping(None) }),
        (Starting | Deleting | Deleted, _) => bury(inner, row, None).await,
        (Paused | Unpausing | Stopped, false) => {
            bury(inner, row, Some("nothing is stored of it: its row is damaged".to_owned())).await
        }
    }
}

/// Takes over a machine that runs, or was being stored.
async fn adopt(inner: &Arc<Inner>, row: SandboxRow) -> Result<Recovered, StartError> {
    let egress = inner.egress_of(&row).map_err(|error| chain(&error));
    let adopted = match egress {
        Ok(egress) => inner.machines.adopt(&row, &egress).await,
        Err(reason) => Err(reason),
    };
    let machine = match adopted {
        Ok(machine) => machine,
        Err(reason) => return bury(inner, row, Some(reason)).await,
    };
    let id = row.id.clone();
    tracing::info!(event = "adopted", sandbox = %id, "adopted a running sandbox");
    if row.state == SandboxState::Running {
        return Ok(Recovered { row, life: Life::Running(machine) });
    }
    // The guest may be frozen, and its clock may have stood still.
    if let Err(error) = machine.go_on(&id).await {
        tracing::warn!(sandbox = %id, error = %chain(&error), "an adopted guest did not confirm that it goes on");
    }
    let row = settle(inner, row, SandboxState::Running).await?;
    Ok(Recovered { row, life: Life::Running(machine) })
}

async fn asleep(inner: &Arc<Inner>, row: SandboxRow, state: SandboxState, life: Life) -> Result<Recovered, StartError> {
    let row = if row.state == state { row } else { settle(inner, row, state).await? };
    Ok(Recovered { row, life })
}

async fn settle(inner: &Arc<Inner>, mut row: SandboxRow, state: SandboxState) -> Result<SandboxRow, StartError> {
    row.state = state;
    row.state_changed_at_ms = now_ms();
    if state != SandboxState::Running {
        row.machine = None;
        row.timeout_at_ms = None;
    }
    inner.db.sandbox_update(&row).await?;
    Ok(row)
}

/// Ends a row: of what was being made or deleted, without a word; of what was lost, with the reason.
async fn bury(inner: &Arc<Inner>, mut row: SandboxRow, reason: Option<String>) -> Result<Recovered, StartError> {
    if let Some(reason) = &reason {
        tracing::warn!(sandbox = %row.id, %reason, "a sandbox was lost");
    }
    row.state_reason = reason;
    (row.checkpoint, row.base, row.image, row.environment) = (None, None, None, None);
    (row.network_secrets, row.egress_ca) = (None, None);
    let row = settle(inner, row, SandboxState::Deleted).await?;
    Ok(Recovered { row, life: Life::Over })
}

fn go_on(inner: &Arc<Inner>, row: SandboxRow, life: Life) {
    if matches!(life, Life::Over) {
        return;
    }
    let id = row.id.clone();
    let Some(image) = inner.catalog.config_of(&row.template, row.image.as_deref()) else {
        // Its row and what is stored of it stay, for when the template is there again.
        tracing::error!(sandbox = %id, template = %row.template, "the template of a sandbox is not there");
        return;
    };
    let (handle, driver) = sandbox(Arc::clone(inner), Published::new(row, image));
    inner.remember(id, handle);
    inner.tasks.spawn(driver.go_on(life));
}
