//! The platform's key never reaches the guest.

use super::support::{Site, heads, none, read, scripted};
use http::Request;

const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";

/// Header lines, names and values.
type Lines = &'static [(&'static str, &'static str)];

/// What a client sends, and which `authorization` the application then sees. `K` stands for the key.
const TABLE: &[(Lines, &[&str])] = &[
    (&[("authorization", "K")], &[]),
    (&[("authorization", "Bearer K")], &[]),
    (&[("Authorization", "bearer  K")], &[]),
    (&[("leap0-authorization", "K")], &[]),
    (&[("Leap0-Authorization", "Bearer K")], &[]),
    (&[("leap0-authorization", "K"), ("authorization", "Basic dTpw")], &["Basic dTpw"]),
    (&[("authorization", "Bearer apps"), ("leap0-authorization", "Bearer K")], &["Bearer apps"]),
    (&[("leap0-authorization", "K"), ("authorization", "K")], &[]),
    (&[("leap0-authorization", "K"), ("authorization", "Bearer K")], &[]),
    (&[("authorization", "K"), ("connection", "authorization")], &[]),
    (&[("leap0-authorization", "K"), ("connection", "leap0-authorization")], &[]),
];

fn with(mut request: http::request::Builder, lines: &[(&str, &str)], key: &str) -> http::request::Builder {
    for (name, value) in lines {
        request = request.header(*name, value.replace('K', key));
    }
    request
}

fn assert_seen(head: &str, apps: &[&str], key: &str) {
    assert!(!head.contains(key), "the key reached the application: {head}");
    assert!(!head.to_ascii_lowercase().contains("leap0-authorization"), "{head}");
    let authorization = |line: &&str| line.to_ascii_lowercase().starts_with("authorization:");
    let seen: Vec<&str> = head.lines().filter(authorization).map(|line| line[14..].trim()).collect();
    assert_eq!(seen, apps, "{head}");
}

#[tokio::test]
async fn case_32_the_platforms_key_never_reaches_the_application_over_http1() {
    let site = Site::start().await;
    let (address, seen) = scripted(ANSWER).await;
    let host = site.app(address);
    for (lines, apps) in TABLE {
        let request = with(Request::get("/").header("host", &host), lines, &site.key);
        let answer = site.h1().await.send_request(request.body(none()).expect("a request")).await;
        assert_eq!(read(answer.expect("an answer")).await, "ok", "{lines:?}");
        assert_seen(heads(&seen).last().expect("a head"), apps, &site.key);
    }
}

#[tokio::test]
async fn case_32_the_platforms_key_never_reaches_the_application_over_http2() {
    let site = Site::start().await;
    let (address, seen) = scripted(ANSWER).await;
    let host = site.app(address);
    let mut sender = site.h2().await;
    for (lines, apps) in TABLE.iter().filter(|(lines, _)| lines.iter().all(|(name, _)| *name != "connection")) {
        let request = with(Request::get(format!("https://{host}/")), lines, &site.key);
        let answer = sender.send_request(request.body(none()).expect("a request")).await;
        assert_eq!(read(answer.expect("an answer")).await, "ok", "{lines:?}");
        assert_seen(heads(&seen).last().expect("a head"), apps, &site.key);
    }
}

#[tokio::test]
async fn case_32_the_platforms_key_never_reaches_the_application_with_a_websocket() {
    let site = Site::start().await;
    let (address, seen) = scripted("HTTP/1.1 403 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let host = site.app(address);
    for (lines, apps) in TABLE.iter().filter(|(lines, _)| lines.iter().all(|(name, _)| *name != "connection")) {
        let request = with(Request::get("/").header("host", &host), lines, &site.key)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let answer = site.h1().await.send_request(request.body(none()).expect("a request")).await;
        assert_eq!(answer.expect("an answer").status(), 403, "{lines:?}");
        let head = heads(&seen).last().expect("a head").clone();
        assert!(head.to_ascii_lowercase().contains("upgrade: websocket"), "{head}");
        assert_seen(&head, apps, &site.key);
    }
}

#[tokio::test]
async fn case_32_a_request_that_is_refused_does_not_reach_the_application_at_all() {
    let site = Site::start().await;
    let (address, seen) = scripted(ANSWER).await;
    let host = site.app(address);
    let combinations: &[Lines] = &[
        &[],
        &[("leap0-authorization", "wrong"), ("authorization", "K")],
        &[("authorization", "K"), ("authorization", "other")],
    ];
    for lines in combinations {
        let request = with(Request::get("/").header("host", &host), lines, &site.key);
        let answer = site.h1().await.send_request(request.body(none()).expect("a request")).await;
        assert_eq!(answer.expect("an answer").status(), 401, "{lines:?}");
    }
    assert_eq!(heads(&seen), Vec::<String>::new());
}
