//! What a start of the server does about the one before it.
//!
//! Rows that say `running` are adopted, with their timeouts going on. Everything else of the former server is removed:
//! half-made sandboxes (nobody was told of them), half-deleted ones, pooled clones, and whatever the host still has
//! that no adopted sandbox owns.

use crate::clock::now_ms;
use crate::error::{StartError, chain};
use crate::sandbox::sandbox;
use crate::service::Inner;
use crate::vm::{StoredVm, Vm};
use futures::stream::{self, StreamExt};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::{Db, SandboxRow};
use leapbox_vmm::{Shape, Vmm};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const ADOPTIONS_AT_ONCE: usize = 32;
/// Failed sandboxes are shown this long.
const KEEP_DELETED: Duration = Duration::from_secs(24 * 3600);
const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// Refuses to start where another driver's machines still run: this one could not take them over and would end them.
pub(crate) async fn check_driver(db: &Db, vmm: &dyn Vmm) -> Result<(), StartError> {
    let mut others = Vec::new();
    for row in db.sandbox_unfinished().await? {
        let stored = row.machine.as_deref().and_then(|json| serde_json::from_str::<StoredVm>(json).ok());
        others.extend(stored.filter(|vm| vm.machine.driver != vmm.name() && vm.machine.is_alive()));
    }
    match others.first() {
        None => Ok(()),
        Some(vm) => {
            Err(StartError::OtherDriver { count: others.len(), recorded: vm.machine.driver.clone(), own: vmm.name() })
        }
    }
}

pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<(), StartError> {
    let mut owned = BTreeSet::new();
    let rows = inner.db.sandbox_unfinished().await?;
    // Side by side, because a guest that does not answer costs its whole deadline.
    let mut adoptions = stream::iter(rows)
        .map(|row| async {
            let adopted = adopt(inner, &row).await;
            (row, adopted)
        })
        .buffer_unordered(ADOPTIONS_AT_ONCE);
    while let Some((row, adopted)) = adoptions.next().await {
        match adopted {
            Ok(vm) => {
                tracing::info!(sandbox = %row.id, "adopted a running sandbox");
                owned.insert(vm.machine.record().name);
                go_on(inner, row, vm);
            }
            Err(lost) => bury(inner, row, lost).await?,
        }
    }
    drop(adoptions);
    remove_leftovers(inner, &owned).await?;
    Ok(())
}

/// Why a row's sandbox is not taken over.
enum Lost {
    /// It was being made or deleted; nobody counts on it.
    Unfinished,
    /// It ran, and cannot be found again.
    Failed(String),
}

async fn adopt(inner: &Arc<Inner>, row: &SandboxRow) -> Result<Vm, Lost> {
    if row.state != SandboxState::Running {
        return Err(Lost::Unfinished);
    }
    let stored = row.machine.as_deref().and_then(|json| serde_json::from_str::<StoredVm>(json).ok());
    let stored = stored.ok_or_else(|| Lost::Failed("its record cannot be read".to_owned()))?;
    if inner.catalog.by_id(&row.template).is_none() {
        return Err(Lost::Failed("its template does not exist any more".to_owned()));
    }
    let permit = inner.capacity.adopt(Shape { vcpus: row.vcpu, memory_mib: row.memory_mib });
    inner.launcher.adopt(stored, permit).await.map_err(|error| {
        tracing::warn!(sandbox = %row.id, error = %chain(&error), "a sandbox could not be taken over");
        Lost::Failed("its virtual machine was lost while the server was down".to_owned())
    })
}

fn go_on(inner: &Arc<Inner>, row: SandboxRow, vm: Vm) {
    let Some(template) = inner.catalog.by_id(&row.template) else { return };
    let id = row.id.clone();
    let (handle, driver) = sandbox(Arc::clone(inner), row, Arc::clone(&template.config));
    inner.remember(id, handle);
    inner.tasks.spawn(driver.adopted(vm));
}

async fn bury(inner: &Arc<Inner>, mut row: SandboxRow, lost: Lost) -> Result<(), StartError> {
    row.state = SandboxState::Deleted;
    row.state_changed_at_ms = now_ms();
    row.machine = None;
    row.state_reason = match lost {
        Lost::Unfinished => None,
        Lost::Failed(reason) => {
            tracing::warn!(sandbox = %row.id, %reason, "a sandbox was lost");
            Some(reason)
        }
    };
    inner.db.sandbox_update(&row).await?;
    Ok(())
}

/// Removes every machine, folder and disk that no adopted sandbox owns.
async fn remove_leftovers(inner: &Arc<Inner>, owned: &BTreeSet<String>) -> Result<(), StartError> {
    let launcher = &inner.launcher;
    let [machines_dir, disks_dir] = launcher.dirs();
    let mut names: BTreeSet<String> = launcher.vmm.leftovers().await?.into_iter().collect();
    names.extend(entries(machines_dir));
    names.extend(entries(disks_dir).filter_map(|file| file.strip_suffix(".ext4").map(str::to_owned)));
    for name in names.difference(owned) {
        tracing::info!(machine = %name, "removing what is left of a machine");
        launcher.vmm.reap(name, &machines_dir.join(name)).await?;
        // Gone already is what we want; anything else shows at the next start.
        let _ = tokio::fs::remove_file(launcher.disk(name)).await;
    }
    Ok(())
}

fn entries(dir: &std::path::Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Forgets deleted sandboxes after a day, hour by hour.
pub(crate) fn purge_regularly(inner: &Arc<Inner>) {
    let inner = Arc::clone(inner);
    inner.tasks.clone().spawn(async move {
        let mut tick = tokio::time::interval(PURGE_EVERY);
        loop {
            tokio::select! {
                () = inner.stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let before = now_ms() - KEEP_DELETED.as_millis() as i64;
            if let Err(error) = inner.db.sandbox_purge_deleted(before).await {
                tracing::warn!(error = %chain(&error), "old sandboxes could not be purged");
            }
        }
    });
}
