//! What nothing refers to any more goes: at start, and from then on every few minutes.
//!
//! Removal follows the rows: a checkpoint is written before the row that names it and removed after the last one that
//! did, so whatever a crash leaves is stored and unnamed, and is found here.

use crate::clock::now_ms;
use crate::inner::Inner;
use leapbox_errors::chain;
use std::sync::Arc;
use std::time::Duration;

/// Failed sandboxes are shown this long.
const KEEP_DELETED: Duration = Duration::from_secs(24 * 3600);
const EVERY: Duration = Duration::from_secs(600);

/// Collects now.
pub(crate) async fn collect(inner: &Inner) {
    let before = now_ms() - KEEP_DELETED.as_millis() as i64;
    if let Err(error) = inner.db.sandbox_purge_deleted(before).await {
        tracing::warn!(error = %chain(&error), "old sandboxes could not be purged");
    }
    inner.machines.collect_garbage(&inner.db).await;
}

/// Collects, at once and again and again, until the server stops. In the background: a bucket may be slow.
pub(crate) fn collect_regularly(inner: &Arc<Inner>) {
    let inner = Arc::clone(inner);
    inner.tasks.clone().spawn(async move {
        loop {
            // What is dropped half way is done again.
            tokio::select! {
                () = inner.stop.cancelled() => return,
                () = collect(&inner) => {}
            }
            tokio::select! {
                () = inner.stop.cancelled() => return,
                () = inner.machines.crowded() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    });
}
