//! What is written is read again, also after a restart; names are unique; errors are typed.

#![allow(clippy::unwrap_used)]

mod common;

use common::fixture;
use leapbox_db::{ApiKeyRow, Db, DbError, KeysVersion, OrganisationRow};
use leapbox_ids::{KeyId, OrganisationId, TemplateId};
use std::os::unix::fs::PermissionsExt;

fn key(organisation: &OrganisationId, hash: &str) -> ApiKeyRow {
    ApiKeyRow {
        id: KeyId::generate(),
        organisation: organisation.clone(),
        hash: hash.to_owned(),
        display: "lbx_abcd".to_owned(),
        name: "laptop".to_owned(),
        created_at_ms: 5,
        revoked_at_ms: None,
    }
}

#[tokio::test]
async fn organisations_and_templates_are_found_by_name_and_names_are_unique() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("system/debian:bookworm").await;
    let again = OrganisationRow { id: OrganisationId::generate(), name: "acme".to_owned(), created_at_ms: 2 };
    let refused = fixture.db.organisation_insert(&again).await.unwrap_err();
    assert!(matches!(refused, DbError::Taken { table: "organisation", name } if name == "acme"));
    assert_eq!(fixture.db.organisation_by_name("acme").await.unwrap().unwrap().id, organisation);
    assert_eq!(fixture.db.organisation_by_name("other").await.unwrap(), None);
    assert_eq!(fixture.db.organisation_list().await.unwrap().len(), 1);

    fixture.db.template_rootfs_update(&template, "sha256:1").await.unwrap();
    let found = fixture.db.template_by_name("system/debian:bookworm").await.unwrap().unwrap();
    assert_eq!((found.id.clone(), found.rootfs_digest.as_str()), (template.clone(), "sha256:1"));
    assert_eq!(fixture.db.template_by_id(&template).await.unwrap(), Some(found.clone()));
    assert_eq!(fixture.db.template_list().await.unwrap(), vec![found]);
    let missing = fixture.db.template_rootfs_update(&TemplateId::generate(), "sha256:1").await;
    assert!(matches!(missing, Err(DbError::Missing { table: "template", .. })));
}

#[tokio::test]
async fn revoking_a_key_is_seen_by_another_handle_on_the_same_file() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let (first, second) = (key(&organisation, "aa"), key(&organisation, "bb"));
    let other = Db::open(&fixture.path).await.unwrap();
    fixture.db.api_key_insert(&first).await.unwrap();
    fixture.db.api_key_insert(&second).await.unwrap();
    assert_eq!(other.api_key_version().await.unwrap(), KeysVersion { made: 2, revoked: 0 });

    other.api_key_revoke(&first.id, 77).await.unwrap();
    other.api_key_revoke(&first.id, 99).await.unwrap();
    assert_eq!(fixture.db.api_key_version().await.unwrap(), KeysVersion { made: 2, revoked: 1 });
    assert_eq!(fixture.db.api_key_list_active().await.unwrap(), vec![second]);
    let times: Vec<_> =
        fixture.db.api_key_list().await.unwrap().into_iter().filter_map(|row| row.revoked_at_ms).collect();
    assert_eq!(times, [77]);
    assert!(matches!(other.api_key_revoke(&KeyId::generate(), 1).await, Err(DbError::Missing { .. })));
}

#[tokio::test]
async fn the_file_is_its_owners_alone() {
    let fixture = fixture().await;
    fixture.organisation("acme").await;
    for suffix in ["", "-wal", "-shm"] {
        let file = format!("{}{suffix}", fixture.path.display());
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{file} has mode {mode:o}");
    }
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused() {
    let fixture = fixture().await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&fixture.path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    sqlx::query("INSERT INTO schema_version (version, text) VALUES (999, '')").execute(&pool).await.unwrap();
    let refused = Db::open(&fixture.path).await.unwrap_err();
    assert!(matches!(refused, DbError::SchemaTooNew { found: 999, .. }), "{refused}");
}

#[tokio::test]
async fn a_database_made_with_another_text_of_the_same_version_is_refused_with_its_path() {
    for change in ["UPDATE schema_version SET text = text || ' '", "ALTER TABLE schema_version DROP COLUMN text"] {
        let fixture = fixture().await;
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&fixture.path);
        let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
        sqlx::query(change).execute(&pool).await.unwrap();
        let refused = Db::open(&fixture.path).await.unwrap_err();
        assert!(matches!(&refused, DbError::SchemaUnreleased { path } if *path == fixture.path), "{refused}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "dear diary, this is not a database at all").unwrap();
    assert!(matches!(Db::open(&path).await, Err(DbError::Open { .. } | DbError::Migrate { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary, this is not a database at all");
    let missing = folder.path().join("no").join("such");
    assert!(matches!(Db::open(&missing).await, Err(DbError::Create { .. })));
}

#[tokio::test]
async fn two_processes_opening_a_new_file_at_once_both_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leapbox.db");
    let opened: Vec<_> = (0..4)
        .map(|_| {
            tokio::spawn({
                let path = path.clone();
                async move { Db::open(&path).await.map(|_| ()) }
            })
        })
        .collect();
    for handle in opened {
        handle.await.unwrap().unwrap();
    }
}
