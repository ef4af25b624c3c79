//! API keys: hashes of secrets, never the secrets.

use crate::row::{Row, row};
use crate::{Db, DbError};
use leapbox_ids::{KeyId, OrganisationId};
use sqlx::Row as _;

row! {
    /// One API key.
    pub struct ApiKeyRow of "api_key" {
        /// Its public name.
        id: KeyId,
        /// Whose it is.
        organisation: OrganisationId,
        /// SHA-256 of the secret, lower-case hex.
        hash: String,
        /// The secret's first characters, to tell keys apart in a list.
        display: String,
        /// What its owner calls it.
        name: String,
        /// Unix time in ms.
        created_at_ms: i64,
        /// Unix time in ms; `None` while it works.
        revoked_at_ms: Option<i64>,
    }
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

impl Db {
    /// Adds a key. The organisation must exist.
    pub async fn api_key_insert(&self, row: &ApiKeyRow) -> Result<(), DbError> {
        row.insert(self, "api_key_insert", row.id.as_str()).await
    }

    /// Every key, revoked ones too, oldest first.
    pub async fn api_key_list(&self) -> Result<Vec<ApiKeyRow>, DbError> {
        sqlx::query(&ApiKeyRow::select("ORDER BY created_at_ms, id"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("api_key_list"))?
            .iter()
            .map(ApiKeyRow::read)
            .collect()
    }

    /// The keys that work.
    pub async fn api_key_list_active(&self) -> Result<Vec<ApiKeyRow>, DbError> {
        sqlx::query(&ApiKeyRow::select("WHERE revoked_at_ms IS NULL"))
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
