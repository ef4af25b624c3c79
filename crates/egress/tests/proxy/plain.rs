//! Plain HTTP/1: every request of a connection is judged.

use crate::support::*;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const OK: &[u8] = b"\r\n\r\nok";

async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.expect("write");
    String::from_utf8_lossy(&read_until(stream, OK).await).into_owned()
}

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

#[test]
fn requests_for_one_allowed_host_pass_unchanged_on_a_kept_connection() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let mut stream = world.connect(OTHER, 80).await;
        let requests = [
            "GET /a?b=c HTTP/1.1\r\nHost: WWW.good.example\r\nX-Odd:   spaces \r\n\r\n".to_owned(),
            "POST /b HTTP/1.1\r\nHost: www.good.example.\r\nContent-Length: 5\r\n\r\nhello".to_owned(),
            "PUT /c HTTP/1.1\r\nhost: www.good.example:80\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nSum: 1\r\n\r\n"
                .to_owned(),
            "OPTIONS * HTTP/1.1\r\nHost: www.good.example\r\n\r\n".to_owned(),
        ];
        for request in &requests {
            assert!(ask(&mut stream, request).await.starts_with("HTTP/1.1 200 OK"), "{request}");
        }
        assert_eq!(text(&server), requests.concat());
        assert_eq!(world.journal.snapshot().connections[1], ("http", 1));
    });
}

#[test]
fn a_body_that_looks_like_a_request_is_a_body_and_pipelined_requests_are_requests() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let smuggled = get("/smuggled", "evil.example");
        let length = smuggled.len();
        let request =
            format!("POST / HTTP/1.1\r\nHost: www.good.example\r\nContent-Length: {length}\r\n\r\n{smuggled}");
        let mut stream = world.connect(GOOD, 80).await;
        ask(&mut stream, &format!("{request}{}", get("/next", "www.good.example"))).await;
        eventually("both", || text(&server), |seen| seen.ends_with("/next HTTP/1.1\r\nHost: www.good.example\r\n\r\n"))
            .await;
        assert!(text(&server).starts_with(&request));
    });
}

#[test]
fn a_large_body_streams_through() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let mut stream = world.connect(GOOD, 80).await;
        let body = "0123456789abcdef".repeat(1 << 17);
        let head = format!("POST / HTTP/1.1\r\nHost: www.good.example\r\nContent-Length: {}\r\n\r\n", body.len());
        ask(&mut stream, &format!("{head}{body}")).await;
        eventually("all", || server.lock().expect("lock").len(), |n| *n == head.len() + body.len()).await;
        assert!(text(&server).ends_with(&body));
    });
}

#[test]
fn another_host_on_the_same_connection_is_421_and_reaches_nobody() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let posted =
            "POST / HTTP/1.1\r\nHost: www.good.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for first in [&*get("/", "www.good.example"), posted] {
            for other in ["evil.example", "good.example"] {
                let mut stream = world.connect(GOOD, 80).await;
                ask(&mut stream, first).await;
                stream.write_all(get("/secret", other).as_bytes()).await.expect("write");
                assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 421 "));
            }
        }
        assert!(!text(&server).contains("/secret"));
        eventually("counted", || world.denials("authority"), |n| *n == 4).await;
    });
}

#[test]
fn a_host_that_is_not_allowed_is_403_with_a_reason() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        for host in ["evil.example", "evilgood.example", "93.184.216.34", "0x5db8d822", "[::1]", "1572395042"] {
            let mut stream = world.connect(GOOD, 80).await;
            stream.write_all(get("/", host).as_bytes()).await.expect("write");
            let answer = read_all(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{host}: {answer}");
            assert!(answer.contains("Leapbox"), "{answer}");
        }
        assert_eq!(text(&server), "");
    });
}

/// Requests that two implementations are known to read differently.
const AMBIGUOUS: &[(&str, &str)] = &[
    ("two hosts", "GET / HTTP/1.1\r\nHost: www.good.example\r\nHost: evil.example\r\n\r\n"),
    ("the same host twice", "GET / HTTP/1.1\r\nHost: www.good.example\r\nHost: www.good.example\r\n\r\n"),
    ("a list of hosts", "GET / HTTP/1.1\r\nHost: www.good.example, evil.example\r\n\r\n"),
    ("a user in the host", "GET / HTTP/1.1\r\nHost: www.good.example@evil.example\r\n\r\n"),
    ("no host", "GET / HTTP/1.1\r\nAccept: */*\r\n\r\n"),
    ("absolute form", "GET http://evil.example/ HTTP/1.1\r\nHost: www.good.example\r\n\r\n"),
    ("absolute form of the host", "GET http://www.good.example/ HTTP/1.1\r\nHost: www.good.example\r\n\r\n"),
    ("authority form", "CONNECT evil.example:443 HTTP/1.1\r\nHost: www.good.example\r\n\r\n"),
    ("obs-fold", "GET / HTTP/1.1\r\nHost: www.good.example\r\nX: a\r\n b\r\n\r\n"),
    ("folded host", "GET / HTTP/1.1\r\nHost:\r\n www.good.example\r\n\r\n"),
    (
        "both lengths",
        "POST / HTTP/1.1\r\nHost: www.good.example\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("two lengths", "POST / HTTP/1.1\r\nHost: www.good.example\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n"),
    ("signed length", "POST / HTTP/1.1\r\nHost: www.good.example\r\nContent-Length: +3\r\n\r\nabc"),
    ("odd coding", "POST / HTTP/1.1\r\nHost: www.good.example\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    (
        "chunked twice",
        "POST / HTTP/1.1\r\nHost: www.good.example\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    ),
    ("unknown coding", "POST / HTTP/1.1\r\nHost: www.good.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("blank before colon", "GET / HTTP/1.1\r\nHost : www.good.example\r\n\r\n"),
    ("bare LF", "GET / HTTP/1.1\nHost: www.good.example\n\n"),
    ("bare CR", "GET / HTTP/1.1\r\nHost: www.good.example\r\nX: a\rb\r\n\r\n"),
    ("leading CRLF", "\r\nGET / HTTP/1.1\r\nHost: www.good.example\r\n\r\n"),
    ("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("HTTP/0.9", "GET /\r\n\r\n"),
    ("HTTP/1.2", "GET / HTTP/1.2\r\nHost: www.good.example\r\n\r\n"),
    ("NUL", "GET / HTTP/1.1\r\nHost: www.good.example\r\nX: \0\r\n\r\n"),
];

#[test]
fn an_ambiguous_request_is_400_and_reaches_nobody_first_or_later() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let fine = get("/fine", "www.good.example");
        for (n, (what, request)) in AMBIGUOUS.iter().enumerate() {
            let mut stream = world.connect(GOOD, 80).await;
            stream.write_all(request.as_bytes()).await.expect("write");
            let answer = read_all(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");

            let mut stream = world.connect(GOOD, 80).await;
            ask(&mut stream, &fine).await;
            stream.write_all(request.as_bytes()).await.expect("write");
            let answer = read_all(&mut stream).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "later, {what}: {answer}");
            assert_eq!(text(&server), fine.repeat(n + 1), "{what}");
        }
    });
}

#[test]
fn a_body_that_breaks_its_framing_is_400_and_what_follows_reaches_nobody() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let mut stream = world.connect(GOOD, 80).await;
        let head = "POST / HTTP/1.1\r\nHost: www.good.example\r\nTransfer-Encoding: chunked\r\n\r\n";
        ask(&mut stream, head).await;
        let bad = format!("0x5\r\nhello\r\n0\r\n\r\n{}", get("/secret", "evil.example"));
        stream.write_all(bad.as_bytes()).await.expect("write");
        assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 400 "));
        assert_eq!(text(&server), head);
    });
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: www.good.example\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\r\n";

#[test]
fn after_101_a_websockets_bytes_pass_opaquely() {
    in_world(good(), async |world| {
        server(GOOD, 80, b"", |piece| {
            if piece.starts_with(b"GET ") {
                b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec()
            } else {
                piece.to_vec()
            }
        })
        .await;
        let mut stream = world.connect(GOOD, 80).await;
        // Frames right behind the request wait, and come after the switch.
        stream.write_all(format!("{UPGRADE}\x01frame one").as_bytes()).await.expect("write");
        let answer = read_until(&mut stream, b"frame one").await;
        assert!(String::from_utf8_lossy(&answer).contains("101 Switching"), "{answer:?}");
        stream.write_all(b"\x02frame two").await.expect("write");
        read_until(&mut stream, b"frame two").await;
    });
}

#[test]
fn an_upgrade_that_the_server_ignores_opens_nothing() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let mut stream = world.connect(GOOD, 80).await;
        let sly = format!("{UPGRADE}{}", get("/secret", "evil.example"));
        stream.write_all(sly.as_bytes()).await.expect("write");
        assert!(read_all(&mut stream).await.contains("HTTP/1.1 421 "));
        assert_eq!(text(&server), UPGRADE);
    });
}

#[test]
fn an_upgrade_to_anything_else_or_of_a_later_request_is_taken_out() {
    in_world(good(), async |world| {
        let server = web(GOOD, 80).await;
        let mut stream = world.connect(GOOD, 80).await;
        let host = "Host: www.good.example";
        ask(&mut stream, &format!("GET / HTTP/1.1\r\n{host}\r\nUpgrade: h2c\r\nA: 1\r\n\r\n")).await;
        ask(&mut stream, &format!("GET / HTTP/1.1\r\n{host}\r\nupgrade: TLS/1.0\r\n\r\n")).await;
        ask(&mut stream, &format!("GET / HTTP/1.1\r\n{host}\r\nUpgrade: websocket\r\n\r\n")).await;
        let plain = format!("GET / HTTP/1.1\r\n{host}\r\n\r\n");
        assert_eq!(text(&server), format!("GET / HTTP/1.1\r\n{host}\r\nA: 1\r\n\r\n{plain}{plain}"));
    });
}

#[test]
fn to_a_transforms_domain_no_secret_goes_in_the_clear_and_none_of_the_guests_own_headers() {
    let policy = json!({
        "mode": "custom",
        "transforms": [{
            "domain": "www.good.example",
            "inject_headers": { "Authorization": "Bearer secret", "X-Api-Key": "secret" },
            "strip_headers": ["X-Debug"],
        }],
    });
    in_world(policy, async |world| {
        let server = web(GOOD, 80).await;
        let mut stream = world.connect(GOOD, 80).await;
        let request = "GET / HTTP/1.1\r\nauthorization: mine\r\nHost: www.good.example\r\nX_API_KEY: mine\r\n\
                       X-DEBUG: 1\r\nKept: yes\r\n\r\n";
        for _ in 0..2 {
            ask(&mut stream, request).await;
        }
        let expected = "GET / HTTP/1.1\r\nHost: www.good.example\r\nKept: yes\r\n\r\n";
        assert_eq!(text(&server), expected.repeat(2));
    });
}
