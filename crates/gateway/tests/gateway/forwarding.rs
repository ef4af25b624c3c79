//! What passes through unchanged, what does not, and how messages are framed on the other side.

use super::support::{Site, app, heads, none, raw_app, read, read_head, scripted, soon, text};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let mine = |line: &&str| line.split(':').next().is_some_and(|n| n.eq_ignore_ascii_case(name));
    head.lines().skip(1).filter(mine).map(|line| line[name.len() + 1..].trim()).collect()
}

#[tokio::test]
async fn the_application_sees_the_request_without_the_connections_fields() {
    let site = Site::start().await;
    let (address, seen) = scripted(OK).await;
    let host = site.app(address);
    let key = &site.key;
    let request = format!(
        "GET https://{host}/a/../b?c=%20d#f HTTP/1.1\r\nHost: {host}\r\nAuthorization: {key}\r\n\
         Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=9\r\nProxy-Authorization: Basic eA==\r\n\
         TE: gzip, trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX-Forwarded-For: 10.1.1.1\r\n\
         X-Forwarded-Proto: http\r\nForwarded: for=1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nX-Kept: a\r\nX-Kept: b\r\n\
         User-Agent: test\r\nCookie: a=1\r\n\r\n"
    );
    let answer = site.raw(&request).await;
    assert!(answer.ends_with("ok"), "{answer}");
    let head = &heads(&seen)[0];
    assert!(head.starts_with("GET /a/../b?c=%20d HTTP/1.1\r\n"), "{head}");
    let expected: &[(&str, &[&str])] = &[
        ("host", &[&host]),
        ("x-forwarded-for", &["127.0.0.1"]),
        ("x-forwarded-proto", &["https"]),
        ("x-forwarded-host", &[&host]),
        ("te", &["trailers"]),
        ("x-kept", &["a", "b"]),
        ("cookie", &["a=1"]),
        ("user-agent", &["test"]),
        ("connection", &[]),
        ("x-hop", &[]),
        ("keep-alive", &[]),
        ("proxy-authorization", &[]),
        ("upgrade", &[]),
        ("http2-settings", &[]),
        ("forwarded", &[]),
        ("x-real-ip", &[]),
        ("authorization", &[]),
    ];
    for (name, lines) in expected {
        assert_eq!(values(head, name), *lines, "{name} in {head}");
    }
}

#[tokio::test]
async fn the_client_sees_the_answer_without_the_connections_fields() {
    let site = Site::start().await;
    let (address, _) = scripted(
        "HTTP/1.1 299 Fine\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=1\r\nupgrade: h2c\r\n\
         proxy-authenticate: Basic\r\nx-leapbox-error: gateway\r\nset-cookie: a=1; Domain=sandbox.localhost\r\n\
         set-cookie: b=2; Path=/\r\nx-kept: yes\r\ncontent-length: 2\r\n\r\nok",
    )
    .await;
    let host = site.app(address);
    let answer = site.get(&host, "/").await;
    assert_eq!(answer.status(), 299);
    for name in ["connection", "x-hop", "keep-alive", "upgrade", "proxy-authenticate", "x-leapbox-error"] {
        assert!(!answer.headers().contains_key(name), "{name}");
    }
    assert_eq!(answer.headers()["x-kept"], "yes");
    let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2; Path=/"]);
    assert_eq!(read(answer).await, "ok");
}

#[tokio::test]
async fn http2_requests_become_plain_http1() {
    let site = Site::start().await;
    let (address, seen) = scripted(OK).await;
    let host = site.app(address);
    let request = site.request2("GET", &host, "/x").header("cookie", "a=1").header("cookie", "b=2");
    let answer = site.h2().await.send_request(request.body(none()).expect("a request")).await.expect("an answer");
    assert_eq!(read(answer).await, "ok");
    let head = &heads(&seen)[0];
    assert!(head.starts_with("GET /x HTTP/1.1\r\n"), "{head}");
    assert_eq!(values(head, "host"), [&*host]);
    assert_eq!(values(head, "cookie"), ["a=1; b=2"]);
}

/// RFC 9112 §6.3: with both, the transfer coding counts, the length goes, and the connection ends after the answer.
#[tokio::test]
async fn a_request_with_two_lengths_cannot_smuggle_another() {
    let site = Site::start().await;
    let (address, seen) = scripted(OK).await;
    let host = site.app(address);
    let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\n", site.key);
    for lengths in
        ["content-length: 44\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 44"]
    {
        let answer =
            site.raw(&format!("{head}{lengths}\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    }
    let seen = heads(&seen);
    assert_eq!(seen.len(), 2);
    for head in seen {
        assert!(values(&head, "content-length").is_empty() && !head.contains("smuggled"), "{head}");
    }
    for bad in ["content-length: 1\r\ncontent-length: 2", "transfer-encoding: chunked, gzip", "content-length: +1"] {
        let answer = site.raw(&format!("{head}{bad}\r\n\r\n1\r\nx\r\n0\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{bad}: {answer}");
    }
    let folded = site.raw(&format!("{head}x-folded: a\r\n b\r\n\r\n")).await;
    assert!(folded.starts_with("HTTP/1.1 400 "), "{folded}");
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_the_application_takes_it() {
    let site = Site::start().await;
    let host = site.app(app(|request| async { Response::new(text(read_all(request).await)) }).await);
    let head = |host: &str, key: &str| {
        format!(
            "POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {key}\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\
             connection: close\r\n\r\n"
        )
    };
    let mut stream = site.tls(&[]).await;
    stream.write_all(head(&host, &site.key).as_bytes()).await.expect("written");
    assert_eq!(soon(read_head(&mut stream)).await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.expect("written");
    let mut rest = String::new();
    soon(stream.read_to_string(&mut rest)).await.expect("read");
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.ends_with("hello"), "{rest}");

    let refused = site.raw(&head(&host, "wrong")).await;
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");
}

async fn read_all(request: http::Request<hyper::body::Incoming>) -> Bytes {
    request.into_body().collect().await.expect("a body").to_bytes()
}

#[tokio::test]
async fn answers_without_a_body_stay_without() {
    let site = Site::start().await;
    for (method, answer, status) in [
        ("HEAD", "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", 200),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", 204),
        ("GET", "HTTP/1.1 304 Not Modified\r\ncontent-length: 1234\r\netag: \"x\"\r\n\r\n", 304),
        ("GET", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
    ] {
        let (address, _) = scripted(answer).await;
        let host = site.app(address);
        for version in [1, 2] {
            let answer = match version {
                1 => {
                    let request = site.request(method, &host, "/").body(none()).expect("a request");
                    site.h1().await.send_request(request).await
                }
                _ => {
                    let request = site.request2(method, &host, "/").body(none()).expect("a request");
                    site.h2().await.send_request(request).await
                }
            };
            let response = soon(async { answer }).await.expect("an answer");
            assert_eq!(response.status(), status, "{method}");
            if method == "HEAD" {
                assert_eq!(response.headers()["content-length"], "1234");
            }
            assert_eq!(read(response).await, "");
        }
    }
}

#[tokio::test]
async fn an_answer_ended_by_its_connection_is_whole() {
    let site = Site::start().await;
    let (address, _) = scripted("HTTP/1.0 200 OK\r\n\r\nto the end").await;
    let host = site.app(address);
    assert_eq!(read(site.get(&host, "/").await).await, "to the end");
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let site = Site::start().await;
    let echo = app(|request| async {
        let body = request.into_body().collect().await.expect("a body");
        let sum = body.trailers().and_then(|trailers| trailers.get("x-sum")).cloned();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-seen", sum.unwrap_or_else(|| HeaderValue::from_static("none")));
        let frames = [Frame::data(body.to_bytes()), Frame::trailers(trailers)];
        let body = StreamBody::new(futures::stream::iter(frames.map(Ok))).boxed();
        Response::builder().header("trailer", "x-seen").body(body).expect("an answer")
    })
    .await;
    let host = site.app(echo);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
    let body = StreamBody::new(futures::stream::iter(frames.map(Ok))).boxed();
    let request = site.request2("POST", &host, "/").header("te", "trailers").header("trailer", "x-sum");
    let answer = site.h2().await.send_request(request.body(body).expect("a request")).await.expect("an answer");
    let body = soon(answer.into_body().collect()).await.expect("a body");
    assert_eq!(body.trailers().expect("trailers")["x-seen"], "42");
    assert_eq!(body.to_bytes(), "body");
}

#[tokio::test]
async fn an_answer_of_http10_style_applications_that_close_early_is_an_error_not_a_short_body() {
    let site = Site::start().await;
    let address = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        let _written = socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    })
    .await;
    let host = site.app(address);
    assert!(soon(site.get(&host, "/").await.into_body().collect()).await.is_err());
}
