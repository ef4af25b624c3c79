//! How much of the proxy one sandbox may take, and who gets nothing of it.

use crate::support::*;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn raise_descriptor_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).expect("limit");
}

/// Whether the proxy hangs up without a word.
async fn is_reset(stream: &mut tokio::net::TcpStream) -> bool {
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0; 1])).await;
    read.expect("neither bytes nor an end").is_err()
}

#[test]
fn beyond_1024_connections_a_sandbox_is_refused_and_room_comes_back() {
    in_world(good(), async |world| {
        raise_descriptor_limit();
        let _server = echo(GOOD, 443).await;
        let hello = hello(Some("www.good.example"), &[]);
        let mut open = Vec::new();
        for _ in 0..1024 {
            let mut stream = world.connect(GOOD, 443).await;
            stream.write_all(&hello).await.expect("write");
            assert_eq!(read_until(&mut stream, &hello).await, hello);
            open.push(stream);
        }
        assert!(is_reset(&mut world.connect(GOOD, 443).await).await);
        world.denied("too_many").await;
        assert_eq!(world.context.open_connections(), 1024);

        open.pop();
        eventually("a place", || world.context.open_connections(), |n| *n == 1023).await;
        let mut stream = world.connect(GOOD, 443).await;
        stream.write_all(&hello).await.expect("write");
        assert_eq!(read_until(&mut stream, &hello).await, hello);
    });
}

#[test]
fn beyond_256_connections_that_say_nothing_a_sandbox_is_refused_while_decided_ones_go_on() {
    in_world(good(), async |world| {
        raise_descriptor_limit();
        let _server = echo(GOOD, 443).await;
        let hello = hello(Some("www.good.example"), &[]);
        let mut decided = world.connect(GOOD, 443).await;
        decided.write_all(&hello).await.expect("write");
        assert_eq!(read_until(&mut decided, &hello).await, hello);
        let mut silent = Vec::new();
        for _ in 0..256 {
            silent.push(world.connect(GOOD, 443).await);
        }
        assert!(is_reset(&mut world.connect(GOOD, 443).await).await);
        decided.write_all(b"still here").await.expect("write");
        assert_eq!(read_until(&mut decided, b"still here").await, b"still here");
        // Ten seconds later the silent ones have lost their places.
        assert!(is_reset(&mut silent[0]).await);
        world.denied("no_name").await;
    });
}

#[test]
fn under_deny_all_everything_is_reset_and_counted() {
    in_world(serde_json::json!({ "mode": "deny-all" }), async |world| {
        assert!(is_reset(&mut world.connect(GOOD, 443).await).await);
        assert!(is_reset(&mut world.connect(NOBODY, 22).await).await);
        assert_eq!(world.denials("deny_all"), 2);
        assert_eq!(world.context.open_connections(), 0);
    });
}

#[test]
fn the_proxy_itself_is_no_destination() {
    in_world(good(), async |world| {
        let mut stream = world.connect_to_proxy().await.expect("the test's rules leave the port open");
        assert!(is_reset(&mut stream).await);
    });
}

#[test]
fn a_hello_that_never_ends_is_given_up_after_ten_seconds_however_slowly_it_drips() {
    in_world(good(), async |world| {
        let mut stream = world.connect(GOOD, 443).await;
        // With padding the whole would take minutes: a limit on each byte's time would let it have them.
        let hello = hello(Some("www.good.example"), &[(21, &[0; 500])]);
        let mut sent = 0;
        for byte in &hello {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            sent += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(sent < hello.len() / 2, "{sent} bytes were taken");
        world.denied("slow").await;
    });
}
