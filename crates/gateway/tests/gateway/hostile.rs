//! Applications that do not speak HTTP as they should.

use super::support::{Site, none, raw_app, read, read_head, scripted, soon};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn answers_that_are_not_http_are_502_with_a_reason() {
    let site = Site::with(|limits| limits.max_header_bytes = 16 * 1024).await;
    let large: &'static str = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(20 * 1024)).leak();
    let many: &'static str =
        format!("HTTP/1.1 200 OK\r\n{}\r\n", (0..500).map(|n| format!("x-{n}: 1\r\n")).collect::<String>()).leak();
    let table = [
        ("", "closed the connection without answering"),
        ("HTTP/1.1 200 OK\r\nconten", "closed the connection without answering"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "is not HTTP/1.1"),
        ("<html>no status line, as HTTP/0.9 had none</html>", "is not HTTP/1.1"),
        ("HTTP/1.1 20 OK\r\n\r\n", "is not HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\nbad header\r\n\r\n", "is not HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\na: 1\r\n folded\r\n\r\n", "is not HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx", "is not HTTP/1.1"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\nxx", "is not HTTP/1.1"),
        ("HTTP/1.1 101 Switching\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", "without being asked"),
        ("\x00\x01\x02\x03", "is not HTTP/1.1"),
        (large, "headers of more than 16384 bytes"),
        (many, ""),
    ];
    for (answer, why) in table {
        let (address, _) = scripted(answer).await;
        let host = site.app(address);
        let response = soon(site.get(&host, "/")).await;
        assert_eq!(response.status(), 502, "{answer}");
        assert_eq!(response.headers()["x-leapbox-error"], "gateway", "{answer}");
        let body = read(response).await;
        assert!(body.contains(why) && body.contains("port 8080"), "{answer} gave {body}");
    }
}

#[tokio::test]
async fn endless_interim_answers_end_with_the_deadline() {
    let site = Site::with(|limits| limits.response_head = Duration::from_millis(500)).await;
    let address = raw_app(|mut socket| async move {
        read_head(&mut socket).await;
        while socket.write_all(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let host = site.app(address);
    assert_eq!(soon(site.get(&host, "/")).await.status(), 504);
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_broken_off_for_the_client() {
    let site = Site::start().await;
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let (address, _) = scripted(answer).await;
        let host = site.app(address);
        let request = site.request2("GET", &host, "/").body(none()).expect("a request");
        let over_h2 = site.h2().await.send_request(request).await.expect("an answer");
        for response in [site.get(&host, "/").await, over_h2] {
            assert_eq!(response.status(), 200);
            assert!(soon(response.into_body().collect()).await.is_err(), "{answer}");
        }
    }
}

#[tokio::test]
async fn what_an_application_sends_beyond_its_answer_reaches_nobody() {
    let site = Site::start().await;
    let address = raw_app(|mut socket| async move {
        // A second answer that nobody asked for, to be taken for that of the next request.
        let answer =
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrueHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfalse";
        while !read_head(&mut socket).await.is_empty() {
            if socket.write_all(answer.as_bytes()).await.is_err() {
                break;
            }
        }
    })
    .await;
    let host = site.app(address);
    let mut sender = site.h1().await;
    for _ in 0..4 {
        let request = site.request("GET", &host, "/").body(none()).expect("a request");
        assert_eq!(read(sender.send_request(request).await.expect("an answer")).await, "true");
    }
}

#[tokio::test]
async fn a_length_beside_chunks_is_not_believed() {
    let site = Site::start().await;
    let (address, _) = scripted(
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
    )
    .await;
    let host = site.app(address);
    let answer = site.get(&host, "/").await;
    assert!(!answer.headers().contains_key("content-length"));
    assert_eq!(read(answer).await, "four");
}
