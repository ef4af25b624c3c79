//! Rows: which columns a table has, and how each is read and written. [`row!`] is the only place that lists a table's
//! columns; every statement is made from that list.

use crate::{Db, DbError};
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, KeyId, OrganisationId, SandboxId, SnapshotId, TemplateId};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Decode, Encode, Row as _, Type};
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

/// The columns of a table, or some of them: how they are listed, read and written.
pub(crate) trait Row: Sized {
    const TABLE: &'static str;

    /// Their names; of a whole row, its id comes first.
    fn columns() -> Vec<&'static str>;

    fn read(row: &SqliteRow) -> Result<Self, DbError>;

    /// Binds them all, in the order of [`Row::columns`].
    fn bind<'q>(&self, statement: Statement<'q>) -> Statement<'q>;

    /// `SELECT` of whole rows; `rest` is what follows the table's name.
    fn select(rest: &str) -> String {
        format!("SELECT {} FROM {} {rest}", Self::columns().join(", "), Self::TABLE)
    }

    /// Adds the whole row. [`DbError::Taken`], with `name`, if a unique column has its value already.
    async fn insert(&self, db: &Db, query: &'static str, name: &str) -> Result<(), DbError> {
        let columns = Self::columns();
        let places: Vec<String> = (1..=columns.len()).map(|place| format!("${place}")).collect();
        let statement = format!("INSERT INTO {} ({}) VALUES ({})", Self::TABLE, columns.join(", "), places.join(", "));
        let done = self.bind(sqlx::query(&statement)).execute(&db.write).await;
        done.map(drop).map_err(DbError::insert(query, Self::TABLE, name))
    }

    /// Writes the whole row again. [`DbError::Missing`] when there is none with this id.
    async fn update(&self, db: &Db, query: &'static str, id: &str) -> Result<(), DbError> {
        let columns = Self::columns();
        let set = columns.iter().zip(1..).skip(1).map(|(column, place)| format!("{column} = ${place}"));
        let set = set.collect::<Vec<_>>().join(", ");
        let statement = format!("UPDATE {} SET {set} WHERE {} = $1", Self::TABLE, columns[0]);
        let done = self.bind(sqlx::query(&statement)).execute(&db.write).await.map_err(DbError::query(query))?;
        match done.rows_affected() {
            0 => Err(DbError::Missing { table: Self::TABLE, id: id.to_owned() }),
            _ => Ok(()),
        }
    }
}

/// Declares columns of a table: a structure with a field for each, named like it.
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

        impl crate::row::Row for $name {
            const TABLE: &'static str = $table;

            fn columns() -> Vec<&'static str> {
                vec![$(stringify!($column)),+]
            }

            fn read(row: &sqlx::sqlite::SqliteRow) -> Result<Self, crate::DbError> {
                Ok(Self { $($column: crate::row::read($table, row, stringify!($column))?,)+ })
            }

            fn bind<'q>(&self, statement: crate::row::Statement<'q>) -> crate::row::Statement<'q> {
                statement$(.bind(crate::row::Column::to_stored(&self.$column)))+
            }
        }
    };
}
pub(crate) use row;
