//! WebSockets over both versions of HTTP.

use super::support::{Site, none, raw_app, read, read_head, scripted, soon, until};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::Request;
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

async fn echo() -> std::net::SocketAddr {
    raw_app(|socket| async {
        let mut socket = accept_async(socket).await.expect("a WebSocket");
        while let Some(Ok(message)) = socket.next().await {
            let is_data = message.is_text() || message.is_binary();
            if message.is_close() || (is_data && socket.send(message).await.is_err()) {
                break;
            }
        }
        let _closed = socket.close(None).await;
    })
    .await
}

async fn open(site: &Site, host: &str) -> WebSocketStream<super::support::Tcp> {
    let mut request = format!("wss://{host}/ws?x=1").into_client_request().expect("a request");
    request.headers_mut().insert("authorization", site.key.parse().expect("a value"));
    let stream = site.tls(&["http/1.1"]).await;
    soon(client_async(request, stream)).await.expect("a WebSocket").0
}

#[tokio::test]
async fn messages_pass_both_ways_and_the_close_too() {
    let site = Site::start().await;
    let host = site.app(echo().await);
    let mut socket = open(&site, &host).await;
    let large = Bytes::from(vec![7u8; 3 * 1024 * 1024]);
    for message in [Message::text("hello"), Message::binary(large), Message::Ping(Bytes::from_static(b"p"))] {
        soon(socket.send(message.clone())).await.expect("sent");
        let answer = soon(socket.next()).await.expect("a message").expect("a message");
        match message {
            Message::Ping(data) => assert_eq!(answer, Message::Pong(data)),
            _ => assert_eq!(answer, message),
        }
    }
    soon(socket.close(None)).await.expect("closed");
    while let Some(Ok(message)) = soon(socket.next()).await {
        assert!(message.is_close() || message.is_ping(), "{message:?}");
    }
    drop(socket);
    until("the tunnel has gone", || site.gateway.stats().connections_open == 0).await;
    let stats = site.gateway.stats();
    assert_eq!((stats.tunnels, stats.tunnels_idle), (1, 0));
}

#[tokio::test]
async fn http2_opens_websockets_by_extended_connect() {
    let site = Site::start().await;
    let host = site.app(echo().await);
    let mut sender = site.h2().await;
    // The peer's settings, which allow it, come with its first answer.
    soon(sender.send_request(site.request2("GET", &site.host(1), "/").body(none()).expect("a request")))
        .await
        .expect("an answer");
    let request = site
        .request2("CONNECT", &host, "/ws")
        .extension(Protocol::from_static("websocket"))
        .header("sec-websocket-version", "13");
    let answer = soon(sender.send_request(request.body(none()).expect("a request"))).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert!(!answer.headers().contains_key("sec-websocket-accept"));
    let upgraded = TokioIo::new(soon(hyper::upgrade::on(answer)).await.expect("upgraded"));
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    soon(socket.send(Message::text("hello"))).await.expect("sent");
    assert_eq!(soon(socket.next()).await.expect("a message").expect("a message"), Message::text("hello"));
    soon(socket.close(None)).await.expect("closed");
}

#[tokio::test]
async fn case_33_an_idle_websocket_is_closed_in_order_and_a_busy_one_is_not() {
    let idle = Duration::from_secs(1);
    let site = Site::with(|limits| limits.websocket_idle = idle).await;
    let host = site.app(echo().await);
    let mut socket = open(&site, &host).await;
    let begin = Instant::now();
    let mut last = begin;
    while begin.elapsed() < 2 * idle {
        last = Instant::now();
        soon(socket.send(Message::text("x"))).await.expect("sent");
        soon(socket.next()).await.expect("a message").expect("a message");
        tokio::time::sleep(idle / 8).await;
    }
    let mut stream = socket.into_inner();
    // An orderly end: close_notify, not a reset.
    let read = soon(stream.read(&mut [0; 1])).await;
    assert_eq!(read.expect("an orderly end"), 0);
    assert!(last.elapsed() >= idle, "{:?}", last.elapsed());
    assert_eq!(site.gateway.stats().tunnels_idle, 1);
}

#[tokio::test]
async fn one_side_may_end_before_the_other() {
    let site = Site::start().await;
    let address = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        socket.write_all(head.as_bytes()).await.expect("written");
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.expect("the client's end");
        socket.write_all(&all).await.expect("written");
    })
    .await;
    let host = site.app(address);
    let head = format!(
        "GET / HTTP/1.1\r\nhost: {host}\r\nauthorization: {}\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\r\n",
        site.key
    );
    let mut stream = site.tls(&[]).await;
    stream.write_all(head.as_bytes()).await.expect("written");
    let answer = soon(read_head(&mut stream)).await;
    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains("upgrade: websocket"), "{answer}");
    stream.write_all(b"all of it").await.expect("written");
    stream.shutdown().await.expect("half-closed");
    let mut back = String::new();
    soon(stream.read_to_string(&mut back)).await.expect("read");
    assert_eq!(back, "all of it");
}

#[tokio::test]
async fn an_application_that_declines_is_passed_on() {
    let site = Site::start().await;
    let (address, _) = scripted("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 4\r\n\r\nnope").await;
    let host = site.app(address);
    let request = site.request("GET", &host, "/").header("connection", "upgrade").header("upgrade", "websocket");
    let request = request.body(none()).expect("a request");
    let answer = site.h1().await.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 426);
    assert_eq!(read(answer).await, "nope");
}

#[tokio::test]
async fn only_websockets_are_upgraded_to() {
    let site = Site::start().await;
    let (address, seen) = scripted("HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n").await;
    let host = site.app(address);
    let request = site.request("GET", &host, "/").header("connection", "upgrade").header("upgrade", "h2c");
    let answer = site.h1().await.send_request(request.body(none()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), 502);
    assert!(!super::support::heads(&seen)[0].to_ascii_lowercase().contains("upgrade"));
    let request = site.request("GET", &host, "/").header("connection", "upgrade").header("upgrade", "websocket");
    let answer = site.h1().await.send_request(request.body(none()).expect("a request")).await.expect("an answer");
    assert_eq!(answer.status(), 502);

    let request = Request::connect(format!("{host}:443")).header("authorization", &site.key);
    let request = request.body(none()).expect("a request");
    assert_eq!(site.h2().await.send_request(request).await.expect("an answer").status(), 405);
}
