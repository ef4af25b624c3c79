//! Opening the database, and the handle everything else asks.

use crate::{DbError, migrations};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Connections that read at the same time.
const READERS: u32 = 4;
/// How long a write waits for another process (`leapbox keys`, say) that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    pub(crate) read: SqlitePool,
    pub(crate) write: SqlitePool,
}

impl Db {
    /// Opens the database at `path`, makes it (readable by its owner alone) when it is not there, and brings its
    /// schema up to date. Several processes may have it open.
    pub async fn open(path: &Path) -> Result<Db, DbError> {
        // SQLite would make it with the umask's mode; its WAL files take over the mode they find here.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| DbError::Create { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged sandbox must survive a power cut, so every commit is synced.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let open_error = |source| DbError::Open { path: path.to_owned(), source };
        let write = pool(1).connect_with(options.clone()).await.map_err(open_error)?;
        migrations::run(&write, path).await?;
        let read = pool(READERS).connect_with(options).await.map_err(open_error)?;
        Ok(Db { read, write })
    }

    /// Closes every connection and folds the write-ahead log into the file.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

/// A pool whose connections stay: they are local, so neither age nor a ping before use has a point.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}
