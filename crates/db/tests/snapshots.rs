//! Snapshots, and what is still needed of the stored archives.

#![allow(clippy::unwrap_used)]

mod common;

use common::{fixture, sandbox, snapshot};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::{Db, DbError, SandboxRow, SnapshotRow};
use leapbox_ids::{SandboxId, SnapshotId};
use std::collections::BTreeSet;

#[tokio::test]
async fn a_snapshot_survives_a_restart_column_by_column_and_is_found_by_its_owner_alone() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let stranger = fixture.organisation("stranger").await;
    let environment = Some("sealed".to_owned());
    let row = SnapshotRow { environment, ..snapshot(&organisation, &fixture.template("t").await, "warm") };
    fixture.db.snapshot_insert(&row).await.unwrap();
    fixture.db.close().await;

    let again = Db::open(&fixture.path).await.unwrap();
    assert_eq!(again.snapshot_by_id(&row.id).await.unwrap(), Some(row.clone()));
    assert_eq!(again.snapshot_by_name(&organisation, "warm").await.unwrap(), Some(row));
    for (organisation, name) in [(&stranger, "warm"), (&organisation, "Warm"), (&organisation, "war%")] {
        assert_eq!(again.snapshot_by_name(organisation, name).await.unwrap(), None);
    }
    assert_eq!(again.snapshot_by_id(&SnapshotId::generate()).await.unwrap(), None);
}

#[tokio::test]
async fn a_name_is_taken_within_its_organisation_until_it_is_deleted() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let first = snapshot(&organisation, &template, "warm");
    let second = snapshot(&organisation, &template, "warm");
    fixture.db.snapshot_insert(&first).await.unwrap();
    let refused = fixture.db.snapshot_insert(&second).await.unwrap_err();
    assert!(matches!(refused, DbError::Taken { table: "snapshot", name } if name == "warm"));
    fixture.db.snapshot_insert(&snapshot(&fixture.organisation("b").await, &template, "warm")).await.unwrap();

    fixture.db.snapshot_delete(&first.id).await.unwrap();
    let gone = fixture.db.snapshot_delete(&first.id).await;
    assert!(matches!(gone, Err(DbError::Missing { table: "snapshot", .. })));
    fixture.db.snapshot_insert(&second).await.unwrap();
}

#[tokio::test]
async fn of_many_who_take_a_name_at_once_one_gets_it() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let other = Db::open(&fixture.path).await.unwrap();
    let attempts: Vec<_> = (0..32)
        .map(|index| {
            let db = if index % 2 == 0 { fixture.db.clone() } else { other.clone() };
            let row = snapshot(&organisation, &template, "warm");
            tokio::spawn(async move { (db.snapshot_insert(&row).await, row) })
        })
        .collect();
    let mut winners = Vec::new();
    for attempt in attempts {
        match attempt.await.unwrap() {
            (Ok(()), row) => winners.push(row),
            (Err(DbError::Taken { table: "snapshot", name }), _) => assert_eq!(name, "warm"),
            (Err(error), _) => panic!("{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    assert_eq!(fixture.db.snapshot_by_name(&organisation, "warm").await.unwrap(), winners.pop());
}

#[tokio::test]
async fn what_a_living_sandbox_or_a_snapshot_names_is_needed_and_nothing_else() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    assert_eq!(fixture.db.archives_referenced().await.unwrap(), BTreeSet::new());

    let bare = sandbox(&organisation, &template);
    let stored = |state, checkpoint: &str, base: &str, image: &str| SandboxRow {
        id: SandboxId::generate(),
        state,
        checkpoint: Some(checkpoint.to_owned()),
        base: Some(base.to_owned()),
        image: Some(image.to_owned()),
        ..bare.clone()
    };
    for row in [
        bare.clone(),
        SandboxRow { checkpoint: None, ..stored(SandboxState::Running, "", "base-2", "22") },
        stored(SandboxState::Paused, "ckp-a", "base-1", "11"),
        stored(SandboxState::Deleting, "ckp-b", "base-1", "11"),
        stored(SandboxState::Deleted, "ckp-c", "base-3", "33"),
    ] {
        fixture.db.sandbox_insert(&row).await.unwrap();
    }
    let shared = SnapshotRow { checkpoint: "ckp-a".to_owned(), ..snapshot(&organisation, &template, "shared") };
    let own = SnapshotRow { checkpoint: "ckp-d".to_owned(), ..snapshot(&organisation, &template, "own") };
    fixture.db.snapshot_insert(&shared).await.unwrap();
    fixture.db.snapshot_insert(&own).await.unwrap();

    let needed = fixture.db.archives_referenced().await.unwrap();
    let expected = ["base-1", "base-1a", "base-2", "ckp-a", "ckp-b", "ckp-d", "image-11", "image-22", "image-2b"];
    assert_eq!(needed, expected.map(str::to_owned).into());
    for (checkpoint, expected) in [("ckp-a", true), ("ckp-b", true), ("ckp-c", false), ("ckp-d", true), ("", false)] {
        assert_eq!(fixture.db.checkpoint_is_referenced(checkpoint).await.unwrap(), expected, "{checkpoint}");
    }
    fixture.db.snapshot_delete(&own.id).await.unwrap();
    assert!(!fixture.db.checkpoint_is_referenced("ckp-d").await.unwrap());
}

#[tokio::test]
async fn a_checkpoint_that_two_name_is_needed_until_both_are_gone() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let row = snapshot(&organisation, &template, "warm");
    let mut paused = sandbox(&organisation, &template);
    paused.state = SandboxState::Paused;
    paused.checkpoint = Some(row.checkpoint.clone());
    fixture.db.sandbox_insert(&paused).await.unwrap();
    fixture.db.snapshot_insert(&row).await.unwrap();

    paused.checkpoint = None;
    fixture.db.sandbox_update(&paused).await.unwrap();
    assert!(fixture.db.checkpoint_is_referenced(&row.checkpoint).await.unwrap());
    fixture.db.snapshot_delete(&row.id).await.unwrap();
    assert!(!fixture.db.checkpoint_is_referenced(&row.checkpoint).await.unwrap());
}

#[tokio::test]
async fn a_row_that_is_printed_keeps_its_environment_to_itself() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let environment = Some("c0ffee".to_owned());
    let snapshot = SnapshotRow { environment: environment.clone(), ..snapshot(&organisation, &template, "warm") };
    let sandbox = SandboxRow { environment, ..sandbox(&organisation, &template) };
    for text in [format!("{snapshot:?}"), format!("{sandbox:#?}")] {
        assert!(text.contains(organisation.as_str()) && !text.contains("c0ffee"), "{text}");
    }
}
