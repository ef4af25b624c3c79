//! Snapshots, and what is still needed of the stored archives.

#![allow(clippy::unwrap_used)]

mod common;

use common::{fixture, live, memory, origin, sandbox, snapshot, spec};
use leapbox_db::{Db, DbError, Sandbox, Sealed, SnapshotRow, Spec, Status, Stored};
use leapbox_ids::{ArchiveId, CheckpointId, SnapshotId};
use std::collections::BTreeSet;
use std::sync::Arc;

#[tokio::test]
async fn a_snapshot_survives_a_restart_column_by_column_and_is_found_by_its_owner_alone() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let stranger = fixture.organisation("stranger").await;
    let environment = Some(Sealed("sealed".to_owned()));
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

    let (paused, deleting) = (memory(origin(1)), memory(origin(1)));
    for status in [
        Status::Creating(None),
        Status::Running(live(origin(2))),
        Status::Paused(paused.clone()),
        Status::Deleting(Some(Stored::Memory(deleting.clone()))),
        Status::Deleted,
    ] {
        fixture.db.sandbox_insert(&Sandbox { status, ..sandbox(&organisation, &template) }).await.unwrap();
    }
    let shared = SnapshotRow { checkpoint: paused.checkpoint.clone(), ..snapshot(&organisation, &template, "shared") };
    let own = snapshot(&organisation, &template, "own");
    fixture.db.snapshot_insert(&shared).await.unwrap();
    fixture.db.snapshot_insert(&own).await.unwrap();

    let needed = fixture.db.archives_referenced().await.unwrap();
    let origins = [origin(1), origin(2), origin(10)];
    let mut expected: BTreeSet<ArchiveId> =
        [&paused.checkpoint, &deleting.checkpoint, &own.checkpoint].map(ArchiveId::from).into();
    expected.extend(origins.iter().flat_map(|origin| [(&origin.base).into(), (&origin.image).into()]));
    assert_eq!(needed, expected);
    for checkpoint in [&paused.checkpoint, &deleting.checkpoint, &own.checkpoint] {
        assert!(fixture.db.checkpoint_is_referenced(checkpoint).await.unwrap(), "{checkpoint}");
    }
    assert!(!fixture.db.checkpoint_is_referenced(&CheckpointId::generate()).await.unwrap());
    fixture.db.snapshot_delete(&own.id).await.unwrap();
    assert!(!fixture.db.checkpoint_is_referenced(&own.checkpoint).await.unwrap());
}

#[tokio::test]
async fn a_checkpoint_that_two_name_is_needed_until_both_are_gone() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let row = snapshot(&organisation, &template, "warm");
    let mut stored = memory(origin(10));
    stored.checkpoint = row.checkpoint.clone();
    let paused = Sandbox { status: Status::Paused(stored), ..sandbox(&organisation, &template) };
    fixture.db.sandbox_insert(&paused).await.unwrap();
    fixture.db.snapshot_insert(&row).await.unwrap();

    fixture.db.sandbox_update(&paused.in_status(Status::Running(live(origin(10))), 1)).await.unwrap();
    assert!(fixture.db.checkpoint_is_referenced(&row.checkpoint).await.unwrap());
    fixture.db.snapshot_delete(&row.id).await.unwrap();
    assert!(!fixture.db.checkpoint_is_referenced(&row.checkpoint).await.unwrap());
}

#[tokio::test]
async fn a_row_that_is_printed_keeps_its_environment_to_itself() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let environment = Some(Sealed("c0ffee".to_owned()));
    let snapshot = SnapshotRow { environment: environment.clone(), ..snapshot(&organisation, &template, "warm") };
    let spec = Arc::new(Spec { environment, ..spec(&organisation, &template) });
    let sandbox = Sandbox { spec, ..sandbox(&organisation, &template) };
    for text in [format!("{snapshot:?}"), format!("{sandbox:#?}")] {
        assert!(text.contains(organisation.as_str()) && !text.contains("c0ffee"), "{text}");
    }
}
