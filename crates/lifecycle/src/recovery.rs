//! Finds out, when the server starts, what has become of the sandboxes of the previous one.
//!
//! ```text
//! running, snapshotting ─► process alive, or not known ─► task `adopting`: taken over while the server serves
//!                       └► proven dead ─► deleted, with the reason
//! paused, unpausing     ─► paused                                     (a half-woken machine is removed)
//! stopping              ─► machine ended, its disk stored (in the background) ─► stopped
//! stopped, starting with a stored disk ─► stopped
//! starting without one, deleting       ─► deleted  (the create was never acknowledged, or the delete is finished)
//! ```
//!
//! Nothing here waits for a VMM or a guest: a sandbox's own task does, and the requests for that sandbox with it.
//!
//! Whatever the host still has that no sandbox owns is removed: half-made and half-woken machines, pooled clones. A
//! living machine of a sandbox that the database has never heard of is none of these: such a database is older than the
//! machine, and the server refuses to start over it. Whether this server's settings fit what runs was checked before
//! (`takeover`). Called by `service`, before it serves anything.

use crate::clock::now_ms;
use crate::error::StartError;
use crate::handle::Published;
use crate::machines::FoundMachine;
use crate::sandbox::{LOST, NextState, new_task};
use crate::shared::Shared;
use futures::stream::{self, StreamExt, TryStreamExt};
use leapbox_db::{Live, Sandbox, SetAside, SetAsideKind, Status};
use leapbox_errors::chain;
use leapbox_vmm::Life;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Sandboxes that an error of the start names; the log has them all.
const NAMED_MAX: usize = 20;
/// Leftovers that are removed at once. Each waits some milliseconds for its processes to end.
const REMOVED_AT_ONCE: usize = 16;

/// What is done about living machines whose sandboxes the database does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownMachines {
    /// The server does not start.
    Refuse,
    /// They are left alone for the days of the garbage collection's grace, and removed then.
    SetAside,
}

/// Starts the task of each sandbox of the previous server, or marks it deleted; then removes every machine that none of
/// them owns.
pub(crate) async fn recover(shared: &Arc<Shared>, unknown: UnknownMachines) -> Result<(), StartError> {
    let sandboxes = shared.db.sandbox_unfinished().await?;
    // Also the machine of a sandbox that is being stopped: its disk is still to be stored.
    let owned: BTreeSet<String> =
        sandboxes.iter().filter_map(|sandbox| Some(sandbox.status.live()?.vm.machine.name.clone())).collect();
    let leftovers = leftovers(shared, &owned, unknown).await?;
    // Before any task begins: a half-woken machine must have ended before its sandbox can be woken again.
    let removals = leftovers.iter().map(|name| async move {
        tracing::info!(machine = %name, "removing what is left of a machine");
        shared.machines.remove(name).await.map_err(StartError::Leftovers)
    });
    stream::iter(removals).buffer_unordered(REMOVED_AT_ONCE).try_collect::<()>().await?;
    for found in sandboxes {
        let (sandbox, next) = recover_one(shared, found).await?;
        resume(shared, sandbox, next);
    }
    Ok(())
}

/// The machines that are to be removed: all but the `owned` ones and those that are set aside.
async fn leftovers(
    shared: &Arc<Shared>,
    owned: &BTreeSet<String>,
    unknown: UnknownMachines,
) -> Result<Vec<String>, StartError> {
    let found = shared.machines.found().await.map_err(StartError::Leftovers)?;
    let set_aside: BTreeSet<String> = shared.db.set_aside_list().await?.into_iter().map(|one| one.name).collect();
    let newest = shared.db.installation().await?.map_or(0, |installation| installation.sequence);
    let (mut leftovers, mut doubtful) = (Vec::new(), Vec::new());
    for machine in found.into_iter().filter(|machine| !owned.contains(&machine.name)) {
        if set_aside.contains(&machine.name) {
            continue;
        }
        // A row in whatever state that does not name this machine says that it is none of the sandbox's any more, unless
        // the row is older than the machine.
        match &machine.owner {
            Some(owner) if owner.sequence > newest || shared.db.sandbox_by_id(&owner.sandbox).await?.is_none() => {
                doubtful.push(machine);
            }
            _ => leftovers.push(machine.name),
        }
    }
    if doubtful.is_empty() {
        return Ok(leftovers);
    }
    match unknown {
        UnknownMachines::Refuse => Err(unknown_machines(&doubtful)),
        UnknownMachines::SetAside => {
            set_machines_aside(shared, &doubtful).await?;
            Ok(leftovers)
        }
    }
}

fn unknown_machines(doubtful: &[FoundMachine]) -> StartError {
    for machine in doubtful {
        let sandbox = machine.owner.as_ref().map(|owner| owner.sandbox.to_string());
        tracing::error!(event = "unknown_machine", machine = %machine.name, sandbox, "a machine has no row");
    }
    let names: Vec<_> = doubtful.iter().filter_map(|machine| Some(machine.owner.as_ref()?.sandbox.as_str())).collect();
    StartError::UnknownMachines { count: doubtful.len(), names: shortened(&names) }
}

async fn set_machines_aside(shared: &Arc<Shared>, machines: &[FoundMachine]) -> Result<(), StartError> {
    let row = |machine: &FoundMachine| SetAside {
        name: machine.name.clone(),
        kind: SetAsideKind::Machine,
        bytes: 0,
        waited_s: 0,
    };
    let rows: Vec<_> = machines.iter().map(row).collect();
    for machine in machines {
        let sandbox = machine.owner.as_ref().map(|owner| owner.sandbox.to_string());
        tracing::warn!(
            event = "machine_set_aside", machine = %machine.name, sandbox,
            "a machine whose sandbox the database does not know is left alone; `leapbox gc` shows it"
        );
    }
    Ok(shared.db.set_aside_put(&rows).await?)
}

/// The first names of a list, for an error's text.
pub(crate) fn shortened(names: &[&str]) -> String {
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

async fn recover_one(shared: &Arc<Shared>, found: Sandbox) -> Result<(Sandbox, NextState), StartError> {
    match found.status.clone() {
        Status::Running(live) | Status::Snapshotting(live) => left_running(shared, found, live).await,
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

/// Decides about a sandbox that had a machine: only a machine whose process is proven dead is lost.
async fn left_running(shared: &Arc<Shared>, found: Sandbox, live: Live) -> Result<(Sandbox, NextState), StartError> {
    match shared.machines.life(&live.vm) {
        Life::Alive => {}
        Life::Unknown(error) => tracing::warn!(
            sandbox = %found.id(), error = %chain(&error),
            "it is not known yet whether a sandbox's machine lives: it is treated as alive"
        ),
        Life::Dead => {
            tracing::warn!(event = "sandbox_failed", sandbox = %found.id(), reason = LOST, "a sandbox was lost");
            let lost = settle(shared, &found, Status::Deleted, Some(LOST.to_owned())).await?;
            shared.machines.end_unadopted(&live.vm).await;
            return Ok((lost, NextState::Ended));
        }
    }
    Ok((found, NextState::Adopting(live)))
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
        NextState::Adopting(live) | NextState::Running(live, _) | NextState::Stopping(live, _) => &live.origin.image,
        NextState::Paused(stored) => &stored.origin.image,
        NextState::Stopped(stored) => &stored.image,
        NextState::Ended => return,
    };
    let id = found.id().clone();
    let image = shared.catalog.config_of(&found.spec.template, Some(image));
    if image.is_none() {
        // It can be shown and deleted; what needs its guest is refused with what to do.
        tracing::error!(
            event = "template_missing", sandbox = %id, template = %found.spec.template,
            "the template of a sandbox is missing: the sandbox cannot be used until `leapbox setup` has built it again"
        );
    }
    let published = Published { adopting: matches!(next, NextState::Adopting(_)), ..Published::new(found, image) };
    let (handle, task) = new_task(Arc::clone(shared), published);
    shared.register(id, handle);
    shared.tasks.spawn(task.resume(next));
}
