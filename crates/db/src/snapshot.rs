//! Snapshots: named references to checkpoints, with what a restore needs. A row is written once and never changed.
//! Called by `lifecycle`.

use crate::row::{Column, Row, row};
use crate::{Db, DbError, Sealed};
use leapbox_api_types::sandbox::SortOrder;
use leapbox_api_types::snapshot::{SnapshotListQuery, SnapshotSort};
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, OrganisationId, SnapshotId, TemplateId};

row! {
    /// A snapshot. Columns that `Spec` has as well are copies of the sandbox's, at the time it was taken.
    pub struct SnapshotRow of "snapshot" {
        id: SnapshotId,
        organisation: OrganisationId,
        /// Unique in the organisation.
        name: String,
        template: TemplateId,
        vcpu: u8,
        memory_mib: u32,
        disk_mib: u64,
        /// Several snapshots and a paused sandbox may have the same checkpoint.
        checkpoint: CheckpointId,
        /// The base that the checkpoint is a difference to.
        base: BaseId,
        image: ImageDigest,
        environment: Option<Sealed>,
        network_policy: Option<String>,
        network_secrets: Option<Sealed>,
        created_at_ms: i64,
    }
}

impl Db {
    /// Inserts a snapshot. [`DbError::Taken`] when its organisation has one of this name.
    pub async fn snapshot_insert(&self, row: &SnapshotRow) -> Result<(), DbError> {
        row.insert(self, "snapshot_insert", &row.name).await
    }

    pub async fn snapshot_by_id(&self, id: &SnapshotId) -> Result<Option<SnapshotRow>, DbError> {
        let row = sqlx::query(&SnapshotRow::select("WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("snapshot_by_id"))?;
        row.as_ref().map(SnapshotRow::read).transpose()
    }

    /// The organisation's snapshot of this name; unlike in a list, the case counts.
    pub async fn snapshot_by_name(
        &self,
        organisation: &OrganisationId,
        name: &str,
    ) -> Result<Option<SnapshotRow>, DbError> {
        let row = sqlx::query(&SnapshotRow::select("WHERE organisation = $1 AND name = $2"))
            .bind(organisation.as_str())
            .bind(name)
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("snapshot_by_name"))?;
        row.as_ref().map(SnapshotRow::read).transpose()
    }

    /// Lists one page of the organisation's snapshots, and counts those of all pages. `query.name` matches names that
    /// contain it, in any case.
    pub async fn snapshot_list(
        &self,
        organisation: &OrganisationId,
        query: &SnapshotListQuery,
    ) -> Result<(Vec<SnapshotRow>, u64), DbError> {
        const MATCHES: &str = r"organisation = $1 AND ($2 IS NULL OR LOWER(name) LIKE LOWER($2) ESCAPE '\')";
        let error = |source| DbError::Query { query: "snapshot_list", source };
        let pattern = query.name.as_deref().map(containing);
        // One read transaction, so that the count and the page are of the same moment.
        let mut transaction = self.read.begin().await.map_err(error)?;
        let total: i64 = sqlx::query_scalar(&format!("SELECT COUNT(*) FROM snapshot WHERE {MATCHES}"))
            .bind(organisation.as_str())
            .bind(&pattern)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let page = SnapshotRow::select(&format!("WHERE {MATCHES} ORDER BY {} LIMIT $3 OFFSET $4", order(query)));
        let rows = sqlx::query(&page)
            .bind(organisation.as_str())
            .bind(&pattern)
            .bind(query.page_size.to_stored())
            .bind(query.page.saturating_sub(1).saturating_mul(query.page_size).to_stored())
            .fetch_all(&mut *transaction)
            .await
            .map_err(error)?;
        transaction.commit().await.map_err(error)?;
        let rows = rows.iter().map(SnapshotRow::read).collect::<Result<_, _>>()?;
        Ok((rows, u64::try_from(total).unwrap_or(0)))
    }

    /// Removes a snapshot's row. The checkpoint stays, and is garbage if no other row names it. [`DbError::Missing`]
    /// when there is no such row: of two callers that delete it at once, one gets this.
    pub async fn snapshot_delete(&self, id: &SnapshotId) -> Result<(), DbError> {
        let done = sqlx::query("DELETE FROM snapshot WHERE id = $1")
            .bind(id.as_str())
            .execute(&self.write)
            .await
            .map_err(DbError::query("snapshot_delete"))?;
        match done.rows_affected() {
            0 => Err(DbError::Missing { table: "snapshot", id: id.to_string() }),
            _ => Ok(()),
        }
    }
}

/// The LIKE pattern of names that contain `text`, with `\` as the escape character.
fn containing(text: &str) -> String {
    // A search for `_`, which names often have, must not match every character, and one for `%` not every name.
    let mut pattern = String::from("%");
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern + "%"
}

/// The ORDER BY list, chosen among fixed texts: nothing of the request becomes part of a statement.
fn order(query: &SnapshotListQuery) -> &'static str {
    // The id breaks ties in the same direction, so that pages neither overlap nor leave gaps.
    match (query.sort, query.order) {
        (SnapshotSort::CreatedAt, SortOrder::Ascending) => "created_at_ms ASC, id ASC",
        (SnapshotSort::CreatedAt, SortOrder::Descending) => "created_at_ms DESC, id DESC",
        (SnapshotSort::Template, SortOrder::Ascending) => "template ASC, id ASC",
        (SnapshotSort::Template, SortOrder::Descending) => "template DESC, id DESC",
    }
}
