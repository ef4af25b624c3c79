//! Bodies: streamed, whole, both ways, with their trailers; and connections that end between two requests.

use crate::server::{Server, blob, digest, hash};
use crate::support::{API, PublicCa, SECRET, Sandbox, Upload, empty, full, in_world};
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const AT: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
const PATIENCE: Duration = Duration::from_secs(10);

/// Either version of HTTP.
enum Guest {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

impl Guest {
    async fn ask(&mut self, path: &str, body: Upload) -> Response<Incoming> {
        self.send(Method::POST, path, body).await
    }

    async fn send(&mut self, method: Method, path: &str, body: Upload) -> Response<Incoming> {
        let request = match self {
            Guest::Http1(_) => Request::builder().uri(path).header("host", API),
            Guest::Http2(_) => Request::builder().uri(format!("https://{API}{path}")),
        };
        let request = request.method(method);
        let request = request.header("te", "trailers").header("trailer", "x-sum, authorization").body(body);
        let request = request.expect("a request");
        match self {
            Guest::Http1(sender) => {
                sender.ready().await.expect("ready");
                sender.send_request(request).await.expect("an answer")
            }
            Guest::Http2(sender) => sender.send_request(request).await.expect("an answer"),
        }
    }
}

/// The same test over both versions.
fn with_both<F: Future<Output = ()> + Send>(test: impl Fn(Guest, Server) -> F + Send + Sync + Copy + 'static) {
    in_world(move || async move {
        let ca = PublicCa::new();
        let server = Server::start(AT, ca.issue(API), &["h2", "http/1.1"]).await;
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        test(Guest::Http1(sandbox.http1(API, AT).await), server.clone()).await;
        test(Guest::Http2(sandbox.http2(API, AT).await), server).await;
    });
}

fn pieces(pieces: Vec<Bytes>, trailers: Option<HeaderMap>) -> Upload {
    let frames = pieces.into_iter().map(Frame::data).chain(trailers.map(Frame::trailers)).map(Ok);
    BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)))
}

#[test]
fn an_answer_arrives_piece_by_piece() {
    with_both(|mut guest, server| async move {
        let answer = guest.ask("/events", empty()).await;
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut body = answer.into_body();
        for event in ["data: one\n\n", "data: two\n\n"] {
            let frame = timeout(PATIENCE, body.frame()).await.expect("in time").expect("an event").expect("whole");
            assert_eq!(frame.into_data().expect("data"), event);
            server.go_on.notify_one();
        }
    });
}

#[test]
fn an_upload_is_passed_on_while_it_goes_on() {
    with_both(|mut guest, _| async move {
        let (upload, mut received) = mpsc::channel::<Bytes>(1);
        let frames = futures::stream::poll_fn(move |cx| received.poll_recv(cx)).map(|piece| Ok(Frame::data(piece)));
        let mut echo = guest.ask("/echo", BodyExt::boxed(StreamBody::new(frames))).await.into_body();
        for piece in ["one", "two", "three"] {
            upload.send(Bytes::from(piece)).await.expect("taken");
            let frame = timeout(PATIENCE, echo.frame()).await.expect("in time").expect("a piece").expect("whole");
            assert_eq!(frame.into_data().expect("data"), piece);
        }
        drop(upload);
        assert!(echo.collect().await.expect("the end").to_bytes().is_empty());
    });
}

#[test]
fn large_bodies_arrive_whole_both_ways() {
    with_both(|mut guest, server| async move {
        let expected = hash(&blob());
        let answer = guest.ask("/hash", pieces(blob(), None)).await;
        assert_eq!(answer.into_body().collect().await.expect("a hash").to_bytes(), expected.as_bytes());
        let (received, _) = digest(guest.ask("/blob", empty()).await.into_body()).await;
        assert_eq!(received, expected);
        let whole = blob().swap_remove(0);
        let answer = guest.ask("/hash", full(whole.clone())).await;
        assert_eq!(server.last().header("content-length"), Some(&*whole.len().to_string()));
        let expected = hash(&[whole]);
        assert_eq!(answer.into_body().collect().await.expect("a hash").to_bytes(), expected.as_bytes());
    });
}

#[test]
fn trailers_pass_both_ways_but_none_that_the_transform_owns() {
    with_both(|mut guest, server| async move {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "41".parse().expect("a value"));
        trailers.insert("authorization", "the guest's own".parse().expect("a value"));
        guest.ask("/hash", pieces(vec![Bytes::from_static(b"body")], Some(trailers))).await;
        let seen = server.last();
        let arrived = seen.trailers.as_ref().expect("trailers");
        assert_eq!((arrived.len(), &arrived["x-sum"]), (1, &"41".parse().expect("a value")));
        assert_eq!(seen.header("authorization"), Some(SECRET));

        let body = guest.ask("/trailers", empty()).await.into_body().collect().await.expect("a body");
        assert_eq!(body.trailers().expect("trailers")["x-sum"], "42");
        assert_eq!(body.to_bytes(), "body");
    });
}

#[test]
fn a_body_without_a_length_is_sent_with_a_get_too() {
    in_world(|| async {
        let ca = PublicCa::new();
        let server = Server::start(AT, ca.issue(API), &["http/1.1"]).await;
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let mut guest = sandbox.http1(API, AT).await;
        let body = pieces(vec![Bytes::from_static(b"a query")], None);
        let request = Request::get("/hash").header("host", API).header("transfer-encoding", "chunked").body(body);
        let answer = guest.send_request(request.expect("a request")).await.expect("an answer");
        let expected = hash(&[Bytes::from_static(b"a query")]);
        assert_eq!(answer.into_body().collect().await.expect("a hash").to_bytes(), expected.as_bytes());
        assert_eq!(server.last().header("authorization"), Some(SECRET));
    });
}

#[test]
fn an_upstream_that_ends_its_kept_connection_is_connected_to_again() {
    in_world(|| async {
        let ca = PublicCa::new();
        let server = Server::start(AT, ca.issue(API), &["http/1.1"]).await;
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let mut guest = Guest::Http1(sandbox.http1(API, AT).await);
        for _ in 0..5 {
            let answer = guest.ask("/last", full("not to be sent twice")).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "last");
        }
        assert_eq!((server.connections(), server.seen().len()), (5, 5));
        assert!(server.seen().iter().all(|seen| seen.header("authorization") == Some(SECRET)));
    });
}

#[test]
fn an_upstream_that_breaks_off_between_two_requests_is_connected_to_again() {
    with_both(|mut guest, server| async move {
        for _ in 0..10 {
            let answer = guest.ask("/hash", full("not to be sent twice")).await;
            assert_eq!(answer.status(), StatusCode::OK);
            answer.into_body().collect().await.expect("a body");
            server.hang_up_and_wait().await;
        }
        assert_eq!((server.connections() % 10, server.seen().len() % 10), (0, 0));
    });
}

#[test]
fn a_safe_request_that_meets_the_end_of_a_kept_connection_is_sent_again() {
    with_both(|mut guest, server| async move {
        for _ in 0..20 {
            let answer = guest.send(Method::GET, "/hello", empty()).await;
            assert_eq!(answer.status(), StatusCode::OK);
            answer.into_body().collect().await.expect("a body");
            server.hang_up();
        }
    });
}

#[test]
fn an_answer_that_breaks_off_is_not_taken_for_a_whole_one() {
    with_both(|mut guest, server| async move {
        let mut body = guest.ask("/events", empty()).await.into_body();
        body.frame().await.expect("an event").expect("whole");
        server.hang_up();
        let ended = timeout(PATIENCE, body.frame()).await.expect("in time");
        assert!(matches!(ended, Some(Err(_))), "{ended:?}");
    });
}

#[test]
fn a_sandbox_that_ends_takes_its_connections_along() {
    in_world(|| async {
        let ca = PublicCa::new();
        let server = Server::start(AT, ca.issue(API), &["h2", "http/1.1"]).await;
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let mut guests = [Guest::Http1(sandbox.http1(API, AT).await), Guest::Http2(sandbox.http2(API, AT).await)];
        let mut bodies = Vec::new();
        for guest in &mut guests {
            let mut body = guest.ask("/events", empty()).await.into_body();
            body.frame().await.expect("an event").expect("whole");
            bodies.push(body);
        }
        server.open(2).await;
        drop(sandbox);
        server.open(0).await;
        for mut body in bodies {
            assert!(matches!(timeout(PATIENCE, body.frame()).await.expect("in time"), Some(Err(_))));
        }
    });
}

#[test]
fn each_http2_request_takes_one_of_the_sandboxs_places_while_it_is_answered() {
    in_world(|| async {
        let ca = PublicCa::new();
        let server = Server::start(AT, ca.issue(API), &["h2"]).await;
        let sandbox = Sandbox::start(&ca, &[(API, AT)]).await;
        let mut guest = Guest::Http2(sandbox.http2(API, AT).await);
        let mut bodies = Vec::new();
        for _ in 0..3 {
            bodies.push(guest.ask("/events", empty()).await.into_body());
        }
        assert_eq!(sandbox.context.open_connections(), 1 + 3);
        for mut body in bodies {
            server.go_on.notify_one();
            while body.frame().await.is_some() {}
        }
        assert_eq!(sandbox.context.open_connections(), 1);
    });
}
