//! Typed reads of a row's columns.

use crate::DbError;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Sqlite, Type};
use std::str::FromStr;

/// A row of `table`, read column by column.
pub(crate) struct Columns<'r> {
    table: &'static str,
    row: &'r SqliteRow,
}

impl<'r> Columns<'r> {
    pub(crate) fn new(table: &'static str, row: &'r SqliteRow) -> Self {
        Self { table, row }
    }

    /// The column as the database has it.
    pub(crate) fn get<T>(&self, column: &'static str) -> Result<T, DbError>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite>,
    {
        self.row.try_get(column).map_err(|source| DbError::Column { table: self.table, column, source })
    }

    /// A text column that stands for something (an id, a state).
    pub(crate) fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, DbError> {
        let text: &str = self.get(column)?;
        text.parse().map_err(|_| self.unreadable(column, text))
    }

    /// A number column of another width than the database's.
    pub(crate) fn number<T: TryFrom<i64>>(&self, column: &'static str) -> Result<T, DbError> {
        let value: i64 = self.get(column)?;
        T::try_from(value).map_err(|_| self.unreadable(column, &value.to_string()))
    }

    fn unreadable(&self, column: &'static str, value: &str) -> DbError {
        DbError::Unreadable { table: self.table, column, value: value.to_owned() }
    }
}

/// A number on its way into a BIGINT column. What does not fit is far outside every bound the API has.
pub(crate) fn bigint(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
