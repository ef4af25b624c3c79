//! Opens the database. [`Db`] is the handle that all queries are methods of.

use crate::{DbError, migrations};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// Connections for reading. Queries take well under a millisecond, so a few connections serve thousands of requests a
/// second.
const READERS: u32 = 4;
/// How long a statement waits for another process that is writing, such as `leapbox keys`, before it fails with
/// SQLITE_BUSY. Such a write takes milliseconds; the rest is margin for a slow disk.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    pub(crate) read: SqlitePool,
    pub(crate) write: SqlitePool,
}

impl Db {
    /// Opens the database at `path`, creates it with mode 0600 if it is not there, and brings its schema up to date.
    /// Several processes may have it open.
    pub async fn open(path: &Path) -> Result<Db, DbError> {
        // SQLite would create it with the umask's mode, and others could read it. Its WAL files get the mode that they
        // find here.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| DbError::Create { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            // Readers do not wait for the writer, so a create that is being synced holds up nobody's GET.
            .journal_mode(SqliteJournalMode::Wal)
            // An acknowledged sandbox must survive a power cut (case 48), so every commit is synced. SQLite's usual
            // choice in WAL mode, NORMAL, may lose the last commits.
            .synchronous(SqliteSynchronous::Full)
            // SQLite ignores foreign keys unless they are turned on for each connection.
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let open_error = |source| DbError::Open { path: path.to_owned(), source };
        // One connection: SQLite has one writer at a time. The pool's queue is fair; SQLite's busy loop is not.
        let write = pool(1).connect_with(options.clone()).await.map_err(open_error)?;
        migrations::run(&write, path).await?;
        let read = pool(READERS).connect_with(options).await.map_err(open_error)?;
        Ok(Db { read, write })
    }

    /// Opens the database at `path`, which must exist, for reading alone: its schema is left as it is, and a query about
    /// a table that it lacks fails.
    pub async fn open_for_reading(path: &Path) -> Result<Db, DbError> {
        // Without a write-ahead log nobody has the database open. SQLite would make one beside it even to read, unless it
        // is told that the file does not change.
        let is_idle = !path.with_extension("db-wal").exists();
        let options = SqliteConnectOptions::new().filename(path).read_only(true).immutable(is_idle);
        let options = options.busy_timeout(BUSY_TIMEOUT);
        let open_error = |source| DbError::Open { path: path.to_owned(), source };
        let read = pool(1).connect_with(options).await.map_err(open_error)?;
        Ok(Db { write: read.clone(), read })
    }

    /// Closes all connections. SQLite then moves the write-ahead log's contents into the database file.
    pub async fn close(&self) {
        self.read.close().await;
        self.write.close().await;
    }
}

fn pool(connections: u32) -> SqlitePoolOptions {
    // The connections are to a local file: they neither break nor grow old, and a ping before each use would cost as
    // much as most queries.
    SqlitePoolOptions::new()
        .max_connections(connections)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}
