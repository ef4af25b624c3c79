//! The table of valid keys in memory: from the hash of a secret to its caller. The database is the authority, and
//! another process (`leapbox keys`) may change it, so the table is read again when it gets old:
//!
//! ```text
//!                       known                            unknown
//! checked < 1 s ago     answer                           \
//! checked < 5 s ago     answer; one request re-reads      > wait for a read that begins after the request came
//! older, or never       wait for a read                  /
//! ```
//! The table has the valid keys and nothing else, so requests with unknown keys cannot make it grow. Such a request
//! waits for the database, because another process may have made its key a moment ago; but all of them share one read,
//! and reads that unknown keys cause are [`MISS_PAUSE`] apart. A read only counts rows, unless something has changed.

use crate::Caller;
use crate::secret::{KeyHash, hash_from_hex};
use leapbox_db::{Db, DbError, KeysVersion};
use leapbox_errors::chain;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Age up to which the table is used without a look at the database.
const FRESH: Duration = Duration::from_secs(1);
/// Age up to which the table is used while it is being read again, or while the database fails. It bounds how long a
/// revoked key is still accepted.
const STALE: Duration = Duration::from_secs(5);
/// The least time between two reads that unknown keys cause: whoever tries keys costs the database ten counts a second,
/// however many requests they send.
const MISS_PAUSE: Duration = Duration::from_millis(100);

/// The valid keys, read from the database when they are needed.
pub(crate) struct KeyTable {
    db: Db,
    loaded: RwLock<Loaded>,
    /// Held by the one request that reads the database.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Loaded {
    callers: HashMap<KeyHash, Caller>,
    version: Option<KeysVersion>,
    /// When the last successful read began. `None` if there was none, or the next request must read.
    checked_at: Option<Instant>,
}

impl KeyTable {
    pub(crate) fn new(db: Db) -> Self {
        Self { db, loaded: RwLock::default(), reading: tokio::sync::Mutex::new(()) }
    }

    /// The caller of the key with this hash, if the key is valid.
    pub(crate) async fn caller(&self, hash: &KeyHash) -> Result<Option<Caller>, DbError> {
        let arrived = Instant::now();
        let (known, checked_at) = self.lookup(hash);
        let age = checked_at.map(|at| arrived.saturating_duration_since(at));
        match (known, age) {
            (Some(caller), Some(age)) if age <= FRESH => Ok(Some(caller)),
            (Some(caller), Some(age)) if age <= STALE => Ok(self.refreshed(hash, caller).await),
            // Unknown, or too old: the answer must come from a read that began after the request did.
            _ => {
                self.read_since(arrived).await?;
                Ok(self.lookup(hash).0)
            }
        }
    }

    /// Makes the next request read the database, because a key was just made or revoked here.
    pub(crate) async fn forget(&self) {
        // Waited for, because a read that is in progress may have begun before the change and would set this again.
        let _reading = self.reading.lock().await;
        self.loaded.write().checked_at = None;
    }

    fn lookup(&self, hash: &KeyHash) -> (Option<Caller>, Option<Instant>) {
        let loaded = self.loaded.read();
        (loaded.callers.get(hash).cloned(), loaded.checked_at)
    }

    /// Answers from a table that is getting old. The first request to come reads the table again; all others use the
    /// old one meanwhile, so that no request waits for another's read.
    async fn refreshed(&self, hash: &KeyHash, caller: Caller) -> Option<Caller> {
        let Ok(_reading) = self.reading.try_lock() else { return Some(caller) };
        match self.read().await {
            Ok(()) => self.lookup(hash).0,
            // A database that is locked for a moment must not refuse every request; STALE bounds this.
            Err(error) => {
                tracing::warn!(error = %chain(&error), "API keys could not be read again; those in memory are used");
                Some(caller)
            }
        }
    }

    /// Returns once a read has succeeded that began after `since`.
    async fn read_since(&self, since: Instant) -> Result<(), DbError> {
        let _reading = self.reading.lock().await;
        let checked_at = self.loaded.read().checked_at;
        if let Some(at) = checked_at {
            // The request before this one in the queue has read.
            if at >= since {
                return Ok(());
            }
            tokio::time::sleep_until((at + MISS_PAUSE).into()).await;
        }
        self.read().await
    }

    /// Reads the keys if they have changed. The caller holds `reading`.
    async fn read(&self) -> Result<(), DbError> {
        let began = Instant::now();
        let version = self.db.api_key_version().await?;
        let known = self.loaded.read().version;
        let changed = if known == Some(version) { None } else { Some(self.read_callers().await?) };
        let mut loaded = self.loaded.write();
        if let Some(callers) = changed {
            loaded.callers = callers;
            // The version was read before the keys. A change between the two makes the next read load them once more;
            // in the other order it would never be loaded.
            loaded.version = Some(version);
        }
        loaded.checked_at = Some(began);
        Ok(())
    }

    async fn read_callers(&self) -> Result<HashMap<KeyHash, Caller>, DbError> {
        let rows = self.db.api_key_list_active().await?;
        let mut callers = HashMap::with_capacity(rows.len());
        for row in rows {
            match hash_from_hex(&row.hash) {
                Some(hash) => {
                    callers.insert(hash, Caller { organisation: row.organisation, key: row.id });
                }
                None => tracing::error!(key = %row.id, "a key's stored hash cannot be read: the key is refused"),
            }
        }
        Ok(callers)
    }
}
