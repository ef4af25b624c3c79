//! Hash → caller, in memory.
//!
//! ```text
//!                       known                            unknown
//! checked < 1 s ago     answer                           \
//! checked < 5 s ago     answer; one request re-reads      > wait for a read that begins after the request came
//! older, or never       wait for a read                  /
//! ```
//! The table has every key that works and nothing else, so unknown keys cannot make it grow. They wait for the
//! database, because the key may have been made by another process a moment ago; but all of them share one read, and
//! reads that unknown keys cause are [`MISS_PAUSE`] apart. A read is one count of rows unless something changed.

use crate::Caller;
use crate::secret::{KeyHash, hash_from_hex};
use leapbox_db::{Db, DbError, KeysVersion};
use leapbox_errors::chain;
use parking_lot::RwLock;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For how long a read is as good as new.
const FRESH: Duration = Duration::from_secs(1);
/// For how long a read is used while a newer one is on its way, or fails. Bounds how long a revoked key can work.
const STALE: Duration = Duration::from_secs(5);
/// Least time between two reads caused by unknown keys.
const MISS_PAUSE: Duration = Duration::from_millis(100);

/// The keys that work.
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
    /// When the last successful read began.
    checked_at: Option<Instant>,
}

impl KeyTable {
    pub(crate) fn new(db: Db) -> Self {
        Self { db, loaded: RwLock::default(), reading: tokio::sync::Mutex::new(()) }
    }

    /// The caller of this key, if it works.
    pub(crate) async fn caller(&self, hash: &KeyHash) -> Result<Option<Caller>, DbError> {
        let arrived = Instant::now();
        let (known, checked_at) = self.look(hash);
        let age = checked_at.map(|at| arrived.saturating_duration_since(at));
        match (known, age) {
            (Some(caller), Some(age)) if age <= FRESH => Ok(Some(caller)),
            (Some(caller), Some(age)) if age <= STALE => Ok(self.refreshed(hash, caller).await),
            _ => {
                self.read_since(arrived).await?;
                Ok(self.look(hash).0)
            }
        }
    }

    /// The next request reads the database.
    pub(crate) async fn forget(&self) {
        // A read that is under way may have begun before the change; it must not count as a check after it.
        let _reading = self.reading.lock().await;
        self.loaded.write().checked_at = None;
    }

    fn look(&self, hash: &KeyHash) -> (Option<Caller>, Option<Instant>) {
        let loaded = self.loaded.read();
        (loaded.callers.get(hash).cloned(), loaded.checked_at)
    }

    /// What is known may be out of date: the first to come reads again, everyone else goes on with it.
    async fn refreshed(&self, hash: &KeyHash, caller: Caller) -> Option<Caller> {
        let Ok(_reading) = self.reading.try_lock() else { return Some(caller) };
        match self.read().await {
            Ok(()) => self.look(hash).0,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "keys could not be checked again");
                Some(caller)
            }
        }
    }

    /// Returns once a read has succeeded that began after `since`.
    async fn read_since(&self, since: Instant) -> Result<(), DbError> {
        let _reading = self.reading.lock().await;
        let checked_at = self.loaded.read().checked_at;
        if let Some(at) = checked_at {
            if at >= since {
                return Ok(());
            }
            tokio::time::sleep_until((at + MISS_PAUSE).into()).await;
        }
        self.read().await
    }

    /// Reads what has changed. The caller holds `reading`.
    async fn read(&self) -> Result<(), DbError> {
        let began = Instant::now();
        let version = self.db.api_key_version().await?;
        let known = self.loaded.read().version;
        let changed = if known == Some(version) { None } else { Some(self.read_callers().await?) };
        let mut loaded = self.loaded.write();
        if let Some(callers) = changed {
            loaded.callers = callers;
            // Read before the keys were: a change in between is seen again by the next read.
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
                None => tracing::error!(key = %row.id, "the stored hash of this key cannot be read; it will not work"),
            }
        }
        Ok(callers)
    }
}
