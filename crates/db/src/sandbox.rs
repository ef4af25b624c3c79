//! Sandboxes: one row for each, which only the task that owns the sandbox updates, always as a whole. Called by
//! `lifecycle`.

mod row;
mod status;

pub use status::{Live, Origin, Sandbox, Sealed, Spec, Status, Stored, StoredDisk, StoredMemory, VmRecord};

use crate::row::{Column, Row};
use crate::{Db, DbError};
use leapbox_api_types::sandbox::{SandboxListQuery, SandboxSort, SandboxState, SortOrder};
use leapbox_ids::{OrganisationId, SandboxId};

impl Db {
    /// Inserts a sandbox. Its organisation and template must exist.
    pub async fn sandbox_insert(&self, sandbox: &Sandbox) -> Result<(), DbError> {
        sandbox.insert(self, "sandbox_insert", sandbox.id().as_str()).await
    }

    /// Updates all columns of a sandbox. [`DbError::Missing`] when there is no row with this id.
    pub async fn sandbox_update(&self, sandbox: &Sandbox) -> Result<(), DbError> {
        sandbox.update(self, "sandbox_update", sandbox.id().as_str()).await
    }

    /// The sandbox of this id, in whatever state.
    pub async fn sandbox_by_id(&self, id: &SandboxId) -> Result<Option<Sandbox>, DbError> {
        let row = sqlx::query(&Sandbox::select("WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("sandbox_by_id"))?;
        row.as_ref().map(Sandbox::read).transpose()
    }

    /// Lists one page of the organisation's sandboxes, and counts those of all pages. Deleted ones are left out.
    pub async fn sandbox_list(
        &self,
        organisation: &OrganisationId,
        query: &SandboxListQuery,
    ) -> Result<(Vec<Sandbox>, u64), DbError> {
        const MATCHES: &str = "organisation = $1 AND state <> 'deleted' AND ($2 IS NULL OR state = $2)";
        let error = |source| DbError::Query { query: "sandbox_list", source };
        let state = query.state.map(SandboxState::as_str);
        // One read transaction, so that the count and the page are of the same moment.
        let mut transaction = self.read.begin().await.map_err(error)?;
        let total: i64 = sqlx::query_scalar(&format!("SELECT COUNT(*) FROM sandbox WHERE {MATCHES}"))
            .bind(organisation.as_str())
            .bind(state)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let page = Sandbox::select(&format!("WHERE {MATCHES} ORDER BY {} LIMIT $3 OFFSET $4", order(query)));
        let rows = sqlx::query(&page)
            .bind(organisation.as_str())
            .bind(state)
            .bind(query.page_size.to_stored())
            .bind(query.page.saturating_sub(1).saturating_mul(query.page_size).to_stored())
            .fetch_all(&mut *transaction)
            .await
            .map_err(error)?;
        transaction.commit().await.map_err(error)?;
        let rows = rows.iter().map(Sandbox::read).collect::<Result<_, _>>()?;
        Ok((rows, u64::try_from(total).unwrap_or(0)))
    }

    /// Lists all sandboxes that are not deleted, oldest first, for a starting server to recover.
    pub async fn sandbox_unfinished(&self) -> Result<Vec<Sandbox>, DbError> {
        // One row that cannot be read fails all of it, and with it the server's start: if it were skipped, recovery
        // would take the sandbox's machine for a leftover and destroy it.
        sqlx::query(&Sandbox::select("WHERE state <> 'deleted' ORDER BY created_at_ms, id"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("sandbox_unfinished"))?
            .iter()
            .map(Sandbox::read)
            .collect()
    }

    /// Removes the row, whatever its state: of a create that was never acknowledged, or of a failed sandbox that its
    /// owner deletes. No error when there is none.
    pub async fn sandbox_delete_row(&self, id: &SandboxId) -> Result<(), DbError> {
        sqlx::query("DELETE FROM sandbox WHERE id = $1")
            .bind(id.as_str())
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(DbError::query("sandbox_delete_row"))
    }

    /// Removes the rows of sandboxes that were deleted or failed before `before_ms` (Unix milliseconds), and returns
    /// how many there were.
    pub async fn sandbox_purge_deleted(&self, before_ms: i64) -> Result<u64, DbError> {
        sqlx::query("DELETE FROM sandbox WHERE state = 'deleted' AND state_changed_at_ms < $1")
            .bind(before_ms)
            .execute(&self.write)
            .await
            .map(|done| done.rows_affected())
            .map_err(DbError::query("sandbox_purge_deleted"))
    }
}

/// The ORDER BY list, chosen among fixed texts: nothing of the request becomes part of a statement.
fn order(query: &SandboxListQuery) -> &'static str {
    // The id breaks ties in the same direction, so that pages neither overlap nor leave gaps. The indexes
    // `sandbox_by_age` and `sandbox_by_state` have these orders.
    match (query.sort, query.order) {
        (SandboxSort::CreatedAt, SortOrder::Ascending) => "created_at_ms ASC, id ASC",
        (SandboxSort::CreatedAt, SortOrder::Descending) => "created_at_ms DESC, id DESC",
        (SandboxSort::State, SortOrder::Ascending) => "state ASC, id ASC",
        (SandboxSort::State, SortOrder::Descending) => "state DESC, id DESC",
    }
}
