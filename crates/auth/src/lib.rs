//! Who is asking, and how often they may.
//!
//! ```text
//! request headers ──► headers: which header carries the platform's key
//!                 ──► secret:  is it shaped like a key; its SHA-256
//!                 ──► keys:    hash → caller, in memory, re-read from the database about every second
//!                 ──► rate:    requests of the caller's organisation in the last minute
//! ```
//! `api` and `gateway` stand side by side and both ask here. `leapbox keys` makes and revokes keys in a process of its
//! own on the same database file; a server notices within seconds.

#![forbid(unsafe_code)]

mod error;
mod headers;
mod keys;
mod rate;
mod secret;

pub use error::{AuthError, KeyError};
pub use headers::strip_platform_key;
pub use rate::RateLimit;

use http::HeaderMap;
use keys::KeyTable;
use leapbox_db::{ApiKeyRow, Db};
use leapbox_ids::{KeyId, OrganisationId};
use rate::RateLimiter;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The organisation everything made by this request belongs to.
    pub organisation: OrganisationId,
    /// The key that was used.
    pub key: KeyId,
}

/// Keys and rate limits. Shared behind an `Arc`.
pub struct Auth {
    db: Db,
    keys: KeyTable,
    limiter: RateLimiter,
}

impl Auth {
    /// Keys are read from the database when the first request asks.
    pub fn new(db: Db, limit: RateLimit) -> Self {
        Self { keys: KeyTable::new(db.clone()), limiter: RateLimiter::new(limit), db }
    }

    /// The caller whose key these headers carry. Costs no database query, except about once a second for one request
    /// (and for unknown keys, of all of them together, ten a second).
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        let text = headers::platform_key(headers)?;
        let hash = secret::hash(text).ok_or(AuthError::Malformed)?;
        self.keys.caller(&hash).await?.ok_or(AuthError::Unknown)
    }

    /// Counts one request of the organisation, or refuses it with the seconds until it may ask again (at least 1).
    pub fn check(&self, organisation: &OrganisationId) -> Result<(), u64> {
        self.limiter.check(organisation, Instant::now())
    }

    /// Makes a key. The secret is told this once and stored nowhere.
    pub async fn create_key(&self, organisation: &OrganisationId, name: &str) -> Result<(KeyId, String), KeyError> {
        let secret = secret::generate().map_err(|source| KeyError::Random { source })?;
        let row = ApiKeyRow {
            id: KeyId::generate(),
            organisation: organisation.clone(),
            hash: secret::hash_hex(&secret),
            display: secret::display(&secret),
            name: name.to_owned(),
            created_at_ms: now_ms(),
            revoked_at_ms: None,
        };
        self.db.api_key_insert(&row).await.map_err(|source| KeyError::Insert { source })?;
        self.keys.forget().await;
        Ok((row.id, secret))
    }

    /// Ends a key: at once in this process, within seconds in every other.
    pub async fn revoke(&self, key: &KeyId) -> Result<(), KeyError> {
        self.db.api_key_revoke(key, now_ms()).await.map_err(|source| KeyError::Revoke { source })?;
        self.keys.forget().await;
        Ok(())
    }
}

/// Unix time in ms; a clock before 1970 counts as 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
