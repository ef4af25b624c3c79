//! Sandboxes: one row each, written whole by the one task that owns the sandbox.

use crate::row::{Columns, bigint};
use crate::{Db, DbError};
use leapbox_api_types::sandbox::{SandboxListQuery, SandboxSort, SandboxState, SortOrder};
use leapbox_ids::{OrganisationId, SandboxId, TemplateId};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};

const COLUMNS: &str = "id, organisation, template, pod_id, vcpu, memory_mib, disk_mib, timeout_s, auto_pause, state, \
                       state_reason, created_at_ms, launched_at_ms, state_changed_at_ms, timeout_at_ms, machine";

/// One sandbox. Times are Unix ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRow {
    /// Its id.
    pub id: SandboxId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// What it was made from.
    pub template: TemplateId,
    /// The runner that has it.
    pub pod_id: String,
    /// Virtual CPUs.
    pub vcpu: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Writable disk in MiB.
    pub disk_mib: u64,
    /// Life time in seconds.
    pub timeout_s: u64,
    /// Whether the timeout pauses it instead of deleting it.
    pub auto_pause: bool,
    /// Where it stands.
    pub state: SandboxState,
    /// Why it stands there, when nobody asked for it.
    pub state_reason: Option<String>,
    /// When it was asked for.
    pub created_at_ms: i64,
    /// When its VM was launched.
    pub launched_at_ms: Option<i64>,
    /// When `state` last changed.
    pub state_changed_at_ms: i64,
    /// When it times out.
    pub timeout_at_ms: Option<i64>,
    /// The lifecycle's record of the living VM, as JSON.
    pub machine: Option<String>,
}

impl SandboxRow {
    fn read(row: &SqliteRow) -> Result<Self, DbError> {
        let columns = Columns::new("sandbox", row);
        Ok(Self {
            id: columns.parsed("id")?,
            organisation: columns.parsed("organisation")?,
            template: columns.parsed("template")?,
            pod_id: columns.get("pod_id")?,
            vcpu: columns.number("vcpu")?,
            memory_mib: columns.number("memory_mib")?,
            disk_mib: columns.number("disk_mib")?,
            timeout_s: columns.number("timeout_s")?,
            auto_pause: columns.get("auto_pause")?,
            state: columns.parsed("state")?,
            state_reason: columns.get("state_reason")?,
            created_at_ms: columns.get("created_at_ms")?,
            launched_at_ms: columns.get("launched_at_ms")?,
            state_changed_at_ms: columns.get("state_changed_at_ms")?,
            timeout_at_ms: columns.get("timeout_at_ms")?,
            machine: columns.get("machine")?,
        })
    }

    /// Binds every column, in the order of [`COLUMNS`].
    fn bind<'q>(&'q self, sql: &'q str) -> Query<'q, Sqlite, SqliteArguments<'q>> {
        sqlx::query(sql)
            .bind(self.id.as_str())
            .bind(self.organisation.as_str())
            .bind(self.template.as_str())
            .bind(&self.pod_id)
            .bind(i64::from(self.vcpu))
            .bind(i64::from(self.memory_mib))
            .bind(bigint(self.disk_mib))
            .bind(bigint(self.timeout_s))
            .bind(self.auto_pause)
            .bind(self.state.as_str())
            .bind(&self.state_reason)
            .bind(self.created_at_ms)
            .bind(self.launched_at_ms)
            .bind(self.state_changed_at_ms)
            .bind(self.timeout_at_ms)
            .bind(&self.machine)
    }
}

impl Db {
    /// Adds a sandbox. Its organisation and template must exist.
    pub async fn sandbox_insert(&self, row: &SandboxRow) -> Result<(), DbError> {
        let sql = format!(
            "INSERT INTO sandbox ({COLUMNS})
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"
        );
        row.bind(&sql).execute(&self.write).await.map(|_| ()).map_err(DbError::insert(
            "sandbox_insert",
            "sandbox",
            row.id.as_str(),
        ))
    }

    /// Writes the whole row again. [`DbError::Missing`] when there is none of this id.
    pub async fn sandbox_update(&self, row: &SandboxRow) -> Result<(), DbError> {
        let done = row
            .bind(
                "UPDATE sandbox SET organisation = $2, template = $3, pod_id = $4, vcpu = $5, memory_mib = $6,
                    disk_mib = $7, timeout_s = $8, auto_pause = $9, state = $10, state_reason = $11,
                    created_at_ms = $12, launched_at_ms = $13, state_changed_at_ms = $14, timeout_at_ms = $15,
                    machine = $16
                 WHERE id = $1",
            )
            .execute(&self.write)
            .await
            .map_err(DbError::query("sandbox_update"))?;
        match done.rows_affected() {
            0 => Err(DbError::Missing { table: "sandbox", id: row.id.to_string() }),
            _ => Ok(()),
        }
    }

    /// The sandbox of this id, in whatever state.
    pub async fn sandbox_by_id(&self, id: &SandboxId) -> Result<Option<SandboxRow>, DbError> {
        let row = sqlx::query(&format!("SELECT {COLUMNS} FROM sandbox WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("sandbox_by_id"))?;
        row.as_ref().map(SandboxRow::read).transpose()
    }

    /// A page of the organisation's sandboxes, and how many match over all pages. Deleted ones are left out. Equal
    /// sort keys are ordered by id, in the same direction, so that pages neither overlap nor leave gaps.
    pub async fn sandbox_list(
        &self,
        organisation: &OrganisationId,
        query: &SandboxListQuery,
    ) -> Result<(Vec<SandboxRow>, u64), DbError> {
        const MATCHES: &str = "organisation = $1 AND state <> 'deleted' AND ($2 IS NULL OR state = $2)";
        let error = |source| DbError::Query { query: "sandbox_list", source };
        let state = query.state.map(SandboxState::as_str);
        // One read transaction: the count and the page are of the same moment.
        let mut transaction = self.read.begin().await.map_err(error)?;
        let total: i64 = sqlx::query_scalar(&format!("SELECT COUNT(*) FROM sandbox WHERE {MATCHES}"))
            .bind(organisation.as_str())
            .bind(state)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let page =
            format!("SELECT {COLUMNS} FROM sandbox WHERE {MATCHES} ORDER BY {} LIMIT $3 OFFSET $4", order(query));
        let rows = sqlx::query(&page)
            .bind(organisation.as_str())
            .bind(state)
            .bind(bigint(query.page_size))
            .bind(bigint(query.page.saturating_sub(1).saturating_mul(query.page_size)))
            .fetch_all(&mut *transaction)
            .await
            .map_err(error)?;
        transaction.commit().await.map_err(error)?;
        let rows = rows.iter().map(SandboxRow::read).collect::<Result<_, _>>()?;
        Ok((rows, u64::try_from(total).unwrap_or(0)))
    }

    /// Every sandbox that is not deleted, oldest first: what a starting server has to look after.
    pub async fn sandbox_unfinished(&self) -> Result<Vec<SandboxRow>, DbError> {
        sqlx::query(&format!("SELECT {COLUMNS} FROM sandbox WHERE state <> 'deleted' ORDER BY created_at_ms, id"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("sandbox_unfinished"))?
            .iter()
            .map(SandboxRow::read)
            .collect()
    }

    /// Removes the row itself, whatever its state (a create that never was acknowledged). Harmless when it is gone.
    pub async fn sandbox_delete_row(&self, id: &SandboxId) -> Result<(), DbError> {
        sqlx::query("DELETE FROM sandbox WHERE id = $1")
            .bind(id.as_str())
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(DbError::query("sandbox_delete_row"))
    }

    /// Removes the rows of sandboxes that were deleted before `before_ms`; tells how many.
    pub async fn sandbox_purge_deleted(&self, before_ms: i64) -> Result<u64, DbError> {
        sqlx::query("DELETE FROM sandbox WHERE state = 'deleted' AND state_changed_at_ms < $1")
            .bind(before_ms)
            .execute(&self.write)
            .await
            .map(|done| done.rows_affected())
            .map_err(DbError::query("sandbox_purge_deleted"))
    }
}

/// The ORDER BY list: fixed words only, nothing of the request's.
fn order(query: &SandboxListQuery) -> &'static str {
    match (query.sort, query.order) {
        (SandboxSort::CreatedAt, SortOrder::Ascending) => "created_at_ms ASC, id ASC",
        (SandboxSort::CreatedAt, SortOrder::Descending) => "created_at_ms DESC, id DESC",
        (SandboxSort::State, SortOrder::Ascending) => "state ASC, id ASC",
        (SandboxSort::State, SortOrder::Descending) => "state DESC, id DESC",
    }
}
