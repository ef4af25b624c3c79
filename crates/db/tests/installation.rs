//! What the database knows of itself: the installation, the numbers of archives, and what sweeps have set aside.

#![allow(clippy::unwrap_used)]

mod common;

use common::{every_status, fixture, sandbox, snapshot};
use leapbox_db::{Db, DbError, Installation, Sandbox, SetAside, SetAsideKind, Status, SweepWord};
use sqlx::Executor;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

fn installation() -> Installation {
    Installation {
        id: "ins-1".to_owned(),
        instance: "a1b2".to_owned(),
        key_fingerprint: "0123456789abcdef".to_owned(),
        base_uid: 2_000_000,
        sequence: 0,
    }
}

fn archive(name: &str, waited_s: u64) -> SetAside {
    SetAside { name: name.to_owned(), kind: SetAsideKind::Archive, bytes: 7 << 30, waited_s }
}

#[tokio::test]
async fn there_is_one_installation_and_it_survives_a_restart() {
    let fixture = fixture().await;
    assert_eq!(fixture.db.installation().await.unwrap(), None);
    let missing = fixture.db.installation_update(&installation()).await;
    assert!(matches!(missing, Err(DbError::Missing { table: "installation", .. })));
    fixture.db.installation_insert(&installation()).await.unwrap();
    let second = Installation { id: "ins-2".to_owned(), ..installation() };
    let refused = fixture.db.installation_insert(&second).await.unwrap_err();
    assert!(matches!(refused, DbError::Taken { table: "installation", .. }), "{refused}");
    fixture.db.close().await;

    let again = Db::open(&fixture.path).await.unwrap();
    assert_eq!(again.installation().await.unwrap(), Some(installation()));
    let changed = Installation { base_uid: 3_000_000, sequence: 40, ..second };
    again.installation_update(&changed).await.unwrap();
    assert_eq!(again.installation().await.unwrap(), Some(changed));
    assert_eq!(again.next_sequence().await.unwrap(), 41);
}

#[tokio::test]
async fn no_number_is_given_twice_nor_forgotten() {
    let fixture = fixture().await;
    let missing = fixture.db.next_sequence().await;
    assert!(matches!(missing, Err(DbError::Missing { table: "installation", .. })));
    fixture.db.installation_insert(&installation()).await.unwrap();
    let other = Db::open(&fixture.path).await.unwrap();
    let asking: Vec<_> = (0..20)
        .map(|index| {
            let db = if index % 2 == 0 { fixture.db.clone() } else { other.clone() };
            tokio::spawn(async move { db.next_sequence().await.unwrap() })
        })
        .collect();
    let mut numbers = Vec::new();
    for one in asking {
        numbers.push(one.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=20).collect::<Vec<u64>>());
    assert_eq!(other.installation().await.unwrap().unwrap().sequence, 20);
}

#[tokio::test]
async fn a_database_holds_sandboxes_if_one_is_not_deleted_or_if_there_is_a_snapshot() {
    for status in every_status() {
        let fixture = fixture().await;
        assert!(!fixture.db.holds_sandboxes().await.unwrap());
        let organisation = fixture.organisation("acme").await;
        let template = fixture.template("t").await;
        let holds = status != Status::Deleted;
        let row = Sandbox { status, ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&row).await.unwrap();
        assert_eq!(fixture.db.holds_sandboxes().await.unwrap(), holds, "{:?}", row.status);
        fixture.db.sandbox_delete_row(row.id()).await.unwrap();
        fixture.db.snapshot_insert(&snapshot(&organisation, &template, "warm")).await.unwrap();
        assert!(fixture.db.holds_sandboxes().await.unwrap());
    }
}

#[tokio::test]
async fn what_is_set_aside_is_replaced_by_its_name_and_removed_by_it() {
    let fixture = fixture().await;
    assert!(fixture.db.set_aside_list().await.unwrap().is_empty());
    let machine = SetAside { name: "vm-1".to_owned(), kind: SetAsideKind::Machine, bytes: 0, waited_s: 1 };
    fixture.db.set_aside_put(&[machine.clone(), archive("ckp-a", 10), archive("ckp-b", 20)]).await.unwrap();
    fixture.db.set_aside_put(&[archive("ckp-b", 600)]).await.unwrap();
    fixture.db.close().await;

    let again = Db::open(&fixture.path).await.unwrap();
    assert_eq!(again.set_aside_list().await.unwrap(), [archive("ckp-a", 10), archive("ckp-b", 600), machine.clone()]);
    again.set_aside_remove(&["ckp-a".to_owned(), "ckp-b".to_owned(), "never-there".to_owned()]).await.unwrap();
    assert_eq!(again.set_aside_list().await.unwrap(), [machine]);
    again.set_aside_put(&[]).await.unwrap();
    again.set_aside_remove(&[]).await.unwrap();
}

#[tokio::test]
async fn the_word_about_sweeps_is_kept_with_the_installation() {
    let fixture = fixture().await;
    let word = SweepWord { held_back: 12, allowed: true, remove_now: true };
    fixture.db.sweep_word_update(&word).await.unwrap();
    assert_eq!(fixture.db.sweep_word().await.unwrap(), SweepWord::default(), "there is nowhere to keep it");
    fixture.db.installation_insert(&installation()).await.unwrap();
    assert_eq!(fixture.db.sweep_word().await.unwrap(), SweepWord::default());
    fixture.db.sweep_word_update(&word).await.unwrap();
    fixture.db.installation_update(&installation()).await.unwrap();
    assert_eq!(fixture.db.sweep_word().await.unwrap(), word, "an update of the installation leaves it");
}

#[tokio::test]
async fn a_database_of_the_first_version_is_brought_up_to_date_with_all_that_is_in_it() {
    const FIRST: &str = include_str!("../migrations/0001_first.sql");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leapbox.db");
    let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    pool.execute(FIRST).await.unwrap();
    pool.execute("CREATE TABLE schema_version (version BIGINT NOT NULL PRIMARY KEY, text TEXT NOT NULL)")
        .await
        .unwrap();
    sqlx::query("INSERT INTO schema_version (version, text) VALUES (1, $1)").bind(FIRST).execute(&pool).await.unwrap();
    pool.execute("INSERT INTO organisation (id, name, created_at_ms) VALUES ('org-abcdefghijklmnopqrst', 'acme', 1)")
        .await
        .unwrap();
    pool.close().await;

    let db = Db::open(&path).await.unwrap();
    assert_eq!(db.organisation_list().await.unwrap().len(), 1);
    assert_eq!(db.installation().await.unwrap(), None);
    assert!(db.set_aside_list().await.unwrap().is_empty());
    db.installation_insert(&installation()).await.unwrap();
    assert_eq!(db.next_sequence().await.unwrap(), 1);
}
