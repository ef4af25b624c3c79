//! Rows: which columns a table has, and how each is read and written. [`row!`] is the only place that lists a table's
//! columns; every statement is made from that list.

use crate::DbError;
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, KeyId, OrganisationId, SandboxId, SnapshotId, TemplateId};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Decode, Encode, Row, Type};
use std::fmt;

/// A statement whose parameters are being bound.
pub(crate) type Statement<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments<'q>>;

/// A value that a column can hold.
pub(crate) trait Column: Sized {
    /// How the database holds it.
    type Stored: fmt::Debug + Type<Sqlite> + for<'r> Decode<'r, Sqlite> + for<'q> Encode<'q, Sqlite> + Send + 'static;

    /// The value; none if no value is written like that.
    fn from_stored(stored: &Self::Stored) -> Option<Self>;

    fn to_stored(&self) -> Self::Stored;
}

macro_rules! stored_as_itself {
    ($($kind:ty),+) => {$(
        impl Column for $kind {
            type Stored = Self;

            fn from_stored(stored: &Self) -> Option<Self> {
                Some(stored.clone())
            }

            fn to_stored(&self) -> Self {
                self.clone()
            }
        }
    )+};
}
stored_as_itself!(String, i64, bool);

/// What does not fit into BIGINT is far outside every bound that the API has.
macro_rules! stored_as_bigint {
    ($($kind:ty),+) => {$(
        impl Column for $kind {
            type Stored = i64;

            fn from_stored(stored: &i64) -> Option<Self> {
                Self::try_from(*stored).ok()
            }

            fn to_stored(&self) -> i64 {
                i64::try_from(*self).unwrap_or(i64::MAX)
            }
        }
    )+};
}
stored_as_bigint!(u8, u32, u64);

macro_rules! stored_as_text {
    ($($kind:ty),+ $(,)?) => {$(
        impl Column for $kind {
            type Stored = String;

            fn from_stored(stored: &String) -> Option<Self> {
                stored.parse().ok()
            }

            fn to_stored(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
stored_as_text!(
    BaseId,
    CheckpointId,
    ImageDigest,
    KeyId,
    OrganisationId,
    SandboxId,
    SnapshotId,
    TemplateId,
    leapbox_api_types::sandbox::SandboxState,
);

/// NULL is `None`.
impl<T: Column> Column for Option<T> {
    type Stored = Option<T::Stored>;

    fn from_stored(stored: &Self::Stored) -> Option<Self> {
        match stored {
            None => Some(None),
            Some(stored) => T::from_stored(stored).map(Some),
        }
    }

    fn to_stored(&self) -> Self::Stored {
        self.as_ref().map(T::to_stored)
    }
}

/// Reads one column.
pub(crate) fn read<T: Column>(table: &'static str, row: &SqliteRow, column: &'static str) -> Result<T, DbError> {
    let stored = row.try_get(column).map_err(|source| DbError::Column { table, column, source })?;
    T::from_stored(&stored).ok_or_else(|| DbError::Unreadable { table, column, value: format!("{stored:?}") })
}

/// `INSERT` of a whole row.
pub(crate) fn insert(table: &str, columns: &[&str]) -> String {
    let places: Vec<String> = (1..=columns.len()).map(|place| format!("${place}")).collect();
    format!("INSERT INTO {table} ({}) VALUES ({})", columns.join(", "), places.join(", "))
}

/// `UPDATE` of a whole row but its first column, which is its id.
pub(crate) fn update(table: &str, columns: &[&str]) -> String {
    let set: Vec<String> =
        columns.iter().enumerate().skip(1).map(|(index, column)| format!("{column} = ${}", index + 1)).collect();
    format!("UPDATE {table} SET {} WHERE {} = $1", set.join(", "), columns[0])
}

/// `SELECT` of whole rows; `rest` is what follows the table's name.
pub(crate) fn select(table: &str, columns: &[&str], rest: &str) -> String {
    format!("SELECT {} FROM {table} {rest}", columns.join(", "))
}

/// Declares the row of a table: a structure with a field for each column, named like it. The first column is the id.
macro_rules! row {
    (
        $(#[$doc:meta])*
        $visible:vis struct $name:ident of $table:literal {
            $($(#[$field_doc:meta])* $column:ident: $kind:ty,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        $visible struct $name {
            $($(#[$field_doc])* pub $column: $kind,)+
        }

        impl $name {
            pub(crate) const TABLE: &'static str = $table;
            pub(crate) const COLUMNS: &'static [&'static str] = &[$(stringify!($column)),+];

            pub(crate) fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, crate::DbError> {
                Ok(Self { $($column: crate::row::read($table, row, stringify!($column))?,)+ })
            }

            /// Binds every column to `statement`, in the order of [`Self::COLUMNS`].
            pub(crate) fn bind<'q>(&self, statement: &'q str) -> crate::row::Statement<'q> {
                sqlx::query(statement)$(.bind(crate::row::Column::to_stored(&self.$column)))+
            }

            /// `SELECT` of whole rows; `rest` is what follows the table's name.
            pub(crate) fn select(rest: &str) -> String {
                crate::row::select(Self::TABLE, Self::COLUMNS, rest)
            }

            /// Adds the row. [`crate::DbError::Taken`], with `name`, if a unique column has its value already.
            pub(crate) async fn insert(&self, db: &crate::Db, query: &'static str, name: &str) -> Result<(), crate::DbError> {
                let statement = crate::row::insert(Self::TABLE, Self::COLUMNS);
                let done = self.bind(&statement).execute(&db.write).await;
                done.map(drop).map_err(crate::DbError::insert(query, Self::TABLE, name))
            }
        }
    };
}
pub(crate) use row;
