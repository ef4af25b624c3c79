//! The sandboxes' tasks against a model: clients race, machines die, operations fail, the server is killed at any moment,
//! and still every history is legal, nothing acknowledged is lost, and nothing is left at the end.
//!
//! Real: policy, tasks, service, recovery, garbage, the database. Simulated: the machines (`leapbox-simulated`).

mod common;

use common::Stage;
use leapbox_api_types::sandbox::{DEFAULT_TEMPLATE, NewSandbox, SandboxState};
use leapbox_api_types::snapshot::{NewSnapshot, RestoreSnapshot};
use leapbox_egress_policy::Policy;
use leapbox_ids::{OrganisationId, SandboxId, SnapshotId};
use leapbox_lifecycle::{CheckpointError, Lifecycle, LifecycleError};
use leapbox_simulated::{Counted, World};
use proptest::prelude::*;
use sqlx::Row;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a client does; numbers pick one of what there is.
#[derive(Debug, Clone, Copy)]
enum Op {
    Create { timed: bool },
    Use(usize),
    Pause(usize),
    Stop(usize),
    Start(usize),
    Snapshot { of: usize, kill: bool },
    Restore(usize),
    Delete(usize),
    DeleteSnapshot(usize),
    KillMachine(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let one = 0..6_usize;
    prop_oneof![
        2 => any::<bool>().prop_map(|timed| Op::Create { timed }),
        8 => one.clone().prop_map(Op::Use),
        5 => one.clone().prop_map(Op::Pause),
        2 => one.clone().prop_map(Op::Stop),
        3 => one.clone().prop_map(Op::Start),
        3 => (one.clone(), prop::bool::weighted(0.2)).prop_map(|(of, kill)| Op::Snapshot { of, kill }),
        2 => one.clone().prop_map(Op::Restore),
        1 => one.clone().prop_map(Op::Delete),
        1 => one.clone().prop_map(Op::DeleteSnapshot),
        1 => one.prop_map(Op::KillMachine),
    ]
}

/// One sandbox as its clients know it.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    counted: Counted,
    /// Somebody has asked for its end, or killed its machine: it need not be there.
    may_be_gone: bool,
    /// Somebody has asked for a stop: what was in memory need not be there.
    may_be_stopped: bool,
}

/// What was acknowledged.
#[derive(Debug, Default)]
struct Facts {
    sandboxes: BTreeMap<SandboxId, Known>,
    /// And what was counted at the least when it was taken.
    snapshots: BTreeMap<SnapshotId, (String, Counted)>,
}

/// A stage, and what clients know of what happened on it.
#[derive(Clone)]
struct Play {
    stage: Stage,
    facts: Arc<Mutex<Facts>>,
}

impl Play {
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pick(&self, number: usize) -> Option<(SandboxId, Known)> {
        let facts = self.facts();
        let count = facts.sandboxes.len().max(1);
        facts.sandboxes.iter().nth(number % count).map(|(id, known)| (id.clone(), *known))
    }

    fn pick_snapshot(&self, number: usize) -> Option<(SnapshotId, String, Counted)> {
        let facts = self.facts();
        let count = facts.snapshots.len().max(1);
        facts.snapshots.iter().nth(number % count).map(|(id, (name, counted))| (id.clone(), name.clone(), *counted))
    }

    /// From before it is asked for: whether it was done is not known when the server dies.
    fn note(&self, id: &SandboxId, note: impl FnOnce(&mut Known)) {
        if let Some(known) = self.facts().sandboxes.get_mut(id) {
            note(known);
        }
    }

    /// A sandbox whose end nobody has asked for is there. Every other refusal is possible.
    fn allowed(&self, id: &SandboxId, answer: Result<(), LifecycleError>) {
        if let Err(error @ (LifecycleError::NotFound { .. } | LifecycleError::Failed { .. })) = answer {
            let may_be_gone = self.facts().sandboxes.get(id).is_some_and(|known| known.may_be_gone);
            assert!(may_be_gone, "an acknowledged sandbox is lost: {error}");
        }
    }

    async fn perform(&self, server: &Lifecycle, op: Op) {
        match op {
            Op::Create { timed } => self.create(server, timed).await,
            Op::Use(number) => self.count(server, number).await,
            Op::Pause(number) => {
                if let Some((id, _)) = self.pick(number) {
                    self.allowed(&id, server.pause(&self.stage.org, &id).await.map(drop));
                }
            }
            Op::Stop(number) => {
                if let Some((id, _)) = self.pick(number) {
                    self.note(&id, |known| known.may_be_stopped = true);
                    self.allowed(&id, server.stop_sandbox(&self.stage.org, &id).await.map(drop));
                }
            }
            Op::Start(number) => {
                if let Some((id, _)) = self.pick(number) {
                    self.allowed(&id, server.start_sandbox(&self.stage.org, &id).await.map(drop));
                }
            }
            Op::Snapshot { of, kill } => self.snapshot(server, of, kill).await,
            Op::Restore(number) => self.restore(server, number).await,
            Op::Delete(number) => {
                if let Some((id, _)) = self.pick(number) {
                    self.note(&id, |known| known.may_be_gone = true);
                    self.allowed(&id, server.delete(&self.stage.org, &id).await);
                }
            }
            Op::DeleteSnapshot(number) => {
                if let Some((id, ..)) = self.pick_snapshot(number) {
                    self.facts().snapshots.remove(&id);
                    // Of two who delete it, one is told that it is gone.
                    let _ = server.delete_snapshot(&self.stage.org, &id).await;
                }
            }
            Op::KillMachine(number) => {
                if let Some((id, _)) = self.pick(number) {
                    self.note(&id, |known| known.may_be_gone = true);
                    self.stage.world.kill(&id);
                }
            }
        }
    }

    async fn create(&self, server: &Lifecycle, timed: bool) {
        let new = NewSandbox {
            template_name: DEFAULT_TEMPLATE.to_owned(),
            vcpu: 1,
            memory_mib: 512,
            // Paused as soon as it runs, and again after every wake.
            timeout_s: if timed { 0 } else { 3600 },
            auto_pause: true,
            env_vars: vec![("A".to_owned(), "b".to_owned())],
            network_policy: Policy::DenyAll,
        };
        if let Ok(created) = server.create(&self.stage.org, new).await {
            self.facts().sandboxes.insert(created.id, Known::default());
        }
    }

    async fn count(&self, server: &Lifecycle, number: usize) {
        let Some((id, before)) = self.pick(number) else { return };
        let used = server.ensure_running(&self.stage.org, &id).await;
        if used.is_err() {
            return self.allowed(&id, used.map(drop));
        }
        // Paused again before it was used: nothing was acknowledged.
        let Some(now) = self.stage.world.count(&id) else { return };
        assert!(now.disk > before.counted.disk, "{id} lost what was on its disk: {before:?} {now:?}");
        let stopped = self.facts().sandboxes.get(&id).is_some_and(|known| known.may_be_stopped);
        assert!(stopped || now.memory > before.counted.memory, "{id} lost its memory: {before:?} {now:?}");
        self.note(&id, |known| {
            known.counted.disk = known.counted.disk.max(now.disk);
            known.counted.memory = known.counted.memory.max(now.memory);
        });
    }

    async fn snapshot(&self, server: &Lifecycle, of: usize, kill: bool) {
        let Some((id, before)) = self.pick(of) else { return };
        if kill {
            self.note(&id, |known| known.may_be_gone = true);
        }
        let new = NewSnapshot { name: None, kill_sandbox_after: kill };
        match server.snapshot(&self.stage.org, &id, new).await {
            Ok(taken) => {
                let memory = if before.may_be_stopped { 0 } else { before.counted.memory };
                let counted = Counted { memory, disk: before.counted.disk };
                self.facts().snapshots.insert(taken.id, (taken.name, counted));
            }
            Err(error) => self.allowed(&id, Err(error)),
        }
    }

    async fn restore(&self, server: &Lifecycle, number: usize) {
        let Some((id, name, counted)) = self.pick_snapshot(number) else { return };
        let restore = RestoreSnapshot { snapshot_name: name, timeout_s: 3600, auto_pause: true, network_policy: None };
        match server.restore(&self.stage.org, restore).await {
            Ok(restored) => {
                let known = Known { counted, ..Known::default() };
                self.facts().sandboxes.insert(restored.id, known);
            }
            Err(LifecycleError::NoSnapshot { .. } | LifecycleError::Checkpoint(CheckpointError::Mismatch { .. })) => {
                assert!(!self.facts().snapshots.contains_key(&id), "snapshot {id} is lost");
            }
            Err(_) => {}
        }
    }
}

fn run(clients: Vec<Vec<Op>>, crashes: Vec<u64>, seed: u64, failing: u64) {
    let dir = tempfile::tempdir().expect("a folder");
    let play = Play { stage: Stage::new(dir.path(), World::new(seed, failing)), facts: Arc::default() };
    in_a_server(|| prepare(play.stage.clone()));
    let mut left = clients;
    for crash in crashes {
        let later = Arc::new(Mutex::new(left));
        in_a_server(|| race(play.clone(), Arc::clone(&later), Duration::from_micros(crash)));
        left = later.lock().unwrap_or_else(PoisonError::into_inner).clone();
    }
    let later = Arc::new(Mutex::new(left));
    in_a_server(|| race(play.clone(), later, Duration::from_secs(60)));
    in_a_server(|| check(play.clone()));
}

/// Runs a server's life and then kills it: whatever it was doing is dropped where it stands.
fn in_a_server<F: Future<Output = ()>>(life: impl FnOnce() -> F) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(life());
    runtime.shutdown_timeout(Duration::from_secs(5));
    // A killed process takes the database's threads with it. Here they finish what they are at.
    while database_threads() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn database_threads() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("listed").flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names.filter(|name| name.starts_with("sqlx-sqlite")).count()
}

/// Makes the database, with a memory of every state.
async fn prepare(stage: Stage) {
    stage.prepare().await;
    for sql in [
        "CREATE TABLE history (id TEXT, state TEXT)",
        "CREATE TRIGGER born AFTER INSERT ON sandbox BEGIN INSERT INTO history VALUES (NEW.id, NEW.state); END",
        "CREATE TRIGGER changed AFTER UPDATE ON sandbox BEGIN INSERT INTO history VALUES (NEW.id, NEW.state); END",
    ] {
        sqlx::query(sql).execute(&history(&stage).await).await.expect("made");
    }
}

async fn history(stage: &Stage) -> sqlx::SqlitePool {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(stage.folder.join("leapbox.db"));
    sqlx::SqlitePool::connect_with(options).await.expect("connected")
}

/// Clients race until the crash; what they have not begun is left for later.
async fn race(play: Play, left: Arc<Mutex<Vec<Vec<Op>>>>, crash: Duration) {
    let server = play.stage.server().await;
    let clients = left.lock().unwrap_or_else(PoisonError::into_inner).len();
    let racing = (0..clients).map(|client| {
        let (play, server, left) = (play.clone(), server.clone(), Arc::clone(&left));
        async move {
            loop {
                let op = {
                    let mut left = left.lock().unwrap_or_else(PoisonError::into_inner);
                    if left[client].is_empty() {
                        return;
                    }
                    left[client].remove(0)
                };
                play.perform(&server, op).await;
            }
        }
    });
    let _ = tokio::time::timeout(crash, futures::future::join_all(racing)).await;
}

/// Everything is looked at and removed.
async fn check(play: Play) {
    let stage = &play.stage;
    for (id, violation) in stage.world.violations() {
        // The making of its machine is given up when it is deleted, and may find anything then.
        let may_be_gone = play.facts().sandboxes.get(&id).is_none_or(|known| known.may_be_gone);
        assert!(may_be_gone, "{id}: {violation}");
    }
    stage.world.heal();
    let server = stage.server().await;
    let sandboxes: Vec<_> = play.facts().sandboxes.iter().map(|(id, known)| (id.clone(), *known)).collect();
    for (id, known) in sandboxes {
        match rested(&server, &stage.org, &id).await {
            Some(SandboxState::Deleted) | None => assert!(known.may_be_gone, "{id} is lost"),
            Some(_) => server.delete(&stage.org, &id).await.expect("deleted"),
        }
    }
    let snapshots: Vec<_> = play.facts().snapshots.keys().cloned().collect();
    for id in snapshots {
        server.delete_snapshot(&stage.org, &id).await.expect("an acknowledged snapshot is there");
    }
    // What was made but never acknowledged, because the server died, is known to nobody but the server.
    for sandbox in stage.db().await.sandbox_unfinished().await.expect("listed") {
        rested(&server, &stage.org, sandbox.id()).await;
        server.delete(&stage.org, sandbox.id()).await.expect("deleted");
    }
    forget_unacknowledged_snapshots(stage, &server).await;
    server.stop().await;
    assert_eq!(stage.world.left().0, 0, "machines are left");
    // Another server collects what is left; this one may have begun to collect before the last of it was given up.
    let collecting = stage.server().await;
    let empty = async {
        while stage.world.left() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let collected = tokio::time::timeout(Duration::from_secs(30), empty).await;
    assert!(collected.is_ok(), "machines and checkpoints are left: {:?}", stage.world.left());
    collecting.stop().await;
    check_history(stage).await;
}

async fn forget_unacknowledged_snapshots(stage: &Stage, server: &Lifecycle) {
    let rows = sqlx::query("SELECT id FROM snapshot").fetch_all(&history(stage).await).await.expect("read");
    for row in rows {
        let id: SnapshotId = row.get::<String, _>("id").parse().expect("an id");
        server.delete_snapshot(&stage.org, &id).await.expect("deleted");
    }
}

/// Its state once it is in no transition; none if it is not there.
async fn rested(server: &Lifecycle, org: &OrganisationId, id: &SandboxId) -> Option<SandboxState> {
    loop {
        let state = server.get(org, id).await.ok()?.state;
        match state {
            SandboxState::Running | SandboxState::Paused | SandboxState::Stopped | SandboxState::Deleted => {
                return Some(state);
            }
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

async fn check_history(stage: &Stage) {
    let mut last: BTreeMap<String, SandboxState> = BTreeMap::new();
    let rows = sqlx::query("SELECT id, state FROM history ORDER BY rowid").fetch_all(&history(stage).await).await;
    for row in rows.expect("read") {
        let (id, state): (String, String) = (row.get("id"), row.get("state"));
        let state: SandboxState = state.parse().expect("a state");
        match last.insert(id.clone(), state) {
            None => assert_eq!(state, SandboxState::Starting, "{id}"),
            Some(before) => assert!(before == state || may_follow(before, state), "{id}: {before} to {state}"),
        }
    }
}

/// Whether a sandbox may go from one state to another: what a history may look like.
fn may_follow(from: SandboxState, to: SandboxState) -> bool {
    use SandboxState::{Deleted, Deleting, Paused, Running, Snapshotting, Starting, Stopped, Stopping, Unpausing};
    match from {
        // `deleted` without `deleting`: it failed. `stopped`: it could not be started again.
        Starting => matches!(to, Running | Deleting | Deleted | Stopped),
        Running => matches!(to, Snapshotting | Stopping | Deleting | Deleted),
        Snapshotting => matches!(to, Running | Paused | Deleting | Deleted),
        Paused => matches!(to, Unpausing | Deleting),
        Unpausing => matches!(to, Running | Paused | Deleting),
        Stopping => matches!(to, Stopped | Deleting | Deleted),
        Stopped => matches!(to, Starting | Deleting),
        Deleting => matches!(to, Deleted),
        Deleted => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn histories_are_legal_and_nothing_acknowledged_is_lost(
        clients in prop::collection::vec(prop::collection::vec(op(), 5..25), 2..5),
        crashes in prop::collection::vec(2_000..60_000_u64, 0..4),
        seed in any::<u64>(),
        failing in prop::sample::select(vec![0, 8, 20]),
    ) {
        run(clients, crashes, seed, failing);
    }
}
