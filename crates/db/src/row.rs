//! The mapping between rows and structures: which columns a table has, and how each is read and written. [`row!`] is
//! the only place that lists a table's columns; every statement on whole rows is made from that list, so that a new
//! column cannot be forgotten in one of them.

use crate::{Db, DbError};
use leapbox_ids::{BaseId, CheckpointId, ImageDigest, KeyId, OrganisationId, SandboxId, SnapshotId, TemplateId};
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{Decode, Encode, Row as _, Type};
use std::fmt;

/// A statement to which parameters are being bound.
pub(crate) type Statement<'q> = sqlx::query::Query<'q, Sqlite, SqliteArguments<'q>>;

/// A type of which a column can hold a value.
pub(crate) trait Column: Sized {
    /// The type that the database has for it.
    type Stored: fmt::Debug + Type<Sqlite> + for<'r> Decode<'r, Sqlite> + for<'q> Encode<'q, Sqlite> + Send + 'static;

    /// Reads a stored value; `None` if [`Column::to_stored`] never returns it.
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

// A value that does not fit into BIGINT is saturated instead of refused: every bound of the API is far below.
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

/// Stored as NULL if it is `None`.
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

/// Reads one column of a row. [`DbError::Unreadable`] if its value is not one that this program writes.
pub(crate) fn read<T: Column>(table: &'static str, row: &SqliteRow, column: &'static str) -> Result<T, DbError> {
    let stored = row.try_get(column).map_err(|source| DbError::Column { table, column, source })?;
    T::from_stored(&stored).ok_or_else(|| DbError::Unreadable { table, column, value: format!("{stored:?}") })
}

/// A structure with a field for each column of a table, or for some of them. Declared with [`row!`].
pub(crate) trait Row: Sized {
    const TABLE: &'static str;

    /// Names of the columns. In a whole row the id comes first.
    fn columns() -> Vec<&'static str>;

    fn read(row: &SqliteRow) -> Result<Self, DbError>;

    /// Binds the values of all columns to the next parameters, in the order of [`Row::columns`].
    fn bind<'q>(&self, statement: Statement<'q>) -> Statement<'q>;

    /// A `SELECT` of whole rows; `rest` follows the table's name. It must be a fixed text, never a value of a request.
    fn select(rest: &str) -> String {
        // Not `SELECT *`: the columns are read by name, and a missing one is an error of this statement.
        format!("SELECT {} FROM {} {rest}", Self::columns().join(", "), Self::TABLE)
    }

    /// An `INSERT` of one row, with a parameter for each column.
    fn insert_statement() -> String {
        let columns = Self::columns();
        let parameters: Vec<String> = (1..=columns.len()).map(|number| format!("${number}")).collect();
        let (columns, parameters) = (columns.join(", "), parameters.join(", "));
        format!("INSERT INTO {} ({columns}) VALUES ({parameters})", Self::TABLE)
    }

    /// Inserts the row. [`DbError::Taken`], with `name`, if a unique column has the value in another row.
    async fn insert(&self, db: &Db, query: &'static str, name: &str) -> Result<(), DbError> {
        let statement = Self::insert_statement();
        let done = self.bind(sqlx::query(&statement)).execute(&db.write).await;
        done.map(drop).map_err(DbError::insert(query, Self::TABLE, name))
    }

    /// Updates all columns of the row. [`DbError::Missing`] when there is no row with this id.
    async fn update(&self, db: &Db, query: &'static str, id: &str) -> Result<(), DbError> {
        let columns = Self::columns();
        // The id is $1, the first column, and is only compared.
        let set = columns.iter().zip(1..).skip(1).map(|(column, number)| format!("{column} = ${number}"));
        let set = set.collect::<Vec<_>>().join(", ");
        let statement = format!("UPDATE {} SET {set} WHERE {} = $1", Self::TABLE, columns[0]);
        let done = self.bind(sqlx::query(&statement)).execute(&db.write).await.map_err(DbError::query(query))?;
        match done.rows_affected() {
            0 => Err(DbError::Missing { table: Self::TABLE, id: id.to_owned() }),
            _ => Ok(()),
        }
    }
}

/// Declares a structure with a field for each column of a table, named like the column, and implements [`Row`] for it.
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
