//! Protocols that show no name: the server speaks first, or nobody is let through.

use crate::support::*;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const BANNER: &[u8] = b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n";

async fn greeter(address: Ipv4Addr, port: u16) -> Seen {
    server(address, port, BANNER, <[u8]>::to_vec).await
}

async fn said(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("write");
}

#[test]
fn a_server_that_speaks_first_is_reached_at_an_address_that_was_answered_for_an_allowed_name() {
    in_world(good(), async |world| {
        let server = greeter(GOOD, 22).await;
        world.names.answer("git.good.example", GOOD);
        // Many clients wait, OpenSSH does not.
        for first in [&b""[..], b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", b"\0\0binary"] {
            let mut stream = world.connect(GOOD, 22).await;
            said(&mut stream, first).await;
            assert!(read_until(&mut stream, BANNER).await.starts_with(BANNER));
            said(&mut stream, b"the guest's turn").await;
            read_until(&mut stream, b"the guest's turn").await;
        }
        assert!(text(&server).contains("\0\0binarythe guest's turn"));
        assert_eq!(world.journal.snapshot().connections[2], ("server_first", 3));
    });
}

#[test]
fn an_address_that_was_not_answered_or_for_a_name_that_is_not_allowed_is_refused() {
    in_world(good(), async |world| {
        let (good, other) = (greeter(GOOD, 22).await, greeter(OTHER, 22).await);
        world.names.answer("evil.example", OTHER);
        for address in [GOOD, OTHER] {
            let mut stream = world.connect(address, 22).await;
            said(&mut stream, b"\0\0binary").await;
            assert_eq!(read_all(&mut stream).await, "");
        }
        assert_eq!(world.denials("no_name"), 2);
        assert_eq!(text(&good) + &text(&other), "");
    });
}

#[test]
fn nothing_of_the_guests_is_passed_on_to_a_server_that_waits_for_it() {
    in_world(good(), async |world| {
        let server = echo(GOOD, 6379).await;
        world.names.answer("cache.good.example", GOOD);
        let mut stream = world.connect(GOOD, 6379).await;
        said(&mut stream, b"*1\r\n$4\r\nPING\r\n").await;
        let begun = Instant::now();
        assert_eq!(read_all(&mut stream).await, "");
        assert!((3..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
        world.denied("server_silent").await;
        assert_eq!(text(&server), "");
    });
}

#[test]
fn the_web_ports_are_never_nameless() {
    in_world(good(), async |world| {
        let server = greeter(GOOD, 443).await;
        world.names.answer("www.good.example", GOOD);
        let mut stream = world.connect(GOOD, 443).await;
        said(&mut stream, b"SSH-2.0-x\r\n").await;
        assert_eq!(read_all(&mut stream).await, "");
        assert_eq!(text(&server), "");
    });
}

#[test]
fn tls_and_http_after_a_silence_are_decided_by_name_after_all() {
    in_world(good(), async |world| {
        // It would wait for ever, as web servers on odd ports do.
        let server = web(GOOD, 8443).await;
        world.names.answer("www.good.example", GOOD);
        let late = async |bytes: &[u8]| {
            let mut stream = world.connect(GOOD, 8443).await;
            tokio::time::sleep(Duration::from_millis(600)).await;
            said(&mut stream, bytes).await;
            stream
        };
        let mut stream = late(&hello(Some("evil.example"), &[])).await;
        assert_eq!(read_all(&mut stream).await, "\u{15}\u{3}\u{3}\0\u{2}\u{2}1");
        let mut stream = late(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
        assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 403 "));
        // In pieces, and what some servers forgive.
        let mut stream = late(b"GE").await;
        said(&mut stream, b"T / HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
        assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 403 "));
        for trick in
            [&b"\r\nGET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"[..], b"\n", b" GET", b"PRI * HTTP/2.0\r\n\r\n"]
        {
            let mut stream = late(trick).await;
            assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 400 "), "{trick:?}");
        }
        assert_eq!(text(&server), "", "a server was told something of another name");

        let mut stream = late(b"GET / HTTP/1.1\r\nHost: www.good.example\r\n\r\n").await;
        read_until(&mut stream, b"\r\n\r\nok").await;
        assert_eq!(text(&server), "GET / HTTP/1.1\r\nHost: www.good.example\r\n\r\n");
    });
}

#[test]
fn an_answer_to_silence_is_no_greeting() {
    in_world(good(), async |world| {
        let impatient = server(GOOD, 8080, b"HTTP/1.1 408 Request Timeout\r\n\r\n", <[u8]>::to_vec).await;
        let alerting = server(GOOD, 8443, b"\x15\x03\x03\0\x02\x01\0", <[u8]>::to_vec).await;
        world.names.answer("www.good.example", GOOD);
        for port in [8080, 8443] {
            let mut stream = world.connect(GOOD, port).await;
            said(&mut stream, b"\0\0anything").await;
            assert_eq!(read_all(&mut stream).await, "");
        }
        eventually("counted", || world.denials("server_silent"), |n| *n == 2).await;
        assert_eq!(text(&impatient) + &text(&alerting), "");
    });
}

#[test]
fn an_answered_address_inside_is_not_dialled() {
    in_world(good(), async |world| {
        let inside = Ipv4Addr::new(10, 1, 2, 3);
        world.names.answer("rebind.good.example", inside);
        let mut stream = world.connect(inside, 22).await;
        assert_eq!(read_all(&mut stream).await, "");
        world.denied("address").await;
    });
}
