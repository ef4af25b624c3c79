//! What a request looks like when it arrives, and which requests arrive at all.

use crate::server::Server;
use crate::support::{API, PublicCa, SECRET, Sandbox, empty, full, in_world, run};
use futures::{SinkExt, StreamExt};
use http::{Method, Request, StatusCode, Version};
use http_body_util::BodyExt;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

const AT: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);

/// A server for the transform's domain, and a sandbox.
async fn world(alpn: &[&str]) -> (Server, Sandbox) {
    let ca = PublicCa::new();
    let server = Server::start(AT, ca.issue(API), alpn).await;
    (server, Sandbox::start(&ca, &[(API, AT)]).await)
}

fn assert_transformed(server: &Server) {
    let seen = server.last();
    assert_eq!(seen.header("authorization"), Some(SECRET));
    assert_eq!(seen.header("x-team"), Some("blue"));
    assert_eq!(seen.header("x-debug"), None);
    assert_eq!(seen.header("x-mine"), Some("kept"));
}

#[test]
fn headers_are_injected_replaced_and_stripped_in_every_request_of_a_kept_connection() {
    in_world(|| async {
        let (server, sandbox) = world(&["http/1.1"]).await;
        let mut guest = sandbox.http1(API, AT).await;
        for n in 0..3 {
            let request = Request::get(format!("/hello?n={n}"))
                .header("host", API)
                .header("authorization", "the guest's own")
                .header("authorization", "and another")
                .header("x-debug", "1")
                .header("x_team", "red")
                .header("x-mine", "kept")
                .body(empty());
            guest.ready().await.expect("ready");
            let answer = guest.send_request(request.expect("a request")).await.expect("an answer");
            assert_eq!(
                (answer.status(), &answer.headers()["x-from"]),
                (StatusCode::OK, &"upstream".parse().expect(""))
            );
            assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "hello");
            assert_transformed(&server);
            assert_eq!(server.last().header("x_team"), None);
            assert_eq!(server.last().uri.to_string(), format!("/hello?n={n}"));
        }
        assert_eq!(server.connections(), 1);
    });
}

#[test]
fn the_same_over_http2_with_many_requests_at_once() {
    in_world(|| async {
        let (server, sandbox) = world(&["h2", "http/1.1"]).await;
        let guest = sandbox.http2(API, AT).await;
        let requests = (0..50).map(|n| {
            let mut guest = guest.clone();
            async move {
                let request = Request::get(format!("https://{API}/hello?n={n}"))
                    .header("authorization", "the guest's own")
                    .header("x-debug", "1")
                    .header("x-mine", "kept")
                    .body(empty());
                let answer = guest.send_request(request.expect("a request")).await.expect("an answer");
                assert_eq!(answer.status(), StatusCode::OK);
                assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "hello");
            }
        });
        futures::future::join_all(requests).await;
        assert_transformed(&server);
        let seen = server.seen();
        assert_eq!((seen.len(), server.connections()), (50, 1));
        assert!(
            seen.iter().all(|seen| seen.version == Version::HTTP_2 && seen.header("authorization") == Some(SECRET))
        );
        assert_eq!(seen[0].uri.authority().map(|authority| authority.as_str()), Some(API));
    });
}

#[test]
fn the_connection_header_does_not_drop_what_is_injected() {
    in_world(|| async {
        let (server, sandbox) = world(&["http/1.1"]).await;
        let mut guest = sandbox.http1(API, AT).await;
        let request = Request::get("/hello")
            .header("host", API)
            .header("connection", "authorization, x-team, host, x-hop")
            .header("x-hop", "1")
            .header("x-mine", "kept")
            .body(empty());
        let answer = guest.send_request(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_transformed(&server);
        assert_eq!((server.last().header("host"), server.last().header("x-hop")), (Some(API), None));
    });
}

#[test]
fn case_19_another_authority_than_the_sni_is_refused_in_any_request_of_a_kept_connection() {
    in_world(|| async {
        let (server, sandbox) = world(&["http/1.1"]).await;
        let mut guest = sandbox.http1(API, AT).await;
        for (host, expected) in
            [(API, 200), ("other.example.com", 421), ("API.example.com.:443", 200), ("evil.com", 421)]
        {
            guest.ready().await.expect("ready");
            let request = Request::get("/hello").header("host", host).body(empty()).expect("a request");
            let answer = guest.send_request(request).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), expected, "{host}");
            let text = answer.into_body().collect().await.expect("a body").to_bytes();
            assert!(expected == 200 || text.starts_with(b"Leapbox"), "{text:?}");
        }
        assert_eq!((server.seen().len(), sandbox.denials("authority")), (2, 2));
        assert!(server.seen().iter().all(|seen| seen.header("host") == Some(API)));
    });
}

#[test]
fn case_19_another_authority_than_the_sni_is_refused_over_http2() {
    in_world(|| async {
        let (server, sandbox) = world(&["h2"]).await;
        let mut guest = sandbox.http2(API, AT).await;
        let ask = |uri: &str, host: Option<&str>| {
            let mut request = Request::post(uri);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            guest.send_request(request.body(full("body")).expect("a request"))
        };
        let mut ask = ask;
        let table = [
            ("https://api.example.com/hello", None, 200),
            ("https://other.example.com/hello", None, 421),
            ("https://other.example.com/hello", Some(API), 421),
            ("https://api.example.com/hello", Some("other.example.com"), 421),
            ("https://api.example.com/hello", Some(API), 200),
        ];
        for (uri, host, expected) in table {
            let answer = ask(uri, host).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), expected, "{uri} {host:?}");
        }
        assert_eq!((server.seen().len(), sandbox.denials("authority")), (2, 3));
    });
}

#[test]
fn case_22_two_hosts_and_authorities_that_differ_are_bad_requests() {
    in_world(|| async {
        let (server, sandbox) = world(&["http/1.1"]).await;
        let bad = [
            "GET / HTTP/1.1\r\nHost: api.example.com\r\nHost: api.example.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: api.example.com\r\nhost: other.example.com\r\n\r\n",
            "GET https://other.example.com/ HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "CONNECT other.example.com:443 HTTP/1.1\r\nHost: api.example.com\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: api.example.com\r\nX: a\r\n b\r\n\r\n",
        ];
        for request in bad {
            let mut guest = sandbox.tls(API, AT, &["http/1.1"]).await.expect("TLS");
            guest.write_all(request.as_bytes()).await.expect("written");
            let mut answer = [0; 12];
            guest.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 400", "{request}");
        }
        assert_eq!(server.seen().len(), 0);
    });
}

#[test]
fn case_22_a_request_smuggled_behind_a_length_is_one_of_its_own() {
    in_world(|| async {
        let (server, sandbox) = world(&["http/1.1"]).await;
        let mut guest = sandbox.tls(API, AT, &["http/1.1"]).await.expect("TLS");
        let smuggled = "GET /smuggled HTTP/1.1\r\nHost: other.example.com\r\n\r\n";
        let request = format!(
            "POST /hash HTTP/1.1\r\nHost: api.example.com\r\nContent-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n\
             0\r\n\r\n{smuggled}",
            5 + smuggled.len(),
        );
        guest.write_all(request.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        guest.read_to_end(&mut answer).await.ok();
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        let seen = server.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].uri.path(), seen[0].header("content-length")), ("/hash", None));
    });
}

#[test]
fn a_websocket_carries_the_injected_header_and_echoes() {
    in_world(|| async {
        let (server, sandbox) = world(&["h2", "http/1.1"]).await;
        let stream = sandbox.tls(API, AT, &["http/1.1"]).await.expect("TLS");
        let request = format!("wss://{API}/ws");
        let (mut socket, answer) = tokio_tungstenite::client_async(request, stream).await.expect("a WebSocket");
        assert_eq!(answer.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(server.last().header("authorization"), Some(SECRET));
        for message in [Message::text("hello"), Message::binary(vec![7; 200_000])] {
            socket.send(message.clone()).await.expect("sent");
            assert_eq!(socket.next().await.expect("a message").expect("whole"), message);
        }
        socket.close(None).await.expect("closed");
        while socket.next().await.is_some() {}
    });
}

#[test]
fn no_other_protocol_is_upgraded_to() {
    in_world(|| async {
        let (server, sandbox) = world(&["http/1.1"]).await;
        let mut guest = sandbox.http1(API, AT).await;
        let request = Request::get("/hello")
            .header("host", API)
            .header("connection", "Upgrade, HTTP2-Settings")
            .header("upgrade", "h2c")
            .header("http2-settings", "AAMAAABkAAQAAP__")
            .body(empty());
        let answer = guest.send_request(request.expect("a request")).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        let seen = server.last();
        assert_eq!(
            (seen.header("upgrade"), seen.header("http2-settings"), seen.header("connection")),
            (None, None, None)
        );
    });
}

#[test]
fn a_guest_without_alpn_gets_http1_and_head_and_empty_answers_stay_so() {
    in_world(|| async {
        let (server, sandbox) = world(&["h2", "http/1.1"]).await;
        let stream = sandbox.tls(API, AT, &[]).await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut guest, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        let table = [(Method::HEAD, "/hello", 200), (Method::GET, "/empty", 204), (Method::GET, "/cached", 304)];
        for (method, path, expected) in table {
            guest.ready().await.expect("ready");
            let request = Request::builder().method(method.clone()).uri(path).header("host", API).body(empty());
            let answer = guest.send_request(request.expect("a request")).await.expect("an answer");
            assert_eq!(answer.status().as_u16(), expected, "{path}");
            let length = answer.headers().get("content-length").map(|length| length.to_str().expect("text").to_owned());
            assert_eq!(length.as_deref(), (method == Method::HEAD).then_some("5"), "{path}");
            assert!(!answer.headers().contains_key("transfer-encoding"), "{path}");
            assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "");
        }
        assert_eq!(server.connections(), 1);
    });
}

#[test]
fn curl_is_served_over_both_versions_of_http() {
    in_world(|| async {
        let (server, sandbox) = world(&["h2", "http/1.1"]).await;
        let folder = tempfile::tempdir().expect("a folder");
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, sandbox.authority.certificate_pem()).expect("written");
        let (ca, resolve) = (ca.to_str().expect("a path").to_owned(), format!("{API}:443:{AT}"));
        let (old, new) = (["--http1.1", "--tls-max", "1.2"], ["--http2", "--tlsv1.3", "-4"]);
        for (flags, version) in [(old, Version::HTTP_11), (new, Version::HTTP_2)] {
            let (ca, resolve) = (ca.clone(), resolve.clone());
            let body = tokio::task::spawn_blocking(move || {
                let url = format!("https://{API}/echo");
                let arguments = ["-sS", "--cacert", &ca, "--resolve", &resolve, "-H", "Expect: 100-continue"];
                let arguments = [&flags[..], &arguments[..]].concat();
                run("curl", &[&arguments[..], &["-H", "X-Mine: kept", "--data-binary", "@-", &url]].concat(), "a body")
            });
            assert_eq!(body.await.expect("curl"), "a body");
            assert_transformed(&server);
            assert_eq!((server.last().version, server.last().header("expect")), (version, None));
        }
    });
}
