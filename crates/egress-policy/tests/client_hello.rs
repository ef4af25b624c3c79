//! Reading the name out of a TLS hello (case 20).

use leapbox_egress_policy::Denial;
use leapbox_egress_policy::stream::client_hello::{ClientHello, read};
use leapbox_egress_policy::stream::{MAX_FIRST_BYTES, Progress};
use proptest::prelude::*;
use std::sync::Arc;

/// As `openssl s_client -servername WWW.Example.com -alpn h2,http/1.1` sends it.
const OPENSSL: &[u8] = include_bytes!("hellos/openssl.bin");
const OPENSSL_NO_NAME: &[u8] = include_bytes!("hellos/openssl-no-name.bin");
const OPENSSL_TLS12: &[u8] = include_bytes!("hellos/openssl-tls12.bin");
/// As curl and Python's ssl send theirs to example.com, padded.
const CURL: &[u8] = include_bytes!("hellos/curl.bin");
const PYTHON: &[u8] = include_bytes!("hellos/python.bin");

/// A vector behind its length of two bytes.
fn vector(body: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(body.len()).expect("short").to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}

fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &vector(body)].concat()
}

fn server_name(names: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = names.iter().flat_map(|name| [&[0][..], &vector(name)].concat()).collect();
    extension(0, &vector(&list))
}

/// The handshake message of a hello with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0], &vector(&[0x13, 0x01]), &[1, 0], &vector(extensions)].concat();
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[1], &length[1..], &body].concat()
}

fn record(fragment: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &vector(fragment)].concat()
}

fn hello(extensions: &[u8]) -> Vec<u8> {
    record(&message(extensions))
}

fn done(bytes: &[u8]) -> ClientHello {
    match read(bytes) {
        Ok(Progress::Done(hello)) => hello,
        other => panic!("{other:?}"),
    }
}

fn name(bytes: &[u8]) -> Option<String> {
    done(bytes).server_name.map(|name| name.to_string())
}

fn is_malformed(bytes: &[u8]) -> bool {
    matches!(read(bytes), Err(Denial::Malformed { .. }))
}

/// What rustls, a program's TLS of our own days, sends.
fn rustls_hello(host: &str, alpn: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let host = rustls::pki_types::ServerName::try_from(host.to_owned()).expect("a host");
    let mut connection = rustls::ClientConnection::new(Arc::new(config), host).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a hello");
    bytes
}

#[test]
fn real_programs_hellos_are_read() {
    assert_eq!(name(OPENSSL).as_deref(), Some("www.example.com"));
    assert_eq!(done(OPENSSL).alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    for bytes in [OPENSSL_TLS12, CURL, PYTHON] {
        assert_eq!(name(bytes).as_deref(), Some("example.com"));
        assert!(!done(bytes).encrypted);
    }
    let ours = rustls_hello("api.example.com", &["http/1.1"]);
    assert_eq!((name(&ours).as_deref(), done(&ours).alpn), (Some("api.example.com"), vec![b"http/1.1".to_vec()]));
}

#[test]
fn case_20_a_hello_without_a_name_has_none() {
    assert_eq!(name(OPENSSL_NO_NAME), None);
    assert_eq!(name(&rustls_hello("93.184.216.34", &[])), None);
    assert_eq!(name(&hello(&[])), None);
    // Before TLS 1.2 not even the list of extensions need be there.
    let mut bare = message(&[]);
    bare.truncate(bare.len() - 2);
    bare[3] -= 2;
    assert_eq!(name(&record(&bare)), None);
}

#[test]
fn case_20_an_encrypted_hello_is_seen_whatever_its_content() {
    for kind in [0xfe0d, 0xfe0a, 0xffce] {
        let bytes = hello(&[server_name(&[b"public.example.com"]), extension(kind, b"whatever")].concat());
        assert!(done(&bytes).encrypted, "{kind:#x}");
        assert_eq!(name(&bytes).as_deref(), Some("public.example.com"));
    }
}

#[test]
fn case_20_a_hello_in_many_records_is_one_hello() {
    for source in [OPENSSL, CURL, &rustls_hello("example.com", &["h2"])] {
        for piece in [1, 2, 3, 4, 5, 100, 300] {
            let records: Vec<u8> = source[5..].chunks(piece).flat_map(record).collect();
            assert_eq!(read(&records), read(source), "in records of {piece}");
        }
    }
}

#[test]
fn nothing_comes_between_a_hellos_records_or_after_it() {
    let (first, second) = OPENSSL[5..].split_at(100);
    let alert = [21, 3, 3, 0, 2, 1, 0];
    assert!(is_malformed(&[&record(first)[..], &alert, &record(second)].concat()));
    assert!(is_malformed(&[&record(first)[..], &record(&[])].concat()), "an empty record");
    let two = [message(&server_name(&[b"a.com"])), message(&server_name(&[b"b.com"]))].concat();
    assert!(is_malformed(&record(&two)));
    assert!(is_malformed(&record(&two)[..40]), "as soon as the lengths say so");
    let next = [&OPENSSL[5..], b"\x01"].concat();
    assert!(is_malformed(&record(&next)));
    // What follows in a record of its own was sent early (TLS 1.3, 0-RTT) and is the server's business.
    assert_eq!(read(&[OPENSSL, &[20, 3, 3, 0, 1, 1]].concat()), read(OPENSSL));
}

#[test]
fn a_name_is_given_once_and_is_a_name() {
    assert!(is_malformed(&hello(&server_name(&[b"a.com", b"b.com"]))));
    assert!(is_malformed(&hello(&[server_name(&[b"a.com"]), server_name(&[b"b.com"])].concat())));
    assert!(is_malformed(&hello(&server_name(&[]))));
    let other_type = extension(0, &vector(&[&[1][..], &vector(b"a.com")].concat()));
    assert!(is_malformed(&hello(&other_type)));
    for bad in [&b""[..], b"a.com\0.evil.org", b"a com", b"b\xc3\xbccher.example", b"\xff", b"*.a.com", b"a.com:443"] {
        assert!(is_malformed(&hello(&server_name(&[bad]))), "{}", bad.escape_ascii());
    }
    for address in [&b"93.184.216.34"[..], b"::1", b"0x5db8d822", b"1572395042"] {
        assert_eq!(read(&hello(&server_name(&[address]))), Err(Denial::NoName), "{}", address.escape_ascii());
    }
}

#[test]
fn impossible_lengths_are_refused() {
    let good = hello(&server_name(&[b"example.com"]));
    for (at, what) in [
        (4, "record"),
        (8, "message"),
        (43, "session id"),
        (45, "cipher suites"),
        (48, "compression methods"),
        (51, "extensions"),
        (55, "an extension"),
        (57, "the list of names"),
        (60, "the name"),
    ] {
        let mut longer = good.clone();
        longer[at] += 1;
        let mut shorter = good.clone();
        shorter[at] -= u8::from(shorter[at] > 0);
        let more = at < 9;
        assert!(more || is_malformed(&longer), "{what}, one more");
        assert!(at == 4 || at == 43 || is_malformed(&shorter), "{what}, one less");
    }
    assert!(is_malformed(&[22, 3, 1, 0, 0]), "an empty record");
    assert!(is_malformed(&[22, 3, 1, 0x40, 1]), "a record longer than TLS has");
    assert!(is_malformed(&[22, 3, 1, 0, 4, 1, 0, 0x40, 0]), "a hello longer than we read");
    assert!(is_malformed(&hello(&extension(16, &vector(&[])))), "no protocol");
    assert!(is_malformed(&hello(&extension(16, &vector(&[0])))), "a protocol without a name");
}

#[test]
fn a_hello_that_does_not_end_is_given_up() {
    let endless: Vec<u8> =
        std::iter::once(record(&[1, 0, 0x3f, 0])).chain((0..5000).map(|_| record(&[0]))).flatten().collect();
    assert_eq!(read(&endless[..MAX_FIRST_BYTES - 1]), Ok(Progress::More));
    assert!(is_malformed(&endless[..MAX_FIRST_BYTES]));
    assert!(is_malformed(&endless));
}

#[test]
fn what_is_not_tls_is_left_to_others() {
    assert_eq!(read(b""), Ok(Progress::More));
    for other in [&b"GET / HTTP/1.1"[..], b"SSH-2.0-x\r\n", b"\0", b"\x80", b"\xff\xff", b"\x17\x04"] {
        assert_eq!(read(other), Ok(Progress::Other), "{}", other.escape_ascii());
    }
    // The hello of SSL 2, which can't hold a name.
    assert_eq!(read(&[0x80, 0x2e, 1, 3, 1, 0, 0x15, 0, 0, 0, 0x10]), Ok(Progress::Other));
}

#[test]
fn what_only_looks_like_tls_is_never_left_to_others() {
    for bad in [&[22, 2, 0][..], &[22, 0xfe, 0xff], &[21, 3, 3, 0, 2, 1, 0], &[23, 3], &[20, 3], &[24, 3]] {
        assert!(is_malformed(bad), "{bad:?}");
    }
    assert!(is_malformed(&record(&[2])), "a server's hello");
    let mut old = message(&[]);
    old[4] = 2;
    assert!(is_malformed(&record(&old)));
}

#[test]
fn case_20_a_hello_split_at_any_byte_is_the_same_hello() {
    for source in [OPENSSL, OPENSSL_NO_NAME, CURL, &hello(&server_name(&[b"example.com"]))] {
        for end in 0..source.len() {
            assert_eq!(read(&source[..end]), Ok(Progress::More), "the first {end} bytes");
        }
        done(source);
    }
}

proptest! {
    #[test]
    fn what_is_said_of_some_bytes_stays_said(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        changes in prop::collection::vec((0..OPENSSL.len(), any::<u8>()), 0..4),
        end in 0..=OPENSSL.len(),
    ) {
        let mut changed = OPENSSL.to_vec();
        for (at, byte) in changes {
            changed[at] = byte;
        }
        for whole in [changed, bytes] {
            let early = read(&whole[..end.min(whole.len())]);
            if early != Ok(Progress::More) {
                prop_assert_eq!(early, read(&whole));
            }
        }
    }
}
