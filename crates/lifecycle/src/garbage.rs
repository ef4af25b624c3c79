//! Removes archives, bases and rows that nothing refers to: at start, from then on every ten minutes, and when the
//! operator gives a word (`leapbox gc`).
//!
//! A checkpoint is written before the row that names it and removed after the last such row, so a crash can only leave
//! a checkpoint that no row names. This is where it is found. How it is removed, in two steps, is in
//! `machines/garbage.rs`.

use crate::clock::now_ms;
use crate::shared::Shared;
use leapbox_errors::chain;
use std::sync::Arc;
use std::time::Duration;

/// For how long the API shows a failed sandbox with its reason (docs/api.md: a day).
const KEEP_DELETED: Duration = Duration::from_secs(24 * 3600);
/// Garbage costs only disk, and listing a bucket costs money, so it is not looked for more often.
const INTERVAL: Duration = Duration::from_secs(600);

/// How often the database is asked for the operator's word, which another process writes there. One read of one row.
const WORD_INTERVAL: Duration = Duration::from_secs(5);

/// Collects once. A failure is logged, and the next run tries again.
pub(crate) async fn collect(shared: &Shared) {
    let before = now_ms() - KEEP_DELETED.as_millis() as i64;
    if let Err(error) = shared.db.sandbox_purge_deleted(before).await {
        tracing::warn!(error = %chain(&error), "old sandboxes could not be purged");
    }
    shared.machines.collect_garbage(&shared.db).await;
}

/// Spawns a task that collects at once and then at intervals until the server stops. A bucket may take minutes to be
/// listed, so the start of the server does not wait for the first run.
pub(crate) fn collect_regularly(shared: &Arc<Shared>) {
    let shared = Arc::clone(shared);
    shared.tasks.clone().spawn(async move {
        loop {
            // A collection that is dropped half way has removed less, never more: the next server does the rest.
            tokio::select! {
                () = shared.stop.cancelled() => return,
                () = collect(&shared) => {}
            }
            tokio::select! {
                () = shared.stop.cancelled() => return,
                // Every shape that a client asks for makes a base of some hundred MiB: a burst of shapes must not fill
                // the disk until the interval is over.
                () = shared.machines.base_pressure() => {}
                () = tokio::time::sleep(INTERVAL) => {}
                () = word_given(&shared) => {}
            }
        }
    });
}

/// Completes when the operator has given a word to the garbage collection.
async fn word_given(shared: &Shared) {
    loop {
        tokio::time::sleep(WORD_INTERVAL).await;
        // A database that fails is noticed by everything else; the collection comes at its interval.
        if shared.db.sweep_word().await.is_ok_and(|word| word.allowed || word.remove_now) {
            return;
        }
    }
}
