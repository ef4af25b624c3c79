//! API keys. A row has the hash of the key's secret; the secret itself is shown once, when the key is made, and never
//! stored. Called by `auth` and by `leapbox keys`.

use crate::row::{Row, row};
use crate::{Db, DbError};
use leapbox_ids::{KeyId, OrganisationId};
use sqlx::Row as _;

row! {
    /// An API key, without its secret.
    pub struct ApiKeyRow of "api_key" {
        /// The public id, which lists and logs may show.
        id: KeyId,
        organisation: OrganisationId,
        /// SHA-256 of the secret, lower-case hex.
        hash: String,
        /// The first characters of the secret, by which its owner tells keys apart in a list.
        display: String,
        /// The name that its owner gave it; not unique.
        name: String,
        created_at_ms: i64,
        /// Unix time in milliseconds; `None` while the key is valid.
        revoked_at_ms: Option<i64>,
    }
}

/// A version of the table of keys, which changes whenever a key is made or revoked, in whatever process. Keys are never
/// deleted or made valid again, so both counts only grow and a pair never comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysVersion {
    pub made: i64,
    pub revoked: i64,
}

impl Db {
    /// Inserts a key. The organisation must exist.
    pub async fn api_key_insert(&self, row: &ApiKeyRow) -> Result<(), DbError> {
        row.insert(self, "api_key_insert", row.id.as_str()).await
    }

    /// Lists all keys, revoked ones too, oldest first.
    pub async fn api_key_list(&self) -> Result<Vec<ApiKeyRow>, DbError> {
        sqlx::query(&ApiKeyRow::select("ORDER BY created_at_ms, id"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("api_key_list"))?
            .iter()
            .map(ApiKeyRow::read)
            .collect()
    }

    /// Lists the keys that are not revoked.
    pub async fn api_key_list_active(&self) -> Result<Vec<ApiKeyRow>, DbError> {
        sqlx::query(&ApiKeyRow::select("WHERE revoked_at_ms IS NULL"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("api_key_list_active"))?
            .iter()
            .map(ApiKeyRow::read)
            .collect()
    }

    /// The version of what [`Db::api_key_list_active`] returns.
    pub async fn api_key_version(&self) -> Result<KeysVersion, DbError> {
        // A server asks this about every second while it has requests, so it must be cheaper than reading the keys.
        let error = |source| DbError::Query { query: "api_key_version", source };
        let row = sqlx::query("SELECT COUNT(*) AS made, COUNT(revoked_at_ms) AS revoked FROM api_key")
            .fetch_one(&self.read)
            .await
            .map_err(error)?;
        Ok(KeysVersion { made: row.try_get("made").map_err(error)?, revoked: row.try_get("revoked").map_err(error)? })
    }

    /// Revokes a key. [`DbError::Missing`] when there is no such key.
    pub async fn api_key_revoke(&self, id: &KeyId, now_ms: i64) -> Result<(), DbError> {
        // COALESCE keeps the time of the first revocation, which an audit would look for.
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
