//! The snapshot operations that the API calls: take, list and delete. Restoring one is in `create`.

use crate::error::LifecycleError;
use crate::request::OwnerRequest;
use crate::service::Lifecycle;
use crate::view;
use leapbox_api_types::snapshot::{NewSnapshot, SnapshotDetails, SnapshotList, SnapshotListQuery};
use leapbox_db::DbError;
use leapbox_ids::{OrganisationId, SandboxId, SnapshotId};

impl Lifecycle {
    /// Stores a sandbox under a name; returns when it is stored and the sandbox runs again. A paused sandbox stays
    /// paused.
    pub async fn snapshot(
        &self,
        org: &OrganisationId,
        id: &SandboxId,
        new: NewSnapshot,
    ) -> Result<SnapshotDetails, LifecycleError> {
        let snapshot = self.shared.find(org, id).await?.ask(|reply| OwnerRequest::Snapshot(new, reply)).await?;
        Ok(view::snapshot(snapshot))
    }

    /// Lists one page of the organisation's snapshots.
    pub async fn snapshots(
        &self,
        org: &OrganisationId,
        query: SnapshotListQuery,
    ) -> Result<SnapshotList, LifecycleError> {
        let (rows, total_items) = self.shared.db.snapshot_list(org, &query).await?;
        Ok(SnapshotList { items: rows.into_iter().map(view::snapshot).collect(), total_items })
    }

    /// Deletes a snapshot. Sandboxes restored from it are not affected: none depends on its checkpoint once it runs.
    pub async fn delete_snapshot(&self, org: &OrganisationId, id: &SnapshotId) -> Result<(), LifecycleError> {
        let unknown = || LifecycleError::NoSnapshot { name: id.to_string() };
        let row = self.shared.db.snapshot_by_id(id).await?;
        // Another organisation's snapshot must be indistinguishable from one that does not exist.
        let row = row.filter(|row| row.organisation == *org).ok_or_else(unknown)?;
        match self.shared.db.snapshot_delete(id).await {
            // Two deletes raced. Only the one that removed the row goes on to the checkpoint.
            Err(DbError::Missing { .. }) => return Err(unknown()),
            deleted => deleted?,
        }
        // The row first: a checkpoint without a row is garbage, a row without a checkpoint would be a broken snapshot.
        self.shared.drop_checkpoint(&row.checkpoint).await;
        Ok(())
    }
}
