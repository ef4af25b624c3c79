//! Authenticates requests by API key, and limits the rate of requests of an organisation.
//!
//! ```text
//! request headers ──► headers: which header carries the platform's key
//!                 ──► secret:  does it have the form of a key; its SHA-256
//!                 ──► keys:    hash → caller, in memory, read from the database again about every second
//!                 ──► rate:    requests of the caller's organisation in the last minute
//! ```
//! Called by `api` and by `gateway`. `leapbox keys` makes and revokes keys in a process of its own on the same database
//! file; a running server notices within seconds.

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

/// The sender of an authenticated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Everything that the request makes belongs to this organisation.
    pub organisation: OrganisationId,
    pub key: KeyId,
}

/// Keys and rate limits. Shared behind an `Arc`.
pub struct Auth {
    db: Db,
    keys: KeyTable,
    limiter: RateLimiter,
}

impl Auth {
    /// Reads nothing yet: the first request reads the keys.
    pub fn new(db: Db, limit: RateLimit) -> Self {
        Self { keys: KeyTable::new(db.clone()), limiter: RateLimiter::new(limit), db }
    }

    /// Authenticates a request by its headers. Costs no database query, but for one request about once a second, and
    /// for unknown keys ten times a second, however many requests there are.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, AuthError> {
        let text = headers::platform_key(headers)?;
        // A text of another form is refused without the database, so that scanners cost nothing.
        let hash = secret::hash(text).ok_or(AuthError::Malformed)?;
        self.keys.caller(&hash).await?.ok_or(AuthError::Unknown)
    }

    /// Counts one request of the organisation, or refuses it: the error is the number of seconds, at least 1, after
    /// which a request will be admitted.
    pub fn check(&self, organisation: &OrganisationId) -> Result<(), u64> {
        self.limiter.check(organisation, Instant::now())
    }

    /// Makes a key and returns its id and secret. The secret is stored nowhere, so it can be read only here.
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

    /// Revokes a key: at once in this process, within five seconds in every other.
    pub async fn revoke(&self, key: &KeyId) -> Result<(), KeyError> {
        self.db.api_key_revoke(key, now_ms()).await.map_err(|source| KeyError::Revoke { source })?;
        self.keys.forget().await;
        Ok(())
    }
}

/// The current Unix time in milliseconds; a clock before 1970 counts as 1970.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
