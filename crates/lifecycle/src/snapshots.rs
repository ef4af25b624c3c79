//! Snapshots: taken, listed, deleted.

use crate::error::LifecycleError;
use crate::request::Request;
use crate::service::Lifecycle;
use crate::view;
use leapbox_api_types::snapshot::{NewSnapshot, SnapshotDetails, SnapshotList, SnapshotListQuery};
use leapbox_db::DbError;
use leapbox_ids::{OrganisationId, SandboxId, SnapshotId};

impl Lifecycle {
    /// Stores a sandbox under a name; returns when it is stored and the sandbox goes on. One that is paused stays so.
    pub async fn snapshot(
        &self,
        org: &OrganisationId,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotDetails, LifecycleError> {
        let snapshot = self.inner.find(org, id).await?.ask(|reply| Request::Snapshot(new, reply)).await?;
        Ok(view::snapshot(snapshot))
    }

    /// A page of the organisation's snapshots.
    pub async fn snapshots(
        &self,
        org: &OrganisationId,
        query: SnapshotListQuery,
    ) -> Result<SnapshotList, LifecycleError> {
        let (rows, total_items) = self.inner.db.snapshot_list(org, &query).await?;
        Ok(SnapshotList { items: rows.into_iter().map(view::snapshot).collect(), total_items })
    }

    /// Deletes a snapshot. Sandboxes restored from it go on: nothing of theirs is in it.
    pub async fn delete_snapshot(&self, org: &OrganisationId, id: &SnapshotId) -> Result<(), LifecycleError> {
        let unknown = || LifecycleError::NoSnapshot { name: id.to_string() };
        let row = self.inner.db.snapshot_by_id(id).await?;
        let row = row.filter(|row| row.organisation == *org).ok_or_else(unknown)?;
        match self.inner.db.snapshot_delete(id).await {
            Err(DbError::Missing { .. }) => return Err(unknown()),
            deleted => deleted?,
        }
        self.inner.drop_checkpoint(&row.checkpoint).await;
        Ok(())
    }
}
