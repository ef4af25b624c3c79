//! Sandboxes: every state is read as it was written, also after a restart and from the rows of earlier servers; a row that
//! is none is an error.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Fixture, disk, every_status, fixture, live, memory, origin, sandbox, spec};
use leapbox_api_types::sandbox::SandboxState;
use leapbox_db::{Db, DbError, Sandbox, Sealed, Spec, Status};
use leapbox_ids::{OrganisationId, SandboxId, TemplateId};
use std::sync::Arc;

async fn execute(fixture: &Fixture, sql: &str, id: &SandboxId) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&fixture.path);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let done = sqlx::query(sql).bind(id.as_str()).execute(&pool).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
}

fn with_secrets(organisation: &OrganisationId, template: &TemplateId) -> Arc<Spec> {
    let sealed = |text: &str| Some(Sealed(text.to_owned()));
    Arc::new(Spec {
        auto_pause: true,
        environment: sealed("environment"),
        network_policy: Some("{}".to_owned()),
        network_secrets: sealed("policy"),
        egress_ca: sealed("authority"),
        ..spec(organisation, template)
    })
}

#[tokio::test]
async fn every_state_survives_a_restart_with_all_that_is_in_it() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("system/debian:bookworm").await;
    let mut written = Vec::new();
    for status in every_status() {
        let new = Sandbox { spec: with_secrets(&organisation, &template), ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&new).await.unwrap();
        let (launched_at_ms, reason) = (Some(2000), Some("because".to_owned()));
        let changed = Sandbox { launched_at_ms, reason, ..new.in_status(status, 2001) };
        fixture.db.sandbox_update(&changed).await.unwrap();
        written.push(changed);
    }
    fixture.db.close().await;

    let again = Db::open(&fixture.path).await.unwrap();
    for mut sandbox in written {
        if sandbox.status == Status::Deleted {
            let kept = Spec { environment: None, network_secrets: None, egress_ca: None, ..(*sandbox.spec).clone() };
            sandbox.spec = Arc::new(kept);
        }
        assert_eq!(again.sandbox_by_id(sandbox.id()).await.unwrap(), Some(sandbox));
    }
}

/// Earlier servers named a stopped sandbox's base, too, and kept a timeout and a VM in more states.
#[tokio::test]
async fn the_rows_of_earlier_servers_are_understood() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let (kept, live) = (disk(origin(1)), live(origin(1)));
    let base = format!("UPDATE sandbox SET base = '{}' WHERE id = $1", origin(1).base);
    let timeout = "UPDATE sandbox SET timeout_at_ms = 5000 WHERE id = $1".to_owned();
    for (status, sql) in [
        (Status::Stopped(kept.clone()), &base),
        (Status::Booting(kept), &base),
        (Status::Deleting(None), &base),
        (Status::Deleting(None), &timeout),
        (Status::Stopping(live), &timeout),
        (Status::Paused(memory(origin(1))), &timeout),
    ] {
        let row = Sandbox { status, ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&row).await.unwrap();
        execute(&fixture, sql, row.id()).await;
        assert_eq!(fixture.db.sandbox_by_id(row.id()).await.unwrap(), Some(row));
    }
}

#[tokio::test]
async fn a_row_that_lacks_what_its_state_needs_is_an_error_that_names_it_and_fails_the_servers_start() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    for (status, lacking) in [
        (Status::Running(live(origin(1))), "machine"),
        (Status::Snapshotting(live(origin(1))), "base"),
        (Status::Stopping(live(origin(1))), "timeout_at_ms"),
        (Status::Paused(memory(origin(1))), "checkpoint"),
        (Status::Unpausing(memory(origin(1))), "image"),
        (Status::Stopped(disk(origin(1))), "checkpoint"),
        (Status::Booting(disk(origin(1))), "image"),
    ] {
        let row = Sandbox { status, ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&row).await.unwrap();
        execute(&fixture, &format!("UPDATE sandbox SET {lacking} = NULL WHERE id = $1"), row.id()).await;
        for error in
            [fixture.db.sandbox_by_id(row.id()).await.unwrap_err(), fixture.db.sandbox_unfinished().await.unwrap_err()]
        {
            assert!(
                matches!(&error, DbError::Impossible { id, state, column }
                    if id == row.id() && *state == row.state() && column.contains(lacking)),
                "{error}"
            );
        }
        fixture.db.sandbox_delete_row(row.id()).await.unwrap();
    }
}

#[tokio::test]
async fn a_record_or_an_id_that_is_none_is_unreadable_and_named() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    for change in ["machine = '{}'", "base = ''", "checkpoint = '../ckp'", "state = 'asleep'"] {
        let row = Sandbox { status: Status::Running(live(origin(1))), ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&row).await.unwrap();
        execute(&fixture, &format!("UPDATE sandbox SET {change} WHERE id = $1"), row.id()).await;
        let error = fixture.db.sandbox_by_id(row.id()).await.unwrap_err();
        assert!(
            matches!(&error, DbError::Unreadable { table: "sandbox", column, .. } if change.starts_with(column)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn unfinished_are_all_but_the_deleted_oldest_first() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    for (age, status) in (0..).zip(every_status()) {
        let spec = Arc::new(Spec { created_at_ms: 1000 - age, ..spec(&organisation, &template) });
        let row = Sandbox { spec, status, ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&row).await.unwrap();
    }
    let found = fixture.db.sandbox_unfinished().await.unwrap();
    let states: Vec<_> = found.iter().map(Sandbox::state).collect();
    let all = every_status().into_iter().map(|status| status.state());
    let mut expected: Vec<_> = all.filter(|state| *state != SandboxState::Deleted).collect();
    expected.reverse();
    assert_eq!(states, expected);
}

#[tokio::test]
async fn purge_takes_only_sandboxes_deleted_long_ago() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    let mut kept = Vec::new();
    for (status, since_ms, stays) in
        [(Status::Deleted, 10, false), (Status::Deleted, 100, true), (Status::Running(live(origin(1))), 10, true)]
    {
        let row = Sandbox { status, since_ms, ..sandbox(&organisation, &template) };
        fixture.db.sandbox_insert(&row).await.unwrap();
        kept.push((row.id().clone(), stays));
    }
    assert_eq!(fixture.db.sandbox_purge_deleted(100).await.unwrap(), 1);
    for (id, stays) in kept {
        assert_eq!(fixture.db.sandbox_by_id(&id).await.unwrap().is_some(), stays);
    }
}

#[tokio::test]
async fn a_row_can_be_taken_back_and_taking_it_back_twice_is_harmless() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let row = sandbox(&organisation, &fixture.template("t").await);
    fixture.db.sandbox_insert(&row).await.unwrap();
    fixture.db.sandbox_delete_row(row.id()).await.unwrap();
    fixture.db.sandbox_delete_row(row.id()).await.unwrap();
    assert_eq!(fixture.db.sandbox_by_id(row.id()).await.unwrap(), None);
    assert!(matches!(fixture.db.sandbox_update(&row).await, Err(DbError::Missing { table: "sandbox", .. })));
}

#[tokio::test]
async fn a_sandbox_needs_an_organisation_and_a_template_that_exist() {
    let fixture = fixture().await;
    let organisation = fixture.organisation("acme").await;
    let template = fixture.template("t").await;
    for orphan in [sandbox(&OrganisationId::generate(), &template), sandbox(&organisation, &TemplateId::generate())] {
        assert!(matches!(fixture.db.sandbox_insert(&orphan).await, Err(DbError::Query { .. })));
    }
    assert_eq!(fixture.db.sandbox_by_id(&SandboxId::generate()).await.unwrap(), None);
}
