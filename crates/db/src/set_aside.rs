//! What garbage collection has set aside: archives and machines that no row names, and that are removed only when they
//! have waited long enough for somebody to put the right database back. With it goes what the operator has said about
//! sweeps. Called by `lifecycle`, and by the command line for the operator's word.

use crate::row::{Column, Row, read, row};
use crate::{Db, DbError};

/// The kind of a thing that is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetAsideKind {
    Archive,
    Machine,
}

impl Column for SetAsideKind {
    type Stored = String;

    fn from_stored(stored: &String) -> Option<Self> {
        match stored.as_str() {
            "archive" => Some(Self::Archive),
            "machine" => Some(Self::Machine),
            _ => None,
        }
    }

    fn to_stored(&self) -> String {
        match self {
            Self::Archive => "archive",
            Self::Machine => "machine",
        }
        .to_owned()
    }
}

row! {
    pub struct SetAside of "set_aside" {
        /// An archive's id, or the name of a machine.
        name: String,
        kind: SetAsideKind,
        /// Bytes that its removal frees on this host.
        bytes: u64,
        /// Seconds that it has waited while a server ran.
        waited_s: u64,
    }
}

/// What sweeps and the operator have to say to each other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepWord {
    /// Archives that a sweep would set aside at once and does not, because they are a large share of all; 0 is none.
    pub held_back: u64,
    /// The operator allows that they are set aside.
    pub allowed: bool,
    /// The operator wants what is set aside removed at the next sweep.
    pub remove_now: bool,
}

impl Db {
    /// Lists all that is set aside, ordered by name.
    pub async fn set_aside_list(&self) -> Result<Vec<SetAside>, DbError> {
        sqlx::query(&SetAside::select("ORDER BY name"))
            .fetch_all(&self.read)
            .await
            .map_err(DbError::query("set_aside_list"))?
            .iter()
            .map(SetAside::read)
            .collect()
    }

    /// Inserts these rows, or replaces those of the same names; all of them or none.
    pub async fn set_aside_put(&self, rows: &[SetAside]) -> Result<(), DbError> {
        let error = |source| DbError::Query { query: "set_aside_put", source };
        let columns = SetAside::columns();
        let replaced: Vec<String> =
            columns.iter().skip(1).map(|column| format!("{column} = excluded.{column}")).collect();
        let insert = SetAside::insert_statement();
        let statement = format!("{insert} ON CONFLICT ({}) DO UPDATE SET {}", columns[0], replaced.join(", "));
        let mut transaction = self.write.begin().await.map_err(error)?;
        for row in rows {
            row.bind(sqlx::query(&statement)).execute(&mut *transaction).await.map_err(error)?;
        }
        transaction.commit().await.map_err(error)
    }

    /// Removes the rows of these names; all of them or none. No error when there is none.
    pub async fn set_aside_remove(&self, names: &[String]) -> Result<(), DbError> {
        let error = |source| DbError::Query { query: "set_aside_remove", source };
        let mut transaction = self.write.begin().await.map_err(error)?;
        for name in names {
            sqlx::query("DELETE FROM set_aside WHERE name = $1")
                .bind(name.as_str())
                .execute(&mut *transaction)
                .await
                .map_err(error)?;
        }
        transaction.commit().await.map_err(error)
    }

    /// What sweeps and the operator have said; nothing if there is no installation.
    pub async fn sweep_word(&self) -> Result<SweepWord, DbError> {
        const TABLE: &str = "installation";
        let row = sqlx::query("SELECT sweep_held_back, sweep_allowed, remove_now FROM installation")
            .fetch_optional(&self.read)
            .await
            .map_err(DbError::query("sweep_word"))?;
        let Some(row) = row else { return Ok(SweepWord::default()) };
        Ok(SweepWord {
            held_back: read(TABLE, &row, "sweep_held_back")?,
            allowed: read(TABLE, &row, "sweep_allowed")?,
            remove_now: read(TABLE, &row, "remove_now")?,
        })
    }

    /// Writes all of `word`. Nothing is written, and that is no error, if there is no installation.
    pub async fn sweep_word_update(&self, word: &SweepWord) -> Result<(), DbError> {
        sqlx::query("UPDATE installation SET sweep_held_back = $1, sweep_allowed = $2, remove_now = $3")
            .bind(word.held_back.to_stored())
            .bind(word.allowed)
            .bind(word.remove_now)
            .execute(&self.write)
            .await
            .map(drop)
            .map_err(DbError::query("sweep_word_update"))
    }
}
