//! A server that is started over the machines of another one, and what a sandbox's task hears while it waits: on
//! simulated machines.

mod common;

use common::Stage;
use futures::future::join_all;
use leapbox_api_types::sandbox::{DEFAULT_TEMPLATE, NewSandbox, SandboxState};
use leapbox_egress_policy::Policy;
use leapbox_ids::SandboxId;
use leapbox_lifecycle::{Lifecycle, LifecycleError, StartError, UnknownMachines};
use leapbox_simulated::World;
use std::path::Path;
use std::time::{Duration, Instant};

async fn stage(dir: &Path) -> Stage {
    let stage = Stage::new(dir, World::new(1, 0));
    stage.prepare().await;
    stage
}

async fn created(stage: &Stage, server: &Lifecycle, count: usize) -> Vec<SandboxId> {
    let new = || NewSandbox {
        template_name: DEFAULT_TEMPLATE.to_owned(),
        vcpu: 1,
        memory_mib: 512,
        timeout_s: 3600,
        auto_pause: false,
        env_vars: Vec::new(),
        network_policy: Policy::AllowAll,
    };
    let made = join_all((0..count).map(|_| server.create(&stage.org, new()))).await;
    made.into_iter().map(|made| made.expect("created").id).collect()
}

async fn state(stage: &Stage, server: &Lifecycle, id: &SandboxId) -> SandboxState {
    server.get(&stage.org, id).await.expect("there").state
}

/// Waits for a state, which is published by a task of its own.
async fn reached(stage: &Stage, server: &Lifecycle, id: &SandboxId, wanted: SandboxState) {
    while state(stage, server, id).await != wanted {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_42_a_start_over_300_machines_serves_at_once_and_waits_for_none_that_stands_still() {
    let dir = tempfile::tempdir().expect("a folder");
    let stage = stage(dir.path()).await;
    let server = stage.server().await;
    let ids = created(&stage, &server, 300).await;
    server.stop().await;
    let (still, lively) = ids.split_at(30);
    stage.world.stall(still);
    let begun = Instant::now();
    let server = stage.server().await;
    let started = begun.elapsed();
    assert!(started < Duration::from_secs(2), "it serves after {started:?}");
    for used in join_all(lively.iter().map(|id| server.ensure_running(&stage.org, id))).await {
        used.expect("usable at its first request");
    }
    let (waiting, asked) = (server.clone(), still[0].clone());
    let org = stage.org.clone();
    let first = tokio::spawn(async move { waiting.ensure_running(&org, &asked).await.map(drop) });
    // What stands still is shown as it is, and its owner need not wait for it.
    assert_eq!(state(&stage, &server, &still[0]).await, SandboxState::Running);
    server.delete(&stage.org, &still[1]).await.expect("deleted");
    // One that dies is lost; only its death says so.
    stage.world.kill(&still[2]);
    reached(&stage, &server, &still[2], SandboxState::Deleted).await;
    assert!(!first.is_finished());
    stage.world.answer();
    first.await.expect("ended").expect("usable once its machine answers");
    for used in join_all(still[3..].iter().map(|id| server.ensure_running(&stage.org, id))).await {
        used.expect("usable");
    }
}

#[tokio::test]
async fn case_44_a_wait_for_a_permit_or_a_store_ends_with_a_delete_and_with_the_machines_death() {
    let dir = tempfile::tempdir().expect("a folder");
    let stage = stage(dir.path()).await;
    let server = stage.server().await;
    let ids = created(&stage, &server, 7).await;
    // Four are being stored and do not get on, which takes all permits; three wait for one.
    stage.world.stall(&ids[..4]);
    let pause = |id: &SandboxId| {
        let (server, org, id) = (server.clone(), stage.org.clone(), id.clone());
        tokio::spawn(async move { server.pause(&org, &id).await.map(drop) })
    };
    let storing: Vec<_> = ids[..4].iter().map(pause).collect();
    for id in &ids[..4] {
        reached(&stage, &server, id, SandboxState::Snapshotting).await;
    }
    let waiting: Vec<_> = ids[4..].iter().map(pause).collect();
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.delete(&stage.org, &ids[4]).await.expect("deleted while it waits for a permit");
    stage.world.kill(&ids[5]);
    reached(&stage, &server, &ids[5], SandboxState::Deleted).await;
    server.delete(&stage.org, &ids[0]).await.expect("deleted while it is stored");
    let mut waiting = waiting.into_iter();
    let ended = waiting.next().expect("three").await.expect("ended");
    assert!(matches!(ended, Err(LifecycleError::NotFound { .. })), "{ended:?}");
    let ended = waiting.next().expect("three").await.expect("ended");
    assert!(matches!(ended, Err(LifecycleError::Failed { .. })), "{ended:?}");
    // The permit of the one that was deleted is the next one's.
    waiting.next().expect("three").await.expect("ended").expect("paused");
    stage.world.answer();
    let mut storing = storing.into_iter();
    assert!(storing.next().expect("four").await.expect("ended").is_err(), "deleted");
    for stored in storing {
        stored.await.expect("ended").expect("paused");
    }
    assert_eq!(stage.world.left(), (0, 4), "machines and checkpoints");
}

#[tokio::test]
async fn machines_that_the_database_does_not_know_are_refused_or_left_alone_and_taken_over_with_the_right_one() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let newest = stage(folders[0].path()).await;
    // A backup of before the sandboxes, on the same host.
    let older = Stage { folder: folders[1].path().to_owned(), ..newest.clone() };
    newest.db().await.close().await;
    std::fs::copy(newest.folder.join("leapbox.db"), older.folder.join("leapbox.db")).expect("copied");
    let server = newest.server().await;
    let ids = created(&newest, &server, 2).await;
    server.stop().await;
    let refused = older.start(UnknownMachines::Refuse).await.err().expect("refused");
    assert!(matches!(&refused, StartError::UnknownMachines { count: 2, .. }), "{refused}");
    assert_eq!(newest.world.left().0, 2, "nothing was touched");
    let accepting = older.start(UnknownMachines::SetAside).await.expect("accepted");
    assert_eq!(newest.world.left().0, 2, "left alone");
    accepting.stop().await;
    let server = newest.server().await;
    for id in &ids {
        server.ensure_running(&newest.org, id).await.expect("as if nothing had been");
    }
}
