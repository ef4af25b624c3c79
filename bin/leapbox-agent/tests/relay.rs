//! Connections to ports of the guest, through the host's client.

mod support;

use leapbox_guest_client::GuestError;
use leapbox_guest_client::protocol::*;
use nix::sys::socket::{Backlog, listen};
use std::time::Duration;
use support::{Sandbox, fault_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

#[tokio::test]
async fn a_port_is_relayed_both_ways_with_half_close() {
    let sandbox = Sandbox::start().await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = server.local_addr().expect("is bound").port();
    let app = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("accepts");
        let mut asked = Vec::new();
        stream.read_to_end(&mut asked).await.expect("reads to the half-close");
        stream.write_all(&asked).await.expect("answers after it");
        asked.len()
    });
    let mut stream = sandbox.guest.connect_port(port).await.expect("connects");
    let sent: Vec<u8> = (0..3_000_000u32).map(|i| (i % 241) as u8).collect();
    let (mut reader, mut writer) = stream.split();
    let mut received = Vec::new();
    let send = async {
        writer.write_all(&sent).await.expect("writes");
        writer.shutdown().await.expect("half-closes");
    };
    let (_, read) = tokio::join!(send, reader.read_to_end(&mut received));
    read.expect("reads");
    assert!(received == sent);
    assert_eq!(app.await.expect("no panic"), sent.len());
}

#[tokio::test]
async fn a_server_on_ipv6_loopback_alone_is_reached() {
    let sandbox = Sandbox::start().await;
    let Ok(server) = TcpListener::bind("[::1]:0").await else {
        eprintln!("this machine has no IPv6 loopback");
        return;
    };
    let port = server.local_addr().expect("is bound").port();
    let accepted = tokio::spawn(async move { server.accept().await.map(drop) });
    sandbox.guest.connect_port(port).await.expect("connects");
    accepted.await.expect("no panic").expect("accepts");
}

#[tokio::test]
async fn a_reset_of_the_app_reaches_the_host_as_a_reset() {
    let sandbox = Sandbox::start().await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = server.local_addr().expect("is bound").port();
    let app = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("accepts");
        stream.write_all(b"half an ans").await.expect("writes");
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.expect("hears the host");
        let socket = stream.into_std().expect("converts");
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::Linger,
            &libc::linger { l_onoff: 1, l_linger: 0 },
        )
        .expect("sets linger");
    });
    let mut stream = sandbox.guest.connect_port(port).await.expect("connects");
    let mut start = [0; 11];
    stream.read_exact(&mut start).await.expect("reads");
    stream.write_all(b"x").await.expect("writes");
    app.await.expect("no panic");
    let end = stream.read(&mut start).await;
    assert!(end.is_err(), "{end:?}");
}

#[tokio::test]
async fn a_port_without_a_server_is_refused_by_name() {
    let sandbox = Sandbox::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = free.local_addr().expect("is bound").port();
    drop(free);
    match sandbox.guest.connect_port(port).await {
        Err(GuestError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::ConnectionRefused);
            assert!(fault.message.contains(&port.to_string()));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fault_of(sandbox.guest.connect_port(0).await), FaultKind::InvalidInput);
}

#[tokio::test]
async fn a_server_that_accepts_nothing_more_is_busy_and_not_missing() {
    let sandbox = Sandbox::start().await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = server.local_addr().expect("is bound");
    // Listening again changes the queue's length; the kernel takes one more than it is told.
    listen(&server, Backlog::new(1).expect("a length")).expect("listens");
    let mut queued = Vec::new();
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(connected.expect("a place in the queue"));
        assert!(queued.len() < 10, "the queue has no end");
    }
    match sandbox.guest.connect_port(address.port()).await {
        Err(GuestError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Busy);
            assert!(fault.message.contains(&address.port().to_string()));
        }
        other => panic!("{other:?}"),
    }
}
