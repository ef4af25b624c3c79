//! Snapshots: names for checkpoints. A row is written once and never changed.

use crate::row::{Columns, bigint};
use crate::{Db, DbError};
use leapbox_api_types::sandbox::SortOrder;
use leapbox_api_types::snapshot::{SnapshotListQuery, SnapshotSort};
use leapbox_ids::{OrganisationId, SnapshotId, TemplateId};
use sqlx::sqlite::SqliteRow;
use std::fmt;

const COLUMNS: &str = "id, organisation, name, template, vcpu, memory_mib, disk_mib, checkpoint, base, image, \
                       environment, network_policy, network_secrets, created_at_ms";

/// One snapshot.
#[derive(Clone, PartialEq, Eq)]
pub struct SnapshotRow {
    /// Its id.
    pub id: SnapshotId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// Its name, unique in the organisation.
    pub name: String,
    /// The template its sandbox was made from.
    pub template: TemplateId,
    /// Virtual CPUs.
    pub vcpu: u8,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Writable disk in MiB.
    pub disk_mib: u64,
    /// The archive with its state.
    pub checkpoint: String,
    /// The warm snapshot that the checkpoint differs from: an archive's id.
    pub base: String,
    /// Digest of the guest image under `base`, without a name for the hash before it.
    pub image: String,
    /// The environment variables of its sandbox, sealed with the server's key. Not in the debug output.
    pub environment: Option<String>,
    /// What its sandbox could reach, as the API shows it (JSON); `None` is every public address.
    pub network_policy: Option<String>,
    /// The whole policy, sealed, if it has secrets. Not in the debug output.
    pub network_secrets: Option<String>,
    /// Unix time in ms.
    pub created_at_ms: i64,
}

impl fmt::Debug for SnapshotRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotRow")
            .field("id", &self.id)
            .field("organisation", &self.organisation)
            .field("name", &self.name)
            .field("template", &self.template)
            .field("vcpu", &self.vcpu)
            .field("memory_mib", &self.memory_mib)
            .field("disk_mib", &self.disk_mib)
            .field("checkpoint", &self.checkpoint)
            .field("base", &self.base)
            .field("image", &self.image)
            .field("network_policy", &self.network_policy)
            .field("created_at_ms", &self.created_at_ms)
            .finish_non_exhaustive()
    }
}

impl SnapshotRow {
    fn read(row: &SqliteRow) -> Result<Self, DbError> {
        let columns = Columns::new("snapshot", row);
        Ok(Self {
            id: columns.parsed("id")?,
            organisation: columns.parsed("organisation")?,
            name: columns.get("name")?,
            template: columns.parsed("template")?,
            vcpu: columns.number("vcpu")?,
            memory_mib: columns.number("memory_mib")?,
            disk_mib: columns.number("disk_mib")?,
            checkpoint: columns.get("checkpoint")?,
            base: columns.get("base")?,
            image: columns.get("image")?,
            environment: columns.get("environment")?,
            network_policy: columns.get("network_policy")?,
            network_secrets: columns.get("network_secrets")?,
            created_at_ms: columns.get("created_at_ms")?,
        })
    }
}

impl Db {
    /// Adds a snapshot. [`DbError::Taken`] when its organisation has one of this name.
    pub async fn snapshot_insert(&self, row: &SnapshotRow) -> Result<(), DbError> {
        let sql = format!(
            "INSERT INTO snapshot ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)"
        );
        sqlx::query(&sql)
            .bind(row.id.as_str())
            .bind(row.organisation.as_str())
            .bind(&row.name)
            .bind(row.template.as_str())
            .bind(i64::from(row.vcpu))
            .bind(i64::from(row.memory_mib))
            .bind(bigint(row.disk_mib))
            .bind(&row.checkpoint)
            .bind(&row.base)
            .bind(&row.image)
            .bind(&row.environment)
            .bind(&row.network_policy)
            .bind(&row.network_secrets)
            .bind(row.created_at_ms)
            .execute(&self.write)
            .await
            .map(|_| ())
            .map_err(DbError::insert("snapshot_insert", "snapshot", &row.name))
    }

    /// The snapshot of this id.
    pub async fn snapshot_by_id(&self, id: &SnapshotId) -> Result<Option<SnapshotRow>, DbError> {
        let row = sqlx::query(&format!("SELECT {COLUMNS} FROM snapshot WHERE id = $1"))
            .bind(id.as_str())
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("snapshot_by_id"))?;
        row.as_ref().map(SnapshotRow::read).transpose()
    }

    /// The organisation's snapshot of this name, exactly as it was given.
    pub async fn snapshot_by_name(
        &self,
        organisation: &OrganisationId,
        name: &str,
    ) -> Result<Option<SnapshotRow>, DbError> {
        let row = sqlx::query(&format!("SELECT {COLUMNS} FROM snapshot WHERE organisation = $1 AND name = $2"))
            .bind(organisation.as_str())
            .bind(name)
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("snapshot_by_name"))?;
        row.as_ref().map(SnapshotRow::read).transpose()
    }

    /// A page of the organisation's snapshots, and how many match over all pages. Equal sort keys are ordered by id, in
    /// the same direction, so that pages neither overlap nor leave gaps.
    pub async fn snapshot_list(
        &self,
        organisation: &OrganisationId,
        query: &SnapshotListQuery,
    ) -> Result<(Vec<SnapshotRow>, u64), DbError> {
        const MATCHES: &str = r"organisation = $1 AND ($2 IS NULL OR LOWER(name) LIKE LOWER($2) ESCAPE '\')";
        let error = |source| DbError::Query { query: "snapshot_list", source };
        let pattern = query.name.as_deref().map(containing);
        // One read transaction: the count and the page are of the same moment.
        let mut transaction = self.read.begin().await.map_err(error)?;
        let total: i64 = sqlx::query_scalar(&format!("SELECT COUNT(*) FROM snapshot WHERE {MATCHES}"))
            .bind(organisation.as_str())
            .bind(&pattern)
            .fetch_one(&mut *transaction)
            .await
            .map_err(error)?;
        let page =
            format!("SELECT {COLUMNS} FROM snapshot WHERE {MATCHES} ORDER BY {} LIMIT $3 OFFSET $4", order(query));
        let rows = sqlx::query(&page)
            .bind(organisation.as_str())
            .bind(&pattern)
            .bind(bigint(query.page_size))
            .bind(bigint(query.page.saturating_sub(1).saturating_mul(query.page_size)))
            .fetch_all(&mut *transaction)
            .await
            .map_err(error)?;
        transaction.commit().await.map_err(error)?;
        let rows = rows.iter().map(SnapshotRow::read).collect::<Result<_, _>>()?;
        Ok((rows, u64::try_from(total).unwrap_or(0)))
    }

    /// Removes a snapshot; its checkpoint stays, and is garbage if nothing else names it. [`DbError::Missing`] when it is
    /// gone: of two who delete it at once, one is told so.
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
    let mut pattern = String::from("%");
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern + "%"
}

/// The ORDER BY list: fixed words only, nothing of the request's.
fn order(query: &SnapshotListQuery) -> &'static str {
    match (query.sort, query.order) {
        (SnapshotSort::CreatedAt, SortOrder::Ascending) => "created_at_ms ASC, id ASC",
        (SnapshotSort::CreatedAt, SortOrder::Descending) => "created_at_ms DESC, id DESC",
        (SnapshotSort::Template, SortOrder::Ascending) => "template ASC, id ASC",
        (SnapshotSort::Template, SortOrder::Descending) => "template DESC, id DESC",
    }
}
