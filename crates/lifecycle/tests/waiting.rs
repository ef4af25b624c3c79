//! Many requests for one paused sandbox, on simulated machines.

mod common;

use common::Stage;
use futures::future::join_all;
use leapbox_api_types::sandbox::{DEFAULT_TEMPLATE, NewSandbox, SandboxState};
use leapbox_egress_policy::Policy;
use leapbox_ids::SandboxId;
use leapbox_lifecycle::{Lifecycle, LifecycleError};
use leapbox_simulated::World;
use std::path::Path;

async fn paused(dir: &Path) -> (Stage, Lifecycle, SandboxId) {
    let stage = Stage::new(dir, World::new(1, 0));
    stage.prepare().await;
    let server = stage.server().await;
    let new = NewSandbox {
        template_name: DEFAULT_TEMPLATE.to_owned(),
        vcpu: 1,
        memory_mib: 512,
        timeout_s: 3600,
        auto_pause: false,
        env_vars: Vec::new(),
        network_policy: Policy::AllowAll,
    };
    let id = server.create(&stage.org, new).await.expect("created").id;
    let state = server.pause(&stage.org, &id).await.expect("paused").state;
    assert_eq!(state, SandboxState::Paused);
    (stage, server, id)
}

#[tokio::test]
async fn case_45_however_many_requests_wait_one_wake_answers_them_and_the_queue_is_bounded() {
    let dir = tempfile::tempdir().expect("a folder");
    let (stage, server, id) = paused(dir.path()).await;
    let answers = join_all((0..300).map(|_| server.ensure_running(&stage.org, &id))).await;
    let (usable, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!(usable.len(), 256);
    assert!(refused.iter().all(|answer| matches!(answer, Err(LifecycleError::TooManyWaiting { .. }))));
    assert_eq!(stage.world.restored_times(), 1);
    // Places are given back.
    assert!(server.ensure_running(&stage.org, &id).await.is_ok());
}

#[tokio::test]
async fn case_46_a_failed_wake_is_told_to_all_who_wait_and_leaves_the_sandbox_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let (stage, server, id) = paused(dir.path()).await;
    let before = server.list(&stage.org, all()).await.expect("listed").items.remove(0);
    stage.world.break_down();
    let answers = join_all((0..50).map(|_| server.ensure_running(&stage.org, &id))).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(LifecycleError::NotWoken { .. }))));
    assert_eq!(stage.world.restored_times(), 1, "tried again for those who had waited");
    let shown = server.get(&stage.org, &id).await.expect("there");
    assert!(shown.state == SandboxState::Paused && shown.state_reason.is_some());
    let after = server.list(&stage.org, all()).await.expect("listed").items.remove(0);
    assert_eq!(before.state_change_time, after.state_change_time);
    stage.world.heal();
    assert!(server.ensure_running(&stage.org, &id).await.is_ok(), "the next request tries again");
    assert_eq!(server.get(&stage.org, &id).await.expect("there").state_reason, None);
}

#[tokio::test]
async fn case_46_a_sandbox_that_cannot_be_woken_can_be_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    let (stage, server, id) = paused(dir.path()).await;
    stage.world.break_down();
    assert!(server.ensure_running(&stage.org, &id).await.is_err());
    server.delete(&stage.org, &id).await.expect("deleted");
    assert_eq!(stage.world.left(), (0, 0));
}

fn all() -> leapbox_api_types::sandbox::SandboxListQuery {
    use leapbox_api_types::sandbox::{SandboxListQuery, SandboxSort, SortOrder};
    SandboxListQuery { state: None, sort: SandboxSort::CreatedAt, order: SortOrder::Descending, page: 1, page_size: 20 }
}
