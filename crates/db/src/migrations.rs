//! The schema's versions, applied in order, each in a transaction of its own.
//!
//! A file that has been released is never edited; a change is a new file at the end of [`MIGRATIONS`].

use crate::DbError;
use sqlx::Executor;
use sqlx::sqlite::SqlitePool;

/// The SQL of every version; version n is at index n - 1.
const MIGRATIONS: [&str; 1] = [include_str!("../migrations/0001_first.sql")];

/// Newest version this program knows.
pub(crate) const NEWEST: i64 = MIGRATIONS.len() as i64;

/// Brings the database to [`NEWEST`]. Two processes may call it at once: the second finds the work done.
pub(crate) async fn run(pool: &SqlitePool) -> Result<(), DbError> {
    let step = |version| move |source| DbError::Migrate { version, source };
    // Takes the write lock at once, so that the version read below stays true until the commit.
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await.map_err(step(0))?;
    transaction
        .execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT NOT NULL PRIMARY KEY)")
        .await
        .map_err(step(0))?;
    let found: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM schema_version")
        .fetch_one(&mut *transaction)
        .await
        .map_err(step(0))?;
    if found > NEWEST {
        return Err(DbError::SchemaTooNew { found, known: NEWEST });
    }
    for (version, sql) in (1..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= found) {
        transaction.execute(sql).await.map_err(step(version))?;
        sqlx::query("INSERT INTO schema_version (version) VALUES ($1)")
            .bind(version)
            .execute(&mut *transaction)
            .await
            .map_err(step(version))?;
        tracing::info!(version, "database schema brought up to date");
    }
    transaction.commit().await.map_err(step(NEWEST))
}
