//! Keys on a real database file, with servers and `leapbox keys` as separate `Auth`s on it.

#![allow(clippy::unwrap_used)]

use http::{HeaderMap, HeaderValue};
use leapbox_auth::{Auth, AuthError, KeyError, RateLimit};
use leapbox_db::{Db, OrganisationRow};
use leapbox_ids::{KeyId, OrganisationId};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

struct Fixture {
    path: PathBuf,
    organisation: OrganisationId,
    _folder: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leapbox.db");
    let organisation = OrganisationId::generate();
    let row = OrganisationRow { id: organisation.clone(), name: "acme".to_owned(), created_at_ms: 1 };
    Db::open(&path).await.unwrap().organisation_insert(&row).await.unwrap();
    Fixture { path, organisation, _folder: folder }
}

async fn process(path: &Path) -> Auth {
    Auth::new(Db::open(path).await.unwrap(), RateLimit::default())
}

fn bearing(secret: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {secret}")).unwrap());
    headers
}

#[tokio::test]
async fn a_key_made_by_another_process_works_at_once() {
    let fixture = fixture().await;
    let (server, command) = (process(&fixture.path).await, process(&fixture.path).await);
    for name in ["first", "second", "third"] {
        let (id, secret) = command.create_key(&fixture.organisation, name).await.unwrap();
        let caller = server.authenticate(&bearing(&secret)).await.unwrap();
        assert_eq!((caller.organisation, caller.key), (fixture.organisation.clone(), id));
    }
}

#[tokio::test]
async fn a_key_revoked_by_another_process_stops_working_within_seconds() {
    let fixture = fixture().await;
    let (server, command) = (process(&fixture.path).await, process(&fixture.path).await);
    let (id, secret) = command.create_key(&fixture.organisation, "laptop").await.unwrap();
    server.authenticate(&bearing(&secret)).await.unwrap();
    command.revoke(&id).await.unwrap();
    let began = Instant::now();
    let refused = loop {
        match server.authenticate(&bearing(&secret)).await {
            Err(error) => break error,
            Ok(_) => assert!(began.elapsed() < Duration::from_secs(5), "still works"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(matches!(refused, AuthError::Unknown), "{refused}");
}

#[tokio::test]
async fn a_key_revoked_in_the_same_process_stops_working_at_once() {
    let fixture = fixture().await;
    let server = process(&fixture.path).await;
    let (id, secret) = server.create_key(&fixture.organisation, "laptop").await.unwrap();
    server.authenticate(&bearing(&secret)).await.unwrap();
    server.revoke(&id).await.unwrap();
    assert!(matches!(server.authenticate(&bearing(&secret)).await, Err(AuthError::Unknown)));
}

#[tokio::test]
async fn missing_malformed_and_unknown_keys_are_refused() {
    let fixture = fixture().await;
    let server = process(&fixture.path).await;
    assert!(matches!(server.authenticate(&HeaderMap::new()).await, Err(AuthError::Missing)));
    assert!(matches!(server.authenticate(&bearing("lbx_short")).await, Err(AuthError::Malformed)));
    let unknown = format!("lbx_{}", "a".repeat(43));
    assert!(matches!(server.authenticate(&bearing(&unknown)).await, Err(AuthError::Unknown)));
}

#[tokio::test]
async fn a_flood_of_unknown_keys_neither_slows_known_ones_nor_reads_once_per_key() {
    let fixture = fixture().await;
    let server = std::sync::Arc::new(process(&fixture.path).await);
    let (_, secret) = server.create_key(&fixture.organisation, "laptop").await.unwrap();
    let known = bearing(&secret);
    server.authenticate(&known).await.unwrap();
    let began = Instant::now();
    let flood: Vec<_> = (0..2000)
        .map(|number| {
            let server = server.clone();
            tokio::spawn(async move { server.authenticate(&bearing(&format!("lbx_{number:043}"))).await })
        })
        .collect();
    let mut answered = 0u32;
    // As long as the flood lasts, whatever the machine's speed.
    while !flood.iter().all(tokio::task::JoinHandle::is_finished) {
        server.authenticate(&known).await.unwrap();
        answered += 1;
        tokio::task::yield_now().await;
    }
    for refused in flood {
        assert!(matches!(refused.await.unwrap(), Err(AuthError::Unknown)));
    }
    assert!(answered > 10, "{answered}");
    // One shared read after the pause; a read for each would take the pause for each.
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_secret_is_nowhere_in_the_database_files() {
    let fixture = fixture().await;
    let server = process(&fixture.path).await;
    let (_, secret) = server.create_key(&fixture.organisation, "laptop").await.unwrap();
    for suffix in ["", "-wal"] {
        let bytes = std::fs::read(format!("{}{suffix}", fixture.path.display())).unwrap();
        assert!(!bytes.windows(12).any(|window| window == &secret.as_bytes()[..12]), "{suffix}");
    }
}

#[tokio::test]
async fn a_key_needs_an_organisation_and_revoking_needs_a_key() {
    let fixture = fixture().await;
    let server = process(&fixture.path).await;
    let orphan = server.create_key(&OrganisationId::generate(), "x").await;
    assert!(matches!(orphan, Err(KeyError::Insert { .. })));
    assert!(matches!(server.revoke(&KeyId::generate()).await, Err(KeyError::Revoke { .. })));
}

#[tokio::test]
async fn authenticating_a_known_key_costs_microseconds() {
    let fixture = fixture().await;
    let server = process(&fixture.path).await;
    let (_, secret) = server.create_key(&fixture.organisation, "laptop").await.unwrap();
    let headers = bearing(&secret);
    server.authenticate(&headers).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..2000 {
        let began = Instant::now();
        server.authenticate(&headers).await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    // Generous: an unoptimised build on a busy machine. The point is that no query is in it.
    assert!(times[1000] < Duration::from_micros(100), "{:?}", times[1000]);
}
