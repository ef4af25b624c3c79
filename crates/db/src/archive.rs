//! Which archives the rows still need: any other archive is garbage, unless it is being written. Called by the garbage
//! collection of `lifecycle`.
//!
//! A checkpoint and a base are archived under their own ids (columns `checkpoint` and `base`), a guest image under
//! `image-` and its digest. Rows of deleted sandboxes need nothing.

use crate::{Db, DbError};
use leapbox_ids::{ArchiveId, CheckpointId, InvalidId};
use sqlx::Row;
use std::collections::BTreeSet;

impl Db {
    /// The ids of all archives that a snapshot, or a sandbox that is not deleted, needs at one moment.
    pub async fn archives_referenced(&self) -> Result<BTreeSet<ArchiveId>, DbError> {
        // One statement, so that all of it is of one moment. Read one after the other, a checkpoint that moves from a
        // sandbox to a snapshot in between would be in neither.
        let error = |source| DbError::Query { query: "archives_referenced", source };
        sqlx::query(
            "WITH needed AS (
                 SELECT checkpoint, base, image FROM sandbox WHERE state <> 'deleted'
                 UNION ALL SELECT checkpoint, base, image FROM snapshot
             )
             SELECT checkpoint AS id FROM needed WHERE checkpoint IS NOT NULL
             UNION SELECT base FROM needed WHERE base IS NOT NULL
             UNION SELECT 'image-' || image FROM needed WHERE image IS NOT NULL",
        )
        .fetch_all(&self.read)
        .await
        .map_err(error)?
        .iter()
        .map(|row| archive(row.try_get("id").map_err(error)?))
        .collect()
    }

    /// Whether a sandbox that is not deleted, or a snapshot, still needs this checkpoint.
    pub async fn checkpoint_is_referenced(&self, checkpoint: &CheckpointId) -> Result<bool, DbError> {
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM sandbox WHERE checkpoint = $1 AND state <> 'deleted')
                 OR EXISTS (SELECT 1 FROM snapshot WHERE checkpoint = $1)",
        )
        .bind(checkpoint.as_str())
        .fetch_one(&self.read)
        .await
        .map_err(DbError::query("checkpoint_is_referenced"))
    }
}

fn archive(id: String) -> Result<ArchiveId, DbError> {
    // An id that cannot be parsed fails the whole query: skipped, its archive would be taken for garbage.
    id.parse().map_err(|_: InvalidId| DbError::Unreadable {
        table: "sandbox or snapshot",
        column: "archive",
        value: id,
    })
}
