//! `leapbox keys`: makes, lists and revokes API keys in the server's database. A running server notices within seconds,
//! so this needs no connection to it.

use crate::config::Config;
use crate::state::State;
use crate::verbs::setup::organisation;
use leapbox_auth::{Auth, KeyError, RateLimit};
use leapbox_db::{ApiKeyRow, Db, DbError, OrganisationRow};
use leapbox_ids::{KeyId, OrganisationId};
use serde_json::json;
use std::path::PathBuf;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Make, list and revoke API keys: the subcommands of `leapbox keys`.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Make a key. It is shown once and kept nowhere.
    Create {
        /// Name of the key, to tell it from others in the list.
        #[arg(default_value = "unnamed")]
        name: String,
        /// Organisation that the key belongs to.
        #[arg(long, default_value = "default", value_name = "NAME")]
        organisation: String,
        /// Make the organisation too; it must not exist yet.
        #[arg(long)]
        new_organisation: bool,
        /// Print the key as JSON.
        #[arg(long)]
        json: bool,
    },
    /// List keys, also revoked ones. Only their first characters can be shown: the server stores hashes.
    List {
        /// List only the keys of this organisation.
        #[arg(long, value_name = "NAME")]
        organisation: Option<String>,
        /// Print the list as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke a key. A running server refuses it within seconds.
    Revoke {
        /// Id of the key, as `list` shows it: key-….
        id: KeyId,
        /// Revoke it only if it belongs to this organisation.
        #[arg(long, value_name = "NAME")]
        organisation: Option<String>,
        /// Print the outcome as JSON.
        #[arg(long)]
        json: bool,
    },
}

/// The reason why `leapbox keys` failed.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// There is no database: nothing was set up in this data directory.
    #[error("{path} is missing: run `leapbox setup`")]
    NotSetUp { path: PathBuf },
    #[error("there is no organisation {name:?}; add --new-organisation to make it")]
    UnknownOrganisation { name: String },
    #[error("there is an organisation {name:?} already; leave --new-organisation out")]
    OrganisationExists { name: String },
    /// There is no key with this id, or `--organisation` names another organisation than its own.
    #[error("there is no key {id}, or it belongs to another organisation")]
    UnknownKey { id: KeyId },
    #[error("reading the database")]
    Database {
        #[from]
        source: DbError,
    },
    #[error("making or revoking the key")]
    Key {
        #[from]
        source: KeyError,
    },
    /// The async runtime that the database needs could not be started.
    #[error("starting the runtime for the database")]
    Runtime {
        #[source]
        source: std::io::Error,
    },
}

/// Runs a subcommand and prints its outcome to standard output.
pub fn run(config: &Config, action: Action) -> Result<(), KeysError> {
    // Opening would make an empty database, which hides a mistyped --data-dir.
    let path = State::at(config.state_dir()).database();
    if !path.is_file() {
        return Err(KeysError::NotSetUp { path });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let text = runtime.map_err(|source| KeysError::Runtime { source })?.block_on(async {
        let db = Db::open(&path).await?;
        let text = act(&db, action).await;
        // Before the process ends, so that SQLite writes its log back into the database.
        db.close().await;
        text
    })?;
    println!("{text}");
    Ok(())
}

async fn act(db: &Db, action: Action) -> Result<String, KeysError> {
    let auth = Auth::new(db.clone(), RateLimit::default());
    match action {
        Action::Create { name, organisation, new_organisation, json } => {
            let id = owner(db, &organisation, new_organisation).await?;
            let (key, secret) = auth.create_key(&id, &name).await?;
            Ok(created(&key, &name, &organisation, &secret, json))
        }
        Action::List { organisation, json } => {
            let organisations = db.organisation_list().await?;
            let only = match &organisation {
                Some(name) => Some(find(db, name).await?),
                None => None,
            };
            let mut keys = db.api_key_list().await?;
            keys.retain(|k| only.as_ref().is_none_or(|id| k.organisation == *id));
            Ok(listed(&keys, &organisations, json))
        }
        Action::Revoke { id, organisation, json } => {
            let only = match &organisation {
                Some(name) => Some(find(db, name).await?),
                None => None,
            };
            let keys = db.api_key_list().await?;
            let known = keys.iter().any(|k| k.id == id && only.as_ref().is_none_or(|o| k.organisation == *o));
            if !known {
                return Err(KeysError::UnknownKey { id });
            }
            auth.revoke(&id).await?;
            Ok(if json { json!({"id": id, "revoked": true}).to_string() } else { format!("{id} is revoked") })
        }
    }
}

async fn find(db: &Db, name: &str) -> Result<OrganisationId, KeysError> {
    let row = db.organisation_by_name(name).await?;
    row.map(|r| r.id).ok_or_else(|| KeysError::UnknownOrganisation { name: name.to_owned() })
}

async fn owner(db: &Db, name: &str, make: bool) -> Result<OrganisationId, KeysError> {
    match (find(db, name).await, make) {
        // `--new-organisation` with a name that exists is a mistake: the key would be another organisation's.
        (Ok(_), true) => Err(KeysError::OrganisationExists { name: name.to_owned() }),
        (Err(KeysError::UnknownOrganisation { .. }), true) => Ok(organisation(db, name).await?),
        (found, _) => found,
    }
}

fn created(key: &KeyId, name: &str, organisation: &str, secret: &str, json: bool) -> String {
    if json {
        return json!({"id": key, "name": name, "organisation": organisation, "secret": secret}).to_string();
    }
    format!("{secret}\n\n{key} ({name}) of organisation {organisation}. The key is shown this once and kept nowhere.")
}

fn listed(keys: &[ApiKeyRow], organisations: &[OrganisationRow], json: bool) -> String {
    let name_of = |id: &OrganisationId| {
        organisations.iter().find(|o| o.id == *id).map_or_else(|| id.to_string(), |o| o.name.clone())
    };
    if json {
        let one = |k: &ApiKeyRow| {
            json!({
                "id": k.id, "name": k.name, "organisation": name_of(&k.organisation), "key": k.display,
                "created_at": date(k.created_at_ms), "revoked_at": k.revoked_at_ms.map(date),
            })
        };
        return json!(keys.iter().map(one).collect::<Vec<_>>()).to_string();
    }
    let line = |k: &ApiKeyRow| {
        let state = k.revoked_at_ms.map_or_else(|| "works".to_owned(), |ms| format!("revoked {}", date(ms)));
        let (organisation, made) = (name_of(&k.organisation), date(k.created_at_ms));
        format!("{}  {}…  {organisation}  {}  made {made}  {state}", k.id, k.display, k.name)
    };
    keys.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Formats Unix milliseconds as RFC 3339.
fn date(ms: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000)).ok();
    date.and_then(|d| d.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{ms} ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(organisation: &str, new_organisation: bool) -> Action {
        let (name, organisation) = ("ci".to_owned(), organisation.to_owned());
        Action::Create { name, organisation, new_organisation, json: true }
    }

    #[tokio::test]
    async fn a_key_is_shown_once_listed_without_its_secret_and_revoked() {
        let dir = tempfile::tempdir().expect("temp dir");
        let db = Db::open(&dir.path().join("leapbox.db")).await.expect("open");
        assert!(matches!(act(&db, create("acme", false)).await, Err(KeysError::UnknownOrganisation { .. })));
        let made = act(&db, create("acme", true)).await.expect("made");
        assert!(matches!(act(&db, create("acme", true)).await, Err(KeysError::OrganisationExists { .. })));

        let made: serde_json::Value = serde_json::from_str(&made).expect("json");
        let (id, secret) = (made["id"].as_str().expect("id"), made["secret"].as_str().expect("secret"));
        let list = act(&db, Action::List { organisation: None, json: false }).await.expect("list");
        assert!(list.contains(id) && !list.contains(secret), "{list}");

        let id: KeyId = id.parse().expect("an id");
        act(&db, Action::Revoke { id, organisation: None, json: false }).await.expect("revoked");
        assert!(db.api_key_list_active().await.expect("list").is_empty());
    }
}
