//! Makes the first organisation and its first API key. The database has the key's hash; the key itself is kept in a
//! file that only its owner can read, for `leapbox env`. Called by `setup`, and by `leapbox-bench`.

use crate::state::{Access, State, write_file};
use http::{HeaderMap, HeaderValue, header};
use leapbox_auth::{Auth, KeyError, RateLimit};
use leapbox_db::{Db, DbError, OrganisationRow};
use leapbox_errors::FileError;
use leapbox_ids::OrganisationId;
use std::io::ErrorKind;
use time::OffsetDateTime;

/// The name of the organisation that set-up makes, which is also the default of `leapbox keys`.
pub const ORGANISATION: &str = "default";
const KEY_NAME: &str = "made by leapbox setup";

/// The reason why the first key could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FirstKeyError {
    #[error("reading or writing the database")]
    Database {
        #[from]
        source: DbError,
    },
    /// The key could not be made, or an older one could not be revoked.
    #[error("making the key or revoking an older one")]
    Key {
        #[from]
        source: KeyError,
    },
    #[error("reading or writing the key's file")]
    State {
        #[from]
        source: FileError,
    },
    /// The async runtime that the database needs could not be started.
    #[error("starting the runtime for the database")]
    Runtime {
        #[source]
        source: std::io::Error,
    },
}

/// Makes a key unless the one in the file works; true if it made one.
pub fn ensure(state: &State) -> Result<bool, FirstKeyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|source| FirstKeyError::Runtime { source })?;
    runtime.block_on(async {
        let db = Db::open(&state.database()).await?;
        let made = ensure_in(state, &db).await;
        db.close().await;
        made
    })
}

async fn ensure_in(state: &State, db: &Db) -> Result<bool, FirstKeyError> {
    let auth = Auth::new(db.clone(), RateLimit::default());
    if works(&auth, state).await? {
        return Ok(false);
    }
    let organisation = organisation(db, ORGANISATION).await?;
    // A run that was interrupted between database and file has left a key that nobody knows. It must not work for ever.
    for row in db.api_key_list_active().await? {
        if row.organisation == organisation && row.name == KEY_NAME {
            auth.revoke(&row.id).await?;
        }
    }
    keep_former(state)?;
    let (_, secret) = auth.create_key(&organisation, KEY_NAME).await?;
    write_file(&state.default_key(), &format!("{secret}\n"), Access::Private)?;
    Ok(true)
}

/// Moves a key's file aside that this database does not know: it may be of the right database, which is put back later,
/// and no key is shown a second time.
fn keep_former(state: &State) -> Result<(), FileError> {
    let path = state.default_key();
    let aside = path.with_extension(format!("key.before-{}", OffsetDateTime::now_utc().unix_timestamp()));
    match std::fs::rename(&path, &aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(FileError::of("moving aside", &path)(error)),
        _ => Ok(()),
    }
}

async fn works(auth: &Auth, state: &State) -> Result<bool, FirstKeyError> {
    let Some(key) = state.read_default_key()? else { return Ok(false) };
    let Ok(value) = HeaderValue::from_str(&key) else { return Ok(false) };
    let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
    Ok(auth.authenticate(&headers).await.is_ok())
}

/// Finds the organisation of this name, or makes it.
pub async fn organisation(db: &Db, name: &str) -> Result<OrganisationId, DbError> {
    if let Some(row) = db.organisation_by_name(name).await? {
        return Ok(row.id);
    }
    let created_at_ms = (OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000) as i64;
    let row = OrganisationRow { id: OrganisationId::generate(), name: name.to_owned(), created_at_ms };
    db.organisation_insert(&row).await?;
    Ok(row.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::read_if_there;

    #[test]
    fn the_key_in_the_file_works_and_is_made_once() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = State::at(dir.path().to_owned());
        state.create().expect("made");
        assert!(ensure(&state).expect("made"));
        let key = read_if_there(&state.default_key()).expect("read");
        assert!(!ensure(&state).expect("kept"));
        assert_eq!(read_if_there(&state.default_key()).expect("read"), key);
    }

    #[test]
    fn a_lost_key_file_gives_a_new_key_and_the_lost_one_is_revoked() {
        let dir = tempfile::tempdir().expect("temp dir");
        let state = State::at(dir.path().to_owned());
        state.create().expect("made");
        ensure(&state).expect("made");
        std::fs::remove_file(state.default_key()).expect("lost");
        assert!(ensure(&state).expect("made again"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let active = runtime.block_on(async {
            let db = Db::open(&state.database()).await.expect("open");
            db.api_key_list_active().await.expect("list")
        });
        assert_eq!(active.len(), 1);
    }
}
