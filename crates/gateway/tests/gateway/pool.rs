//! Kept connections to applications, and what happens to all of them when a sandbox goes.

use super::support::{Site, app, heads, none, raw_app, read, read_head, scripted, soon, text, until};
use http::Response;
use http_body_util::BodyExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Answers `keep` once per connection, then lets the next request run into a closed connection.
async fn forgetful() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let address = raw_app(move |mut socket| {
        let counter = Arc::clone(&counter);
        async move {
            read_head(&mut socket).await;
            counter.fetch_add(1, Ordering::SeqCst);
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nkeep").await.expect("written");
            // The connection dies exactly when the next request arrives on it.
            if !read_head(&mut socket).await.is_empty() {
                counter.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    (address, requests)
}

#[tokio::test]
async fn connections_to_an_application_are_used_again() {
    let site = Site::start().await;
    let host = site.app(app(|_| async { Response::new(text("hello")) }).await);
    let mut sender = site.h1().await;
    for _ in 0..10 {
        let request = site.request("GET", &host, "/").body(none()).expect("a request");
        assert_eq!(read(sender.send_request(request).await.expect("an answer")).await, "hello");
    }
    let request = site.request("POST", &host, "/").body(text("body")).expect("a request");
    assert_eq!(read(sender.send_request(request).await.expect("an answer")).await, "hello");
    let stats = site.gateway.stats();
    assert_eq!((stats.upstream_opened, stats.upstream_reused), (1, 10));
}

#[tokio::test]
async fn a_safe_request_survives_a_kept_connection_that_dies_under_it() {
    let site = Site::start().await;
    let (address, requests) = forgetful().await;
    let host = site.app(address);
    let mut sender = site.h1().await;
    for _ in 0..3 {
        let request = site.request("GET", &host, "/").body(none()).expect("a request");
        assert_eq!(read(sender.send_request(request).await.expect("an answer")).await, "keep");
    }
    assert_eq!(site.gateway.stats().upstream_retried, 2);
    assert_eq!(requests.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_request_that_may_have_had_its_effect_is_not_sent_twice() {
    let site = Site::start().await;
    let (address, requests) = forgetful().await;
    let host = site.app(address);
    let mut sender = site.h1().await;
    let request = site.request("GET", &host, "/").body(none()).expect("a request");
    assert_eq!(read(sender.send_request(request).await.expect("an answer")).await, "keep");
    let request = site.request("POST", &host, "/").body(none()).expect("a request");
    let answer = sender.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 502);
    assert_eq!((requests.load(Ordering::SeqCst), site.gateway.stats().upstream_retried), (2, 0));
}

#[tokio::test]
async fn a_kept_connection_the_application_closed_is_not_used() {
    let site = Site::start().await;
    let (address, seen) = scripted("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let host = site.app(address);
    let mut sender = site.h1().await;
    for n in 1..=3 {
        let request = site.request("POST", &host, "/").body(none()).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        assert_eq!(answer.status(), 200, "request {n}");
        assert_eq!(read(answer).await, "ok");
        assert_eq!(heads(&seen).len(), n);
        // Its end arrives after its answer.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// An application that counts its open connections, and answers `/kept` whole and anything else without end.
async fn counted() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&open);
    let address = raw_app(move |mut socket| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            let answer = match read_head(&mut socket).await {
                head if head.starts_with("GET /kept") => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                head if head.starts_with("GET /ws") => {
                    "HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
                }
                head if head.starts_with("GET /body") => "HTTP/1.1 200 OK\r\n\r\nsome",
                _ => "",
            };
            let _written = socket.write_all(answer.as_bytes()).await;
            let _rest = socket.read_to_end(&mut Vec::new()).await;
            counter.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    (address, open)
}

#[tokio::test]
async fn when_a_sandbox_goes_every_connection_into_it_is_closed() {
    let site = Site::start().await;
    let (address, open) = counted().await;
    let host = site.app(address);

    let half_read = site.get(&host, "/body").await;
    let mut sender = site.h1().await;
    let request = site.request("GET", &host, "/head").body(none()).expect("a request");
    let waiting = tokio::spawn(async move { sender.send_request(request).await.expect("an answer").status() });
    let request = site.request("GET", &host, "/ws").header("connection", "upgrade").header("upgrade", "websocket");
    let request = request.body(none()).expect("a request");
    let tunnel = site.h1().await.send_request(request).await.expect("an answer");
    let mut tunnel = hyper_util::rt::TokioIo::new(hyper::upgrade::on(tunnel).await.expect("upgraded"));
    until("the application is asked", || site.gateway.stats().upstream_opened == 3).await;
    assert_eq!(read(site.get(&host, "/kept").await).await, "ok");
    until("all are open", || open.load(Ordering::SeqCst) == 4).await;

    site.gateway.forget(&site.sandbox);
    until("all are closed", || open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(soon(waiting).await.expect("joined"), 502);
    assert!(soon(half_read.into_body().collect()).await.is_err());
    let _ended = soon(tunnel.read_to_end(&mut Vec::new())).await;
    assert_eq!(read(site.get(&host, "/kept").await).await, "ok");
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_keep_a_gone_sandboxs_connection() {
    let site = Site::start().await;
    let open = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&open);
    let address = raw_app(move |mut socket| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::SeqCst);
            read_head(&mut socket).await;
            let block = vec![b'x'; 64 * 1024];
            let mut written = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while written.is_ok() {
                written = socket.write_all(&block).await;
            }
            counter.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let host = site.app(address);
    let unread = site.get(&host, "/").await;
    site.gateway.forget(&site.sandbox);
    until("it is closed", || open.load(Ordering::SeqCst) == 0).await;
    drop(unread);
}

#[tokio::test]
async fn a_connection_nobody_uses_is_closed_after_a_while() {
    let site = Site::with(|limits| limits.pool_idle = Duration::from_millis(200)).await;
    let (address, open) = counted().await;
    let host = site.app(address);
    assert_eq!(read(site.get(&host, "/kept").await).await, "ok");
    assert_eq!(open.load(Ordering::SeqCst), 1);
    until("it is closed", || open.load(Ordering::SeqCst) == 0).await;
}
