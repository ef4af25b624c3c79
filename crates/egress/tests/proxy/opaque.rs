//! Opaque tunnels: nothing changed, nothing lost, nothing left over.

use crate::support::*;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// States of the host namespace's sockets at the proxy's port, but for the listener: from the kernel's own table.
fn proxy_sockets() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/tcp").expect("the table");
    let states = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words[1].ends_with(":3A99") && words[3] != "0A").then(|| words[3].to_owned())
    });
    states.collect()
}

async fn tunnel(world: &World) -> TcpStream {
    let mut stream = world.connect(GOOD, 443).await;
    stream.write_all(&hello(Some("www.good.example"), &[])).await.expect("write");
    stream
}

#[test]
fn sixty_four_mebibytes_each_way_at_once_arrive_whole() {
    in_world(good(), async |world| {
        let server = TcpListener::bind((GOOD, 443)).await.expect("port");
        let hello_length = hello(Some("www.good.example"), &[]).len();
        let client = tunnel(&world).await;
        let (mut far, _) = server.accept().await.expect("a connection");
        far.read_exact(&mut vec![0; hello_length]).await.expect("the hello");
        let ((sent_up, got_down), (sent_down, got_up)) = tokio::join!(both(client, 1), both(far, 2));
        assert_eq!(sent_up, got_up);
        assert_eq!(sent_down, got_down);
        let expected = (64 << 20) + hello_length as u64;
        eventually("bytes", || world.journal.snapshot().bytes_from_sandbox, |n| *n == expected).await;
    });
}

/// Sends 64 MiB and reads to the end; answers both hashes.
async fn both(stream: TcpStream, seed: u8) -> (Vec<u8>, Vec<u8>) {
    let (mut from, mut to) = stream.into_split();
    let send = async move {
        let mut hash = Sha256::new();
        for n in 0..1024_u32 {
            let piece: Vec<u8> = (0..65536_u32).map(|i| (i.wrapping_mul(n + 7) >> 3) as u8 ^ seed).collect();
            hash.update(&piece);
            to.write_all(&piece).await.expect("write");
        }
        to.shutdown().await.expect("shutdown");
        hash.finalize().to_vec()
    };
    let receive = async move {
        let (mut hash, mut piece) = (Sha256::new(), vec![0; 65536]);
        loop {
            match from.read(&mut piece).await.expect("read") {
                0 => return hash.finalize().to_vec(),
                n => hash.update(&piece[..n]),
            }
        }
    };
    let (sent, received) = tokio::join!(tokio::spawn(send), tokio::spawn(receive));
    (sent.expect("sender"), received.expect("receiver"))
}

#[test]
fn a_side_that_has_finished_sending_still_receives() {
    in_world(good(), async |world| {
        let server = TcpListener::bind((GOOD, 443)).await.expect("port");
        let mut client = tunnel(&world).await;
        let (mut far, _) = server.accept().await.expect("a connection");
        client.shutdown().await.expect("half-close");
        let mut request = Vec::new();
        far.read_to_end(&mut request).await.expect("the guest's end is passed on");
        far.write_all(b"late answer").await.expect("write");
        drop(far);
        assert_eq!(read_all(&mut client).await, "late answer");
        drop(client);
        eventually("places", || world.context.open_connections(), |n| *n == 0).await;
    });
}

#[test]
fn a_reset_by_either_side_is_passed_on() {
    in_world(good(), async |world| {
        let server = TcpListener::bind((GOOD, 443)).await.expect("port");
        let mut client = tunnel(&world).await;
        let (far, _) = server.accept().await.expect("a connection");
        far.set_zero_linger().expect("linger");
        drop(far);
        assert!(client.read(&mut [0; 1]).await.is_err(), "the server's reset did not reach the guest");

        let client = tunnel(&world).await;
        let (mut far, _) = server.accept().await.expect("a connection");
        far.read_exact(&mut [0; 5]).await.expect("the hello");
        client.set_zero_linger().expect("linger");
        drop(client);
        far.read_exact(&mut vec![0; hello(Some("www.good.example"), &[]).len() - 5]).await.expect("the hello's rest");
        assert!(far.read(&mut [0; 1]).await.is_err(), "the guest's reset did not reach the server");
    });
}

#[test]
fn the_proxys_end_leaves_no_socket_of_the_guest_behind() {
    in_world(good(), async |world| {
        let server = TcpListener::bind((GOOD, 443)).await.expect("port");
        let mut clients = Vec::new();
        for _ in 0..5 {
            clients.push((tunnel(&world).await, server.accept().await.expect("a connection")));
        }
        // One with bytes under way that nobody takes: it would linger longest.
        let (_, (far, _)) = &mut clients[0];
        let _ = tokio::time::timeout(Duration::from_millis(500), far.write_all(&vec![0; 32 << 20])).await;
        clients.push((world.connect(GOOD, 443).await, {
            let silent = TcpStream::connect((GOOD, 443)).await.expect("direct");
            drop(silent);
            server.accept().await.expect("a connection")
        }));
        eventually("accepted", || world.context.open_connections(), |n| *n == 6).await;
        assert_eq!(proxy_sockets().len(), 6);
        world.serving.abort();
        eventually("sockets", proxy_sockets, Vec::is_empty).await;
        assert_eq!(world.context.open_connections(), 0);
        assert!(world.connect_to_proxy().await.is_err(), "somebody still listens");
    });
}
