//! What one client, one sandbox and all together may hold, and the answers when they ask for more.

use super::support::{Site, app, none, raw_app, read, read_head, soon, text, until};
use http::Response;
use http_body_util::BodyExt;
use leapbox_gateway::Limits;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SHORT: Duration = Duration::from_millis(300);

async fn hello() -> std::net::SocketAddr {
    app(|_| async { Response::new(text("hello")) }).await
}

/// Accepts and never answers.
async fn silent() -> std::net::SocketAddr {
    raw_app(|mut socket| async move {
        let _rest = socket.read_to_end(&mut Vec::new()).await;
    })
    .await
}

#[tokio::test]
async fn case_33_a_slow_loris_is_disconnected() {
    let site = Site::with(|limits| limits.header_read = SHORT).await;
    let host = site.app(hello().await);
    // Before the connection: the gateway's clock starts when its side of the handshake ends, which may be before ours.
    let begin = Instant::now();
    let mut stream = site.tls(&[]).await;
    let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nx-drip: ");
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    // Without an end: a limit on each byte's time, or none, would never cut it off.
    let drip = async {
        for byte in head.bytes().chain(std::iter::repeat(b'x')) {
            if writer.write_all(&[byte]).await.is_err() || writer.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(SHORT / 4).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ended = soon(reader.read_to_end(&mut answer)) => {}
        () = drip => {}
    }
    assert!(begin.elapsed() >= SHORT, "{:?}", begin.elapsed());
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
}

#[tokio::test]
async fn case_33_a_tls_handshake_that_does_not_come_is_disconnected() {
    let site = Site::with(|limits| limits.tls_handshake = SHORT).await;
    let mut socket = TcpStream::connect(site.address).await.expect("connected");
    let mut rest = Vec::new();
    let _ended = soon(socket.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    until("it is counted", || site.gateway.stats().handshakes_failed == 1).await;
}

#[tokio::test]
async fn case_33_oversized_headers_are_refused() {
    let site = Site::with(|limits| limits.max_header_bytes = 16 * 1024).await;
    let host = site.app(hello().await);
    let large = "x".repeat(17 * 1024);
    let head = format!("GET / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\nx-large: {large}\r\n\r\n", site.key);
    let answer = site.raw(&head).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let answer = site.raw(&format!("GET / HTTP/1.1\r\nhost: {host}\r\n{many}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let request = site.request2("GET", &host, "/").header("x-large", &large).body(none()).expect("a request");
    match soon(site.h2().await.send_request(request)).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        // h2 clients may hold the peer's advertised limit themselves.
        Err(error) => assert!(error.is_user() || error.to_string().contains("http2"), "{error}"),
    }
    let fits = "x".repeat(8 * 1024);
    let request = site.request("GET", &host, "/").header("x-large", fits).body(none()).expect("a request");
    assert_eq!(site.h1().await.send_request(request).await.expect("an answer").status(), 200);
}

#[tokio::test]
async fn case_33_oversized_bodies_are_refused() {
    let site = Site::with(|limits| limits.max_request_body = 1000).await;
    let host = site.app(app(|request| async { Response::new(text(collect(request).await)) }).await);
    let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\nconnection: close\r\n", site.key);
    let answer = site.raw(&format!("{head}content-length: 1001\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("1000 bytes at most"), "{answer}");
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    let answer = site.raw(&format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413 ") && answer.contains("x-leapbox-error"), "{answer}");
    let answer = site.raw(&format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let request = site.request2("POST", &host, "/").body(text("x".repeat(1001))).expect("a request");
    assert_eq!(soon(site.h2().await.send_request(request)).await.expect("an answer").status(), 413);
}

async fn collect(request: http::Request<hyper::body::Incoming>) -> bytes::Bytes {
    request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

#[tokio::test]
async fn a_full_sandbox_asks_to_come_back_and_others_are_not_affected() {
    let site = Site::with(|limits| limits.max_requests_per_sandbox = 2).await;
    let host = site.app(silent().await);
    let mut sender = site.h2().await;
    let request = || site.request2("GET", &host, "/").body(none()).expect("a request");
    let waiting = [tokio::spawn(sender.send_request(request())), tokio::spawn(sender.send_request(request()))];
    until("two are inside", || site.gateway.stats().upstream_opened == 2).await;
    let answer = soon(sender.send_request(request())).await.expect("an answer");
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(read(answer).await.contains("too many open requests"));
    for waiting in waiting {
        waiting.abort();
    }
    site.listens(8080, hello().await);
    let begin = Instant::now();
    while soon(sender.send_request(request())).await.expect("an answer").status() != 200 {
        assert!(begin.elapsed() < super::support::PATIENCE, "no place was given back");
    }
}

#[tokio::test]
async fn too_many_connections_are_told_so() {
    let site = Site::with(|limits| limits.max_connections = 2).await;
    let host = site.app(hello().await);
    let _held = [site.tls(&[]).await, site.tls(&[]).await];
    for version in [1, 2] {
        let answer = match version {
            1 => site.get(&host, "/").await,
            _ => {
                let request = site.request2("GET", &host, "/").body(none()).expect("a request");
                site.h2().await.send_request(request).await.expect("an answer")
            }
        };
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["retry-after"], "1");
    }
    assert_eq!(site.gateway.stats().connections_refused, 2);
    until("they are let go", || site.gateway.stats().connections_open == 2).await;
}

#[tokio::test]
async fn deadlines_are_answered_with_504() {
    let site = Site::with(|limits| (limits.response_head, limits.wake) = (SHORT, SHORT)).await;
    let host = site.app(silent().await);
    let answer = soon(site.get(&host, "/")).await;
    assert_eq!(answer.status(), 504);
    assert!(read(answer).await.contains("on port 8080 in sandbox"));
    site.slow(Duration::from_secs(600));
    let answer = soon(site.get(&host, "/")).await;
    assert_eq!(answer.status(), 504);
    assert!(read(answer).await.contains("was not ready in"));
}

#[tokio::test]
async fn a_deadline_for_the_answer_does_not_run_during_the_upload() {
    let site = Site::with(|limits| limits.response_head = SHORT).await;
    let host = site.app(app(|request| async { Response::new(text(collect(request).await)) }).await);
    let mut stream = site.tls(&[]).await;
    let key = &site.key;
    let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {key}\r\ncontent-length: 9\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("written");
    for _ in 0..9 {
        tokio::time::sleep(SHORT / 4).await;
        stream.write_all(b"x").await.expect("written");
    }
    assert!(soon(read_head(&mut stream)).await.starts_with("HTTP/1.1 200 "));
}

fn impatient(limits: &mut Limits) {
    (limits.stream_idle, limits.keep_alive_idle) = (SHORT, SHORT);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_cut() {
    let site = Site::with(impatient).await;
    let address = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        socket.write_all(b"HTTP/1.1 200 OK\r\n\r\nsome").await.expect("written");
        let _rest = socket.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let host = site.app(address);
    assert!(soon(site.get(&host, "/").await.into_body().collect()).await.is_err());
    assert_eq!(site.gateway.stats().connections_stalled, 1);

    let mut stream = site.tls(&[]).await;
    let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\ncontent-length: 9\r\n\r\nx", site.key);
    site.listens(8080, silent().await);
    stream.write_all(head.as_bytes()).await.expect("written");
    let _ended = soon(stream.read_to_end(&mut Vec::new())).await;
    assert_eq!(site.gateway.stats().connections_stalled, 2);
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_cut() {
    let site = Site::with(impatient).await;
    let address = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        let block = vec![b'x'; 64 * 1024];
        let mut written = socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while written.is_ok() {
            written = socket.write_all(&block).await;
        }
    })
    .await;
    let host = site.app(address);
    let answer = site.get(&host, "/").await;
    until("it is cut", || site.gateway.stats().connections_stalled == 1).await;
    drop(answer);
}

#[tokio::test]
async fn an_unused_http2_connection_is_closed() {
    let site = Site::with(impatient).await;
    let host = site.app(hello().await);
    let mut sender = site.h2().await;
    let request = site.request2("GET", &host, "/").body(none()).expect("a request");
    assert_eq!(sender.send_request(request).await.expect("an answer").status(), 200);
    until("it is closed", || site.gateway.stats().connections_open == 0).await;
    assert_eq!(site.gateway.stats().connections_stalled, 0);
}

#[tokio::test]
async fn shutdown_lets_open_requests_end_and_cuts_the_rest() {
    let mut site = Site::with(|limits| limits.drain = 2 * SHORT).await;
    let slow = app(|_| async {
        tokio::time::sleep(SHORT).await;
        Response::new(text("late"))
    })
    .await;
    let host = site.app(slow);
    let mut sender = site.h1().await;
    let request = site.request("GET", &host, "/").body(none()).expect("a request");
    let finishing = tokio::spawn(async move { read(sender.send_request(request).await.expect("an answer")).await });
    let stuck = site.host(9090);
    site.listens(9090, silent().await);
    let mut sender = site.h1().await;
    let request = site.request("GET", &stuck, "/").body(none()).expect("a request");
    let hanging = tokio::spawn(async move { sender.send_request(request).await.is_err() });
    until("both are inside", || site.gateway.stats().upstream_opened == 2).await;
    site.stop();
    assert_eq!(soon(finishing).await.expect("joined"), "late");
    assert!(soon(hanging).await.expect("joined"), "what hangs is cut");
    soon(&mut site.served).await.expect("serving ends");
    assert_eq!(site.gateway.stats().connections_open, 0);
    assert!(TcpStream::connect(site.address).await.is_err());
}
