//! Reading the host out of a request's head (case 22).

use leapbox_egress_policy::Denial;
use leapbox_egress_policy::stream::http::{Framing, Head, Upgrade, read};
use leapbox_egress_policy::stream::{MAX_FIRST_BYTES, Progress};
use proptest::prelude::*;

fn done(text: &str) -> Head {
    match read(text.as_bytes()) {
        Ok(Progress::Done(head)) => head,
        other => panic!("{other:?}: {text}"),
    }
}

/// A GET with these lines after its first one.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\n{lines}\r\n")
}

fn malformed(text: &str) -> &'static str {
    match read(text.as_bytes()) {
        Err(Denial::Malformed { what }) => what,
        other => panic!("{other:?}: {text}"),
    }
}

#[test]
fn a_heads_host_port_and_length_are_read() {
    let text = "POST /a?b=c HTTP/1.1\r\nHost: API.Example.com.:8080\r\nContent-Length: 5\r\n\r\nhello";
    let head = done(text);
    assert_eq!((head.method.as_str(), head.host.as_str(), head.port), ("POST", "api.example.com", Some(8080)));
    assert_eq!((head.framing, head.upgrade, head.length), (Framing::Length(5), Upgrade::None, text.len() - 5));
    assert_eq!(head.bytes(), &text.as_bytes()[..head.length]);
    assert_eq!(done(&get("host:x.com\r\n")).framing, Framing::None);
    assert_eq!(done(&get("HOST: \t x.com \t\r\n")).host.as_str(), "x.com");
    assert_eq!(done("GET / HTTP/1.0\r\nHost: x.com\r\n\r\n").port, None);
    assert_eq!(done("OPTIONS * HTTP/1.1\r\nHost: x.com\r\n\r\n").method, "OPTIONS");
}

#[test]
fn case_22_there_is_one_host_and_it_is_a_name() {
    assert_eq!(malformed(&get("")), "a request without Host");
    assert_eq!(malformed(&get("Host: a.com\r\nHost: b.com\r\n")), "two Host headers");
    assert_eq!(malformed(&get("Host: a.com\r\nhOST: a.com\r\n")), "two Host headers");
    for bad in
        ["", "a.com, b.com", "a.com b.com", "a.com/", "b@a.com", "a..com", "bücher.example", "a.com%00", "*.a.com"]
    {
        assert_eq!(malformed(&get(&format!("Host: {bad}\r\n"))), "a Host that is no domain name", "{bad}");
    }
    for bad in ["a.com:", "a.com:65536", "a.com:+80", "a.com:80:80", "a.com: 80", "a.com:0x50"] {
        assert_eq!(malformed(&get(&format!("Host: {bad}\r\n"))), "a Host with a bad port", "{bad}");
    }
    for address in ["93.184.216.34", "93.184.216.34:80", "[::1]:80", "0x5db8d822", "1572395042"] {
        assert_eq!(read(get(&format!("Host: {address}\r\n")).as_bytes()), Err(Denial::NoName), "{address}");
    }
}

#[test]
fn case_22_a_target_is_a_path() {
    for target in ["http://evil.org/", "HTTP://evil.org", "evil.org:443", "*", "?a", "..", "\\"] {
        let text = format!("GET {target} HTTP/1.1\r\nHost: x.com\r\n\r\n");
        assert_eq!(malformed(&text), "a request's target that is not a path", "{target}");
    }
    assert_eq!(done("GET //evil.org/ HTTP/1.1\r\nHost: x.com\r\n\r\n").host.as_str(), "x.com");
    for method in ["CONNECT", "connect"] {
        let text = format!("{method} evil.org:443 HTTP/1.1\r\nHost: x.com\r\n\r\n");
        assert_eq!(malformed(&text), "a CONNECT request: connect to the server directly");
    }
}

#[test]
fn case_22_no_line_is_folded_and_each_ends_in_cr_lf() {
    for lines in ["Host: x.com\r\n folded\r\n", "Host: x.com\r\n\tfolded: y\r\n", " Host: x.com\r\n"] {
        assert_eq!(malformed(&get(lines)), "a folded line in the head");
    }
    for text in
        ["GET / HTTP/1.1\nHost: x.com\r\n\r\n", "GET / HTTP/1.1\r\nHost: x.com\n", &get("A: b\n\r\nHost: x.com\r\n")]
    {
        assert_eq!(malformed(text), "a line of the head that ends without CR");
    }
    for lines in ["Host: x.com\rHost: y.com\r\n", "Host: x.com\r\r\n", "A: b\r\rHost: x.com\r\n"] {
        assert_eq!(malformed(&get(lines)), "a CR within a line of the head");
    }
    assert_eq!(malformed("GET / HTTP/1.1\r\nHost: x.com\r\n\r\r\n"), "a CR within a line of the head");
}

#[test]
fn case_22_no_header_is_there_for_one_reader_only() {
    for bad in ["Host : x.com", "Host\t: x.com", ": x.com", "Host", "Ho\0st: x.com", "H\u{e9}: x", "(Host): x.com"] {
        assert_eq!(malformed(&get(&format!("{bad}\r\n"))), "a header's name", "{bad}");
    }
    for bad in ["x.com\0", "x\u{1}.com", "x.com\u{7f}", "x.com\u{b}"] {
        assert_eq!(malformed(&get(&format!("Host: {bad}\r\n"))), "a header's value", "{bad:?}");
    }
    let many: String = (0..128).map(|n| format!("x-{n}: y\r\n")).collect();
    assert_eq!(malformed(&get(&format!("{many}Host: x.com\r\n"))), "more than 128 headers");
}

#[test]
fn case_22_there_is_one_way_to_say_how_long_the_body_is() {
    let framing = |lines: &str| done(&get(&format!("Host: x.com\r\n{lines}\r\n"))).framing;
    assert_eq!(framing("Content-Length: 0"), Framing::Length(0));
    assert_eq!(framing("content-length: 18446744073709551615"), Framing::Length(u64::MAX));
    assert_eq!(framing("Transfer-Encoding: Chunked"), Framing::Chunked);
    let bad = |lines: &str| malformed(&get(&format!("Host: x.com\r\n{lines}\r\n")));
    for lines in ["Content-Length: 5\r\nTransfer-Encoding: chunked", "transfer-encoding: chunked\r\nCONTENT-LENGTH: 0"]
    {
        assert_eq!(bad(lines), "both Content-Length and Transfer-Encoding");
    }
    assert_eq!(bad("Content-Length: 5\r\nContent-Length: 5"), "two Content-Length headers");
    for value in ["", "+5", "-1", "5, 5", "0x5", "5 5", "18446744073709551616", "५"] {
        assert_eq!(bad(&format!("Content-Length: {value}")), "a Content-Length that is no number", "{value}");
    }
    assert_eq!(bad("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), "two Transfer-Encoding headers");
    for value in ["gzip, chunked", "chunked, identity", "identity", "xchunked", "\"chunked\"", "chunked;q=1", ""] {
        let what = bad(&format!("Transfer-Encoding: {value}"));
        assert_eq!(what, "a Transfer-Encoding that is not chunked alone", "{value}");
    }
    let old = "POST / HTTP/1.0\r\nHost: x.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(malformed(old), "a Transfer-Encoding that is not chunked alone");
}

#[test]
fn only_http_1_is_spoken() {
    for version in ["HTTP/0.9", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1x", "HTTP/01.1", "ICAP/1.0"] {
        malformed(&format!("GET / {version}\r\nHost: x.com\r\n\r\n"));
    }
    malformed("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    malformed("PRI * HTTP/1.1\r\nHost: x.com\r\n\r\n");
    malformed("GET /\r\n");
    malformed("GET  / HTTP/1.1\r\nHost: x.com\r\n\r\n");
    malformed("GET\t/ HTTP/1.1\r\nHost: x.com\r\n\r\n");
}

#[test]
fn only_a_websocket_is_upgraded_to() {
    let upgrade = |lines: &str| done(&get(&format!("Host: x.com\r\n{lines}\r\n"))).upgrade;
    assert_eq!(upgrade("Connection: Upgrade"), Upgrade::None);
    assert_eq!(upgrade("Connection: Upgrade\r\nUpgrade: WebSocket"), Upgrade::WebSocket);
    assert_eq!(upgrade("Upgrade: websocket"), Upgrade::WebSocket, "some servers don't ask for Connection");
    for other in ["h2c", "TLS/1.0", "websocket, h2c", "websocket\r\nUpgrade: h2c", "", "websocket/13"] {
        assert_eq!(upgrade(&format!("Upgrade: {other}")), Upgrade::Other, "{other}");
    }
}

#[test]
fn what_may_be_http_to_some_server_is_never_left_to_others() {
    for text in ["\r\nGET / HTTP/1.1\r\n", "\nGET", "\r", "\n", " GET / HTTP/1.1\r\n", "\tGET", "get\x0b/", "GET\x0c/"]
    {
        malformed(text);
    }
    assert_eq!(done("get / HTTP/1.1\r\nHost: x.com\r\n\r\n").method, "get");
    assert_eq!(read(b"a"), Ok(Progress::More));
    assert_eq!(read(b"!#$%&'*+-.^_`|~ "), Ok(Progress::More));
    for after in ["", "\0", "\r\n", " / HTTP/1.1"] {
        assert_eq!(malformed(&format!("{}{after}", "A".repeat(33))), "a method of too many characters", "{after:?}");
    }
    assert_eq!(malformed("SSH-2.0-x / HTTP/1.1\r\nHost: x.com\r\n\r\n"), "HTTP that pretends to be SSH");
    assert_eq!(malformed(&format!("SSH-{}", "A".repeat(251))), "a first line of SSH that does not end");
    assert_eq!(malformed(&format!("SSH-{}\r\n", "A".repeat(300))), "a first line of SSH that does not end");
}

#[test]
fn what_can_not_be_http_is_left_to_others() {
    for other in [
        "\0",
        "\u{16}\u{3}",
        "EHLO\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "{\"method\": 1}",
        "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n",
        "<stream:stream>",
        "\u{e9}",
    ] {
        assert_eq!(read(other.as_bytes()), Ok(Progress::Other), "{other:?}");
    }
    assert_eq!(read(b"SSH-2.0-OpenSSH_9.2p1 Deb"), Ok(Progress::More), "until its line is there");
    assert_eq!(read(b""), Ok(Progress::More));
}

#[test]
fn a_head_that_does_not_end_is_given_up() {
    let fits = |length: usize| get(&format!("Host: x.com\r\na: {}\r\n", "b".repeat(length)));
    let most = MAX_FIRST_BYTES - fits(0).len();
    assert_eq!(done(&fits(most)).length, MAX_FIRST_BYTES);
    assert_eq!(malformed(&fits(most + 1)), "a request's head longer than 16 KiB");
    assert_eq!(read(&fits(most).as_bytes()[..MAX_FIRST_BYTES - 1]), Ok(Progress::More));
}

#[test]
fn headers_are_taken_out_of_a_head_without_touching_the_rest() {
    let text = "GET /x HTTP/1.1\r\nAUTHORIZATION: a\r\nHost:  x.com\r\nCookie: b\r\nauthorization:c\r\nX:y\r\n\r\nbody";
    let head = done(text);
    let kept = head.without(|name| name == "authorization" || name == "cookie").expect("something to remove");
    assert_eq!(String::from_utf8_lossy(&kept), "GET /x HTTP/1.1\r\nHost:  x.com\r\nX:y\r\n\r\n");
    assert_eq!(head.without(|name| name == "authorizatio"), None);
    assert_eq!(head.without(|_| true).expect("all"), b"GET /x HTTP/1.1\r\n\r\n");
}

/// Lines that are good, bad, or good only next to some others.
const LINES: &[&str] = &[
    "Host: x.com\r\n",
    "Host: y.com\r\n",
    "Content-Length: 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "A: b\r\n",
    " c\r\n",
    "d: e\n",
    "\r\n",
    "f : g\r\n",
    "Upgrade: h2c\r\n",
    "\r",
    "GET / HTTP/1.1\r\n",
    "Cookie: secret\r\n",
    ":",
    "\0",
];

proptest! {
    #[test]
    fn what_is_said_of_some_bytes_stays_said(
        lines in prop::collection::vec(prop::sample::select(LINES), 0..6),
        end in 0..200_usize,
    ) {
        let whole = get(&lines.concat());
        let early = read(&whole.as_bytes()[..end.min(whole.len())]);
        // Which of several faults is named may change.
        match early {
            Ok(Progress::More) => {}
            Err(_) => prop_assert!(read(whole.as_bytes()).is_err()),
            early => prop_assert_eq!(early, read(whole.as_bytes())),
        }
        if let Ok(Progress::Done(head)) = read(whole.as_bytes()) {
            let text = String::from_utf8_lossy(head.bytes()).to_lowercase();
            prop_assert_eq!(text.matches("\r\nhost:").count(), 1);
            let kept = head.without(|name| name == "cookie").unwrap_or(head.bytes().to_vec());
            prop_assert!(!String::from_utf8_lossy(&kept).contains("secret"));
            let Ok(Progress::Done(again)) = read(&kept) else { panic!("the rewritten head is none") };
            prop_assert_eq!((again.host, again.framing, again.length), (head.host, head.framing, kept.len()));
        }
    }
}
