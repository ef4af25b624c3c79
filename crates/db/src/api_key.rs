//! API keys: hashes of secrets, never the secrets.

use crate::row::Columns;
use crate::{Db, DbError};
use leapbox_ids::{KeyId, OrganisationId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

const COLUMNS: &str = "id, organisation, hash, display, name, created_at_ms, revoked_at_ms";

/// One API key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKeyRow {
    /// Its public name.
    pub id: KeyId,
    /// Whose it is.
    pub organisation: OrganisationId,
    /// SHA-256 of the secret, lower-case hex.
    pub hash: String,
    /// The secret's first characters, to tell keys apart in a list.
    pub display: String,
    /// What its owner calls it.
    pub name: String,
    /// Unix time in ms.
    pub created_at_ms: i64,
    /// Unix time in ms; `None` while it works.
    pub revoked_at_ms: Option<i64>,
}

/// Changes whenever a key is made or revoked, in whatever process. Keys are never deleted, nor un-revoked, so both
/// counts only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysVersion {
    /// Keys ever made.
    pub made: i64,
    /// Keys ever revoked.
    pub revoked: i64,
}

impl ApiKeyRow {
    fn read(row: &SqliteRow) -> Result<Self, DbError> {
        let columns = Columns::new("api_key", row);
        Ok(Self {
            id: columns.parsed("id")?,
            organisation: columns.parsed("organisation")?,
            hash: columns.get("hash")?,
            display: columns.get("display")?,
            name: columns.get("name")?,
            created_at_ms: columns.get("created_at_ms")?,
            revoked_at_ms: columns.get("revoked_at_ms")?,
        })
    }
}

impl Db {
    /// Adds a key. The organisation must exist.
    pub async fn api_key_insert(&self, row: &ApiKeyRow) -> Result<(), DbError> {
        sqlx::query(
            "INSERT INTO api_key (id, organisation, hash, display, name, created_at_ms, revoked_at_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(row.id.as_str())
        .bind(row.organisation.as_str())
        .bind(&row.hash)
        .bind(&row.display)
        .bind(&row.name)
        .bind(row.created_at_ms)
        .bind(row.revoked_at_ms)
        .execute(&self.write)
        .await
        .map(|_| ())
        .map_err(DbError::insert("api_key_insert", "api_key", row.id.as_str()))
    }

    /// Every key, revoked ones too, oldest first.
    pub async fn api_key_list(&self) -> Result<Vec<ApiKeyRow>, DbError> {
        sqlx::query(&format!("SELECT {COLUMNS} FROM api_key ORDER BY created_at_ms, id"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("api_key_list"))?
            .iter()
            .map(ApiKeyRow::read)
            .collect()
    }

    /// The keys that work.
    pub async fn api_key_list_active(&self) -> Result<Vec<ApiKeyRow>, DbError> {
        sqlx::query(&format!("SELECT {COLUMNS} FROM api_key WHERE revoked_at_ms IS NULL"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("api_key_list_active"))?
            .iter()
            .map(ApiKeyRow::read)
            .collect()
    }

    /// Tells cheaply whether [`Db::api_key_list_active`] would answer something new.
    pub async fn api_key_version(&self) -> Result<KeysVersion, DbError> {
        let error = |source| DbError::Query { query: "api_key_version", source };
        let row = sqlx::query("SELECT COUNT(*) AS made, COUNT(revoked_at_ms) AS revoked FROM api_key")
            .fetch_one(&self.read)
            .await
            .map_err(error)?;
        Ok(KeysVersion { made: row.try_get("made").map_err(error)?, revoked: row.try_get("revoked").map_err(error)? })
    }

    /// Ends a key. A key that has ended already keeps its time. [`DbError::Missing`] when there is no such key.
    pub async fn api_key_revoke(&self, id: &KeyId, now_ms: i64) -> Result<(), DbError> {
        let done = sqlx::query("UPDATE api_key SET revoked_at_ms = COALESCE(revoked_at_ms, $2) WHERE id = $1")
            .bind(id.as_str())
            .bind(now_ms)
            .execute(&self.write)
            .await
            .map_err(DbError::query("api_key_revoke"))?;
        match done.rows_affected() {
            0 => Err(DbError::Missing { table: "api_key", id: id.to_string() }),
            _ => Ok(()),
        }
    }
}
