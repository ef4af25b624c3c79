//! Checks, before the server touches anything, that database, server key, archives and instance belong together, and
//! records in the database that they do.
//!
//! ```text
//! database: id, key's fingerprint, instance, number of the newest checkpoint
//!    ├─ keys/server.key    must have the fingerprint                  else --accept-other-key
//!    ├─ instance           must be the same; put back if it is lost
//!    ├─ archives/          stamped with the id; none newer than the number  ┐ else
//!    └─ the bucket         the same, as far as it answers                   ┘ --accept-older-database
//! ```
//!
//! Each of these is what an operator mixes up after a disk failure, and with each of them wrong the server would lose
//! what is stored: an older database does not name the newest checkpoints, and another key cannot read them.

use crate::state::State;
use leapbox_db::{Db, DbError, Installation};
use leapbox_errors::{FileError, chain};
use leapbox_network::default_base_uid;
use leapbox_storage::{ArchiveStore, KeyError, ServerKey, StoreError, Survey, survey};
use std::path::PathBuf;
use std::time::Duration;

/// The first uid of VMMs before it was derived from the instance. An installation of that time keeps it, because its
/// machines may run.
const FORMER_BASE_UID: u32 = 2_000_000;
/// How long the start waits for the bucket. Without an answer the server starts, and uses the bucket only after it has
/// answered.
const BUCKET_DEADLINE: Duration = Duration::from_secs(5);

/// What the operator has accepted on the command line, for this start.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Accepted {
    /// Start with a database that is older than stored sandboxes or running machines, or another one than theirs. What
    /// it does not know is set aside, and removed after the grace (`leapbox gc`).
    #[arg(long)]
    pub accept_older_database: bool,
    /// Start with another server key than the one that the database was used with, or make a new one if it is missing.
    /// What is stored under the former key cannot be used until that is back.
    #[arg(long)]
    pub accept_other_key: bool,
}

/// The parts of an installation do not belong together. Nothing has been touched.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "the server's key {path} is missing, and sandboxes were stored with it: put it back from a backup. If it is \
         lost for good, `leapbox serve --accept-other-key` makes a new one; what is stored stays unreadable"
    )]
    KeyMissing { path: PathBuf },
    #[error(
        "the server's key {path} is another one ({found}) than what is stored was encrypted with ({expected}): put the \
         right one back. To go on with this one, `leapbox serve --accept-other-key`; what is stored with the other \
         cannot be used meanwhile"
    )]
    OtherKey { path: PathBuf, found: String, expected: String },
    #[error(
        "{path} says that this is installation {found}, and the database was used as {expected}: machines and rules of \
         the one would not be found under the other. Put the file, or the database, back; to go on as {expected}, \
         remove {path}"
    )]
    OtherInstance { path: PathBuf, found: String, expected: String },
    #[error(
        "the database is older than what is stored: it knows of checkpoints up to number {database}, and {place} has \
         number {found}. Put the newest database back; to go on with this one, `leapbox serve --accept-older-database`, \
         which sets aside what it does not know"
    )]
    OlderDatabase { database: u64, place: String, found: u64 },
    #[error(
        "what is stored in {place} belongs to another database than this one, which is new or another installation's: \
         put the right database back; to go on with this one, `leapbox serve --accept-older-database`, which sets aside \
         what it does not know"
    )]
    OtherDatabase { place: String },
    #[error(transparent)]
    State(#[from] FileError),
    #[error("reading the server's key")]
    Key(#[from] KeyError),
    #[error("reading the database")]
    Db(#[from] DbError),
    #[error("looking at what is stored")]
    Archives(#[from] StoreError),
    #[error("the operating system gave no random bytes")]
    Random(#[source] getrandom::Error),
    #[error("a task of the start was interrupted")]
    Task(#[from] tokio::task::JoinError),
}

/// An installation whose parts belong together.
pub(super) struct Identity {
    pub installation: Installation,
    pub key: ServerKey,
}

/// What there is before the check.
struct Found {
    installation: Option<Installation>,
    /// The database has sandboxes or snapshots.
    in_use: bool,
    key: Option<ServerKey>,
    survey: Survey,
}

/// Checks the parts, and records the installation in the database.
pub(super) async fn establish(state: &State, db: &Db, accepted: Accepted) -> Result<Identity, IdentityError> {
    let found = look(state, db).await?;
    let key = check_key(state, &found, accepted)?;
    let instance = check_instance(state, found.installation.as_ref())?;
    check_database(state, &found, accepted)?;
    let newest = found.survey.newest.as_ref();
    let newest_number = newest.map_or(0, |stamp| stamp.sequence);
    let installation = match &found.installation {
        Some(known) => Installation {
            // Only an accepted one can differ: then the archives are this database's from now on.
            id: newest.map_or(&known.id, |stamp| &stamp.installation).clone(),
            key_fingerprint: key.fingerprint().to_owned(),
            sequence: known.sequence.max(newest_number),
            ..known.clone()
        },
        None => Installation {
            id: match newest {
                Some(stamp) => stamp.installation.clone(),
                None => new_id()?,
            },
            base_uid: if found.in_use { FORMER_BASE_UID } else { default_base_uid(&instance) },
            instance,
            key_fingerprint: key.fingerprint().to_owned(),
            sequence: newest_number,
        },
    };
    match &found.installation {
        None => db.installation_insert(&installation).await?,
        Some(known) if *known != installation => db.installation_update(&installation).await?,
        Some(_) => {}
    }
    Ok(Identity { installation, key })
}

async fn look(state: &State, db: &Db) -> Result<Found, IdentityError> {
    let (installation, in_use) = (db.installation().await?, db.holds_sandboxes().await?);
    let key = ServerKey::load(&state.server_key())?;
    let (dir, of_key) = (state.archives_dir(), key.clone());
    let own = installation.as_ref().map(|known| known.id.clone());
    let survey = tokio::task::spawn_blocking(move || survey(&dir, of_key.as_ref(), own.as_deref())).await??;
    Ok(Found { installation, in_use, key, survey })
}

fn check_key(state: &State, found: &Found, accepted: Accepted) -> Result<ServerKey, IdentityError> {
    let path = state.server_key();
    let Some(key) = &found.key else {
        let was_used = found.installation.is_some() || found.in_use || found.survey.archives > 0;
        if was_used && !accepted.accept_other_key {
            return Err(IdentityError::KeyMissing { path });
        }
        return Ok(ServerKey::load_or_create(&path)?);
    };
    // The database's word counts. Archives of another key may be left of one that was lost and given up; they decide only
    // for a database that has not noted its key yet.
    let other = match &found.installation {
        Some(known) => Some(&known.key_fingerprint).filter(|recorded| *recorded != key.fingerprint()),
        None => found.survey.other_keys.first(),
    };
    match other {
        Some(expected) if !accepted.accept_other_key => {
            let (found, expected) = (key.fingerprint().to_owned(), expected.clone());
            Err(IdentityError::OtherKey { path, found, expected })
        }
        _ => Ok(key.clone()),
    }
}

/// The four digits that name this installation's resources on the host. A lost file is written again, because the
/// database knows them.
fn check_instance(state: &State, known: Option<&Installation>) -> Result<String, IdentityError> {
    let Some(known) = known else { return Ok(state.instance()?) };
    match state.read_instance() {
        Some(found) if found != known.instance => {
            let (path, expected) = (state.instance_file(), known.instance.clone());
            Err(IdentityError::OtherInstance { path, found, expected })
        }
        Some(_) => Ok(known.instance.clone()),
        None => {
            tracing::warn!(instance = known.instance, "the file of the instance was missing and is written again");
            state.write_instance(&known.instance)?;
            Ok(known.instance.clone())
        }
    }
}

fn check_database(state: &State, found: &Found, accepted: Accepted) -> Result<(), IdentityError> {
    if accepted.accept_older_database {
        return Ok(());
    }
    let (survey, place) = (&found.survey, state.archives_dir().display().to_string());
    let Some(known) = &found.installation else {
        // Archives of the time before the stamps belong to whatever database there is, unless that is empty.
        let is_empty = survey.checkpoints > 0 && !found.in_use;
        return match survey.newest.is_some() || is_empty {
            true => Err(IdentityError::OtherDatabase { place }),
            false => Ok(()),
        };
    };
    match &survey.newest {
        // The survey prefers a stamp of this database's. Without one, all there is was stored under another.
        Some(newest) if newest.installation != known.id => Err(IdentityError::OtherDatabase { place }),
        Some(newest) if newest.sequence > known.sequence => {
            let (database, found) = (known.sequence, newest.sequence);
            Err(IdentityError::OlderDatabase { database, place, found })
        }
        _ => Ok(()),
    }
}

/// Compares the bucket of an opened store with the database. Returns the installation as it must be recorded for the
/// bucket to be used, if that differs and the operator has accepted it.
pub(super) async fn check_bucket(
    archives: &ArchiveStore,
    known: &Installation,
    place: &str,
    accepted: Accepted,
) -> Result<Option<Installation>, IdentityError> {
    let asked = tokio::time::timeout(BUCKET_DEADLINE, archives.owner_sequence()).await;
    let (refusal, recorded) = match asked {
        Ok(Ok(Some(found))) if found > known.sequence => {
            let (database, place) = (known.sequence, place.to_owned());
            let refusal = IdentityError::OlderDatabase { database, place, found };
            (refusal, Installation { sequence: found, ..known.clone() })
        }
        Ok(Ok(_)) => return Ok(None),
        // The same key: it is this installation's, with another database.
        Ok(Err(StoreError::OtherInstallation { what: "id", found, .. })) => {
            (IdentityError::OtherDatabase { place: place.to_owned() }, Installation { id: found, ..known.clone() })
        }
        Ok(Err(error @ StoreError::OtherInstallation { .. })) => return Err(error.into()),
        Ok(Err(error)) => {
            tracing::warn!(error = %chain(&error), "the object store does not answer: it is used once it has");
            return Ok(None);
        }
        Err(_) => {
            tracing::warn!("the object store does not answer in time: it is used once it has");
            return Ok(None);
        }
    };
    if accepted.accept_older_database { Ok(Some(recorded)) } else { Err(refusal) }
}

/// A new installation's id: 16 random bytes in hexadecimal.
fn new_id() -> Result<String, IdentityError> {
    let mut raw = [0; 16];
    getrandom::fill(&mut raw).map_err(IdentityError::Random)?;
    Ok(format!("{:032x}", u128::from_le_bytes(raw)))
}
