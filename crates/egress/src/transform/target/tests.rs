use super::*;
use http::Request;

fn target(port: u16) -> Target {
    let name = DomainName::parse("api.example.com").expect("a name");
    Target::new(name, SocketAddrV4::new([93, 184, 216, 34].into(), port)).expect("a target")
}

/// The status that a request is refused with, or 200.
fn judged(version: Version, method: &str, uri: &str, hosts: &[&str]) -> u16 {
    let mut request = Request::builder().version(version).method(method).uri(uri);
    for host in hosts {
        request = request.header(HOST, *host);
    }
    let (head, ()) = request.body(()).expect("a request").into_parts();
    target(443).check(&head).map_or_else(|refusal| refusal.status.as_u16(), |()| 200)
}

#[test]
fn each_request_must_be_for_the_name_that_the_connection_is_for() {
    let table = [
        ("api.example.com", 200),
        ("API.Example.COM", 200),
        ("api.example.com.", 200),
        ("api.example.com:443", 200),
        ("api.example.com.:8443", 200),
        ("api.example.com..", 421),
        ("api.example.com:", 421),
        ("api.example.com:44x", 421),
        ("api.example.com:443:443", 421),
        ("api.example.com:443443", 421),
        ("user@api.example.com", 421),
        ("other.example.com", 421),
        ("example.com", 421),
        ("evilapi.example.com", 421),
        ("api.example.com.evil.com", 421),
        ("93.184.216.34", 421),
        ("", 421),
    ];
    for (host, status) in table {
        assert_eq!(judged(Version::HTTP_11, "GET", "/", &[host]), status, "Host: {host}");
    }
}

#[test]
fn one_host_and_no_other_authority_in_the_request_line() {
    let ours = &["api.example.com"][..];
    assert_eq!(judged(Version::HTTP_11, "GET", "/", &[]), 400);
    assert_eq!(judged(Version::HTTP_11, "GET", "/", &["api.example.com", "api.example.com"]), 400);
    assert_eq!(judged(Version::HTTP_11, "GET", "https://api.example.com/", ours), 200);
    assert_eq!(judged(Version::HTTP_11, "GET", "https://other.example.com/", ours), 400);
    assert_eq!(judged(Version::HTTP_11, "GET", "http://api.example.com/", ours), 400);
    assert_eq!(judged(Version::HTTP_11, "GET", "api.example.com", ours), 400);
    assert_eq!(judged(Version::HTTP_11, "GET", "https://api.example.com/", &["other.example.com"]), 421);
    assert_eq!(judged(Version::HTTP_11, "CONNECT", "api.example.com:443", ours), 400);
    assert_eq!(judged(Version::HTTP_11, "OPTIONS", "*", ours), 200);
}

#[test]
fn no_request_asks_to_be_shown_what_was_injected() {
    for method in ["TRACE", "TRACK"] {
        assert_eq!(judged(Version::HTTP_11, method, "/", &["api.example.com"]), 405);
        assert_eq!(judged(Version::HTTP_2, method, "https://api.example.com/", &[]), 405);
    }
}

#[test]
fn http2_is_judged_by_authority_and_host() {
    let uri = "https://api.example.com/";
    assert_eq!(judged(Version::HTTP_2, "GET", uri, &[]), 200);
    assert_eq!(judged(Version::HTTP_2, "GET", "https://other.example.com/", &[]), 421);
    assert_eq!(judged(Version::HTTP_2, "GET", "https://other.example.com/", &["api.example.com"]), 421);
    assert_eq!(judged(Version::HTTP_2, "GET", uri, &["other.example.com"]), 421);
    assert_eq!(judged(Version::HTTP_2, "GET", "/", &["api.example.com"]), 200);
    assert_eq!(judged(Version::HTTP_2, "GET", "/", &[]), 400);
    assert_eq!(judged(Version::HTTP_2, "GET", "http://api.example.com/", &[]), 400);
}

#[test]
fn the_upstream_gets_the_checked_authority_in_its_own_form() {
    let uri = Uri::from_static("https://API.example.com:1/a?b=c");
    let sent =
        |port: u16, version| target(port).uri(&uri, version).map_or_else(|_| String::new(), |uri| uri.to_string());
    assert_eq!(sent(443, Version::HTTP_11), "/a?b=c");
    assert_eq!(sent(443, Version::HTTP_2), "https://api.example.com/a?b=c");
    assert_eq!(sent(8443, Version::HTTP_2), "https://api.example.com:8443/a?b=c");
    assert_eq!(target(443).host(), "api.example.com");
    assert_eq!(target(8443).host(), "api.example.com:8443");
    let star = target(443).uri(&Uri::from_static("*"), Version::HTTP_11);
    assert!(star.is_ok_and(|uri| uri == "*"));
}
