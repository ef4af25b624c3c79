//! The guard, bodies, paths and fallbacks around small routes of the tests' own, with real keys in a real database.
//! The handlers themselves need sandboxes: the end-to-end suite has them.

use crate::answer::Failure;
use crate::body::{JsonObject, OptionalJsonObject, RawBody};
use crate::guarded;
use crate::path::{InPath, SnapshotInPath};
use crate::routes::{self, in_both_forms, not_implemented};
use crate::validate::Query;
use axum::body::Body;
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use leapbox_api_types::BODY_MAX;
use leapbox_auth::{Auth, Caller, RateLimit};
use leapbox_db::{Db, OrganisationRow};
use leapbox_ids::{OrganisationId, SandboxId, SnapshotId};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tower::ServiceExt;

struct Fixture {
    router: Router,
    auth: Arc<Auth>,
    key: String,
    organisation: OrganisationId,
    _folder: tempfile::TempDir,
}

async fn organisation(db: &Db, name: &str) -> OrganisationId {
    let row = OrganisationRow { id: OrganisationId::generate(), name: name.to_owned(), created_at_ms: 1 };
    db.organisation_insert(&row).await.expect("inserted");
    row.id
}

async fn fixture(requests: u32) -> Fixture {
    let folder = tempfile::tempdir().expect("a folder");
    let db = Db::open(&folder.path().join("leapbox.db")).await.expect("the database opens");
    let organisation = organisation(&db, "acme").await;
    let auth = Arc::new(Auth::new(db, RateLimit { requests, period: Duration::from_secs(60) }));
    let (_, key) = auth.create_key(&organisation, "test").await.expect("a key");
    let mut routes: Vec<_> = not_implemented::routes::<()>().collect();
    routes.push(("/whoami", get(async |Extension(caller): Extension<Caller>| caller.organisation.to_string())));
    routes.push(("/json", post(async |JsonObject(body): JsonObject| Json(body))));
    routes.push(("/optional", post(async |OptionalJsonObject(body): OptionalJsonObject| Json(body))));
    routes.push(("/raw", post(async |RawBody(body): RawBody| body.len().to_string())));
    routes.push(("/query", get(async |Query(query): Query| Json(query))));
    routes.push(("/v1/sandbox/{id}/named/{other}", get(async |InPath(id): InPath| Ok::<_, Failure>(id.to_string()))));
    routes
        .push(("/v1/snapshot/{id}", get(async |SnapshotInPath(id): SnapshotInPath| Ok::<_, Failure>(id.to_string()))));
    let router = guarded(in_both_forms(routes), Arc::clone(&auth));
    Fixture { router, auth, key, organisation, _folder: folder }
}

/// An answer, read to its end.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    fn message(&self) -> String {
        self.json()["message"].as_str().expect("a message").to_owned()
    }
}

impl Fixture {
    async fn send(&self, request: Request<Body>) -> Answer {
        let response: Response = self.router.clone().oneshot(request).await.expect("infallible");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", self.key))
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request("GET", path).body(Body::empty()).expect("a request")).await
    }

    async fn post_json(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = self.request("POST", path).header("content-type", "application/json").body(body.into());
        self.send(request.expect("a request")).await
    }
}

#[test]
fn the_routes_of_the_contract_do_not_overlap() {
    // Panics if two of them do.
    let _ = routes::all();
}

#[tokio::test]
async fn a_path_answers_with_and_without_its_trailing_slash_and_never_redirects() {
    let fixture = fixture(0).await;
    for path in ["/whoami", "/whoami/"] {
        let answer = fixture.get(path).await;
        assert_eq!((answer.status, answer.body), (StatusCode::OK, fixture.organisation.as_str().as_bytes().to_vec()));
    }
    for path in ["/json", "/json/"] {
        let answer = fixture.post_json(path, r#"{"a":1}"#).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({ "a": 1 })));
    }
}

#[tokio::test]
async fn without_a_key_everything_but_healthz_is_401() {
    let fixture = fixture(0).await;
    let unknown = format!("Bearer lbx_{}", "x".repeat(43));
    for (path, key) in [("/whoami", ""), ("/no/such", ""), ("/v1/sandbox/x/pause", &*unknown), ("/json", "Bearer x")] {
        let request = Request::builder().uri(path).header("authorization", key).body(Body::empty());
        let answer = fixture.send(request.expect("a request")).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(answer.json(), json!({ "message": "invalid or missing API key" }));
        assert_eq!(answer.headers["www-authenticate"], "Bearer");
        assert!(answer.headers.contains_key("x-request-id"));
    }
    let health = fixture.send(Request::builder().uri("/healthz").body(Body::empty()).expect("a request")).await;
    assert_eq!(health.status, StatusCode::OK);
}

#[tokio::test]
async fn case_32_the_key_is_taken_from_leap0_authorization_where_both_headers_are() {
    let fixture = fixture(0).await;
    let request = Request::builder()
        .uri("/whoami")
        .header("authorization", "Basic YXBwOnB3")
        .header("leap0-authorization", &fixture.key)
        .body(Body::empty());
    assert_eq!(fixture.send(request.expect("a request")).await.status, StatusCode::OK);
}

#[tokio::test]
async fn unknown_paths_are_404_and_wrong_methods_405_in_json() {
    let fixture = fixture(0).await;
    for path in ["/", "/v1", "/v1/no-such", "/whoami/more", "/whoami//"] {
        let answer = fixture.get(path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(answer.message(), "there is no such path in this API");
    }
    let answer = fixture.post_json("/whoami", "{}").await;
    assert_eq!((answer.status, answer.message()), (StatusCode::METHOD_NOT_ALLOWED, "method not allowed".to_owned()));
    assert_eq!(answer.headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn what_the_contract_has_and_we_have_not_yet_is_501_and_says_so() {
    let fixture = fixture(0).await;
    for path in ["/v1/sandbox/sbx-x/git/log", "/v1/sandbox/sbx-x/git/log/"] {
        let answer = fixture.post_json(path, "{}").await;
        assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
        assert_eq!(answer.message(), "POST /v1/sandbox/{id}/git/log is not supported by this version of Leapbox yet");
    }
    assert_eq!(fixture.get("/v1/sandbox/sbx-x/git/log").await.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(fixture.get("/v1/sandbox/sbx-x/pty/1/connect").await.status, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn case_31_what_is_not_an_id_answers_as_an_unknown_id_does() {
    let fixture = fixture(0).await;
    let id = SandboxId::generate();
    let found = fixture.get(&format!("/v1/sandbox/{id}/named/x")).await;
    assert_eq!((found.status, found.body), (StatusCode::OK, id.as_str().as_bytes().to_vec()));
    for bad in ["x", "sbx-", "SBX-abcdefghijklmnopqrst", "tpl-abcdefghijklmnopqrst", "sbx-abcdefghijklmnopqrst-80"] {
        let answer = fixture.get(&format!("/v1/sandbox/{bad}/named/x")).await;
        assert_eq!((answer.status, answer.message()), (StatusCode::NOT_FOUND, format!("sandbox {bad} not found")));
    }
    let snapshot = SnapshotId::generate();
    let found = fixture.get(&format!("/v1/snapshot/{snapshot}")).await;
    assert_eq!((found.status, found.body), (StatusCode::OK, snapshot.as_str().as_bytes().to_vec()));
    for bad in ["x", id.as_str(), "snap-abc"] {
        let answer = fixture.get(&format!("/v1/snapshot/{bad}")).await;
        assert_eq!((answer.status, answer.message()), (StatusCode::NOT_FOUND, format!("snapshot {bad} not found")));
    }
    let strange = fixture.get("/v1/sandbox/%ff%2f..%00/named/x").await;
    assert_eq!(strange.status, StatusCode::NOT_FOUND);
    let long = fixture.get(&format!("/v1/sandbox/{}/named/x", "y".repeat(5000))).await;
    assert!(long.status == StatusCode::NOT_FOUND && long.body.len() < 200);
}

#[tokio::test]
async fn a_body_that_is_not_a_json_object_is_400_with_a_text_that_helps() {
    let fixture = fixture(0).await;
    for body in ["", "[1]", "{\"a\":", "nonsense"] {
        let answer = fixture.post_json("/json", body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.message().contains("JSON"), "{}", answer.message());
    }
    let request = fixture.request("POST", "/json").body(Body::from("{}")).expect("a request");
    let answer = fixture.send(request).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.message().contains("content-type: application/json"), "{}", answer.message());
}

#[tokio::test]
async fn a_body_that_may_be_left_out_may_be_empty_and_is_a_json_object_otherwise() {
    let fixture = fixture(0).await;
    let bare = fixture.request("POST", "/optional").body(Body::empty()).expect("a request");
    assert_eq!(fixture.send(bare).await.json(), json!({}));
    for body in ["", "{}", " null\n"] {
        let answer = fixture.post_json("/optional", body).await;
        assert_eq!((answer.status, answer.json()), (StatusCode::OK, json!({})), "{body:?}");
    }
    assert_eq!(fixture.post_json("/optional", r#"{"a":1}"#).await.json(), json!({ "a": 1 }));
    assert_eq!(fixture.post_json("/optional", "[]").await.status, StatusCode::BAD_REQUEST);
    let unannounced = fixture.request("POST", "/optional").body(Body::from("{}")).expect("a request");
    assert_eq!(fixture.send(unannounced).await.status, StatusCode::BAD_REQUEST);
    let large = fixture.post_json("/optional", vec![b' '; BODY_MAX + 1]).await;
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn case_33_a_body_larger_than_ten_mebibytes_is_413() {
    let fixture = fixture(0).await;
    for (path, extra, status) in [
        ("/raw", 0, StatusCode::OK),
        ("/raw", 1, StatusCode::PAYLOAD_TOO_LARGE),
        ("/json", 1, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let answer = fixture.post_json(path, vec![b' '; BODY_MAX + extra]).await;
        assert_eq!(answer.status, status, "{path} {extra}");
    }
    let answer = fixture.post_json("/raw", vec![b' '; BODY_MAX + 1]).await;
    assert_eq!(answer.message(), "the body is larger than 10 MiB");
}

#[tokio::test]
async fn a_query_is_decoded_and_its_last_value_counts() {
    let fixture = fixture(0).await;
    let answer = fixture.get("/query?path=%2Ftmp%2Fa+b%2B.txt&page=1&page=2&empty=").await;
    assert_eq!(answer.json(), json!({ "path": "/tmp/a b+.txt", "page": "2", "empty": "" }));
    assert_eq!(fixture.get("/query").await.json(), json!({}));
}

#[tokio::test]
async fn past_the_rate_limit_is_429_with_the_seconds_to_wait_and_others_are_not_affected() {
    let fixture = fixture(3).await;
    for _ in 0..3 {
        assert_eq!(fixture.get("/whoami").await.status, StatusCode::OK);
    }
    let refused = fixture.get("/whoami").await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(refused.message(), format!("rate limit exceeded; try again in {wait} s"));

    let health = fixture.send(Request::builder().uri("/healthz").body(Body::empty()).expect("a request")).await;
    assert_eq!(health.status, StatusCode::OK);
    assert!(fixture.auth.check(&OrganisationId::generate()).is_ok());
}

#[tokio::test]
async fn a_request_id_goes_back_as_it_came_or_is_made_up() {
    let fixture = fixture(0).await;
    let request = fixture.request("GET", "/whoami").header("x-request-id", "abc-1").body(Body::empty());
    assert_eq!(fixture.send(request.expect("a request")).await.headers["x-request-id"], "abc-1");
    let request = fixture.request("GET", "/no/such").header("x-request-id", "a b").body(Body::empty());
    assert_eq!(fixture.send(request.expect("a request")).await.headers["x-request-id"].len(), 32);
}

#[tokio::test]
async fn a_request_that_touches_no_sandbox_takes_a_few_milliseconds_at_most() {
    let fixture = fixture(0).await;
    let mut times = Vec::new();
    for _ in 0..500 {
        let began = Instant::now();
        assert_eq!(fixture.get("/whoami").await.status, StatusCode::OK);
        times.push(began.elapsed());
    }
    times.sort();
    // It takes far less than one; beside other tests and in a debug build this shows only that nothing waits.
    assert!(times[250] < Duration::from_millis(20), "{:?}", times[250]);
}
