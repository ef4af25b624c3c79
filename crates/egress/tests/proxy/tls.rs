//! Who is reached by TLS, and who is not.

use crate::support::*;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const ALERT: &str = "\u{15}\u{3}\u{3}\0\u{2}\u{2}1";

/// A TLS server of `www.good.example`, and the client's connector that trusts it.
async fn tls_server(address: Ipv4Addr) -> TlsConnector {
    let made = rcgen::generate_simple_self_signed(["www.good.example".to_owned()]).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a server");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind((address, 443)).await.expect("port 443");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4];
            let _ = stream.read_exact(&mut request).await;
            let _ = stream.write_all(b"pong").await;
            let _ = stream.shutdown().await;
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).expect("a root");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    TlsConnector::from(Arc::new(client))
}

#[test]
fn tls_to_an_allowed_name_reaches_the_server_that_we_resolve_whatever_address_was_dialled() {
    in_world(good(), async |world| {
        let connector = tls_server(GOOD).await;
        let forged = echo(OTHER, 443).await;
        for dialled in [GOOD, OTHER, NOBODY] {
            let stream = world.connect(dialled, 443).await;
            let name = ServerName::try_from("www.good.example").expect("a name");
            let mut tls = connector.connect(name, stream).await.expect("the real server's certificate");
            tls.write_all(b"ping").await.expect("write");
            let mut answer = Vec::new();
            tls.read_to_end(&mut answer).await.expect("an orderly end");
            assert_eq!(answer, b"pong");
        }
        assert_eq!(text(&forged), "", "an address that the guest made up was reached");
        assert_eq!(world.journal.snapshot().connections[0], ("tls", 3));
    });
}

#[test]
fn a_hello_in_pieces_is_put_together_and_passed_on_unchanged() {
    in_world(good(), async |world| {
        let server = echo(GOOD, 443).await;
        let mut stream = world.connect(GOOD, 443).await;
        let hello = hello(Some("www.good.example"), &[]);
        for piece in hello.chunks(9) {
            stream.write_all(piece).await.expect("write");
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        assert_eq!(read_until(&mut stream, &hello).await, hello);
        assert_eq!(*server.lock().expect("lock"), hello);
    });
}

#[test]
fn a_name_that_is_not_allowed_gets_an_alert_and_reaches_nobody() {
    in_world(good(), async |world| {
        let server = echo(GOOD, 443).await;
        world.names.set("evil.example", &[GOOD]);
        let mut stream = world.connect(GOOD, 443).await;
        stream.write_all(&hello(Some("evil.example"), &[])).await.expect("write");
        assert_eq!(read_all(&mut stream).await, ALERT);
        world.denied("name").await;
        assert_eq!(text(&server), "");
    });
}

#[test]
fn a_hello_without_a_name_with_an_address_as_name_or_with_ech_is_refused() {
    in_world(good(), async |world| {
        let server = echo(GOOD, 443).await;
        let cases = [
            (hello(None, &[]), "no_name"),
            (hello(Some("93.184.216.34"), &[]), "no_name"),
            (hello(Some("www.good.example"), &[(0xfe0d, b"hidden")]), "encrypted_hello"),
            (hello(Some("www.good.example"), &[(0, b"\0\x04\0\0\x01a")]), "malformed"),
        ];
        for (hello, rule) in cases {
            let mut stream = world.connect(GOOD, 443).await;
            stream.write_all(&hello).await.expect("write");
            assert_eq!(read_all(&mut stream).await, ALERT, "{rule}");
            world.denied(rule).await;
        }
        assert_eq!(text(&server), "");
    });
}

#[test]
fn an_allowed_name_that_leads_inside_is_not_dialled() {
    in_world(good(), async |world| {
        let inside = echo(Ipv4Addr::LOCALHOST, 443).await;
        for (n, address) in ["127.0.0.1", "169.254.169.254", "10.1.2.3", "192.168.0.1", "100.64.0.1"].iter().enumerate()
        {
            world.names.set("rebind.good.example", &[address.parse().expect("an address")]);
            let mut stream = world.connect(GOOD, 443).await;
            stream.write_all(&hello(Some("rebind.good.example"), &[])).await.expect("write");
            assert_eq!(read_all(&mut stream).await, "");
            eventually(address, || world.denials("address"), |count| *count == n as u64 + 1).await;
        }
        assert_eq!(text(&inside), "");
    });
}

#[test]
fn the_dialled_address_comes_first_if_it_is_an_answer_and_all_answers_are_tried() {
    in_world(good(), async |world| {
        let (good, other) = (echo(GOOD, 443).await, echo(OTHER, 443).await);
        world.names.set("www.good.example", &[NOBODY, Ipv4Addr::new(10, 1, 2, 3), GOOD, OTHER]);
        let hello = hello(Some("www.good.example"), &[]);
        for (dialled, reached) in [(OTHER, &other), (NOBODY, &good)] {
            let mut stream = world.connect(dialled, 443).await;
            stream.write_all(&hello).await.expect("write");
            assert_eq!(read_until(&mut stream, &hello).await, hello);
            assert_eq!(reached.lock().expect("lock").len(), hello.len());
        }
        assert_eq!(good.lock().expect("lock").len() + other.lock().expect("lock").len(), 2 * hello.len());
    });
}

#[test]
fn a_name_without_addresses_is_a_reset_and_says_so_in_the_journal() {
    in_world(good(), async |world| {
        let mut stream = world.connect(GOOD, 443).await;
        stream.write_all(&hello(Some("nowhere.good.example"), &[])).await.expect("write");
        let mut byte = [0];
        assert!(stream.read(&mut byte).await.is_err(), "no reset");
        world.denied("unresolved").await;
    });
}
