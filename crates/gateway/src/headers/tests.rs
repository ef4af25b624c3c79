use super::*;
use http::header::{AUTHORIZATION, CONTENT_TYPE};

fn of(lines: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
        headers.append(name, HeaderValue::from_str(value).expect("a header value"));
    }
    headers
}

fn forwarded(lines: &[(&str, &str)], version: Version) -> HeaderMap {
    let mut headers = of(lines);
    let host = HeaderValue::from_static("h:8443");
    towards_application(&mut headers, version, host, &HeaderValue::from_static("192.0.2.7"));
    headers
}

#[test]
fn fields_of_the_connection_do_not_pass_in_either_direction() {
    let table = [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authenticate", "Basic"),
        ("proxy-authorization", "Basic eA=="),
        ("te", "gzip"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
    ];
    for (name, value) in table {
        assert!(!forwarded(&[(name, value)], Version::HTTP_11).contains_key(name), "{name} reached the application");
        let mut answer = of(&[(name, value)]);
        towards_client(&mut answer);
        assert!(answer.is_empty(), "{name} reached the client");
    }
}

#[test]
fn fields_named_in_connection_go_with_it() {
    let lines = [("Connection", "close, X-One"), ("connection", "x-two,,bad name"), ("x-one", "1"), ("x-two", "2")];
    let headers = forwarded(&lines, Version::HTTP_11);
    assert!(!headers.contains_key("x-one") && !headers.contains_key("x-two"));
    let kept = forwarded(&[("authorization", "app"), ("x-three", "3")], Version::HTTP_11);
    assert_eq!(kept[AUTHORIZATION], "app");
    assert_eq!(kept["x-three"], "3");
}

#[test]
fn a_client_cannot_remove_what_the_gateway_says_about_it() {
    let lines = [("connection", "x-forwarded-for, x-forwarded-host, x-forwarded-proto, host")];
    let headers = forwarded(&lines, Version::HTTP_11);
    assert_eq!(headers["x-forwarded-for"], "192.0.2.7");
    assert_eq!(headers["host"], "h:8443");
}

#[test]
fn what_the_client_claims_about_itself_is_overwritten() {
    let lines = [
        ("x-forwarded-for", "10.0.0.1"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-host", "evil"),
        ("x-forwarded-port", "1"),
        ("x-real-ip", "10.0.0.3"),
        ("forwarded", "for=10.0.0.4"),
        ("host", "ignored"),
    ];
    let headers = forwarded(&lines, Version::HTTP_11);
    let expected = [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "h:8443"),
        ("host", "h:8443"),
    ];
    assert_eq!(headers, of(&expected));
}

#[test]
fn trailers_stay_announced() {
    let headers = forwarded(&[("te", "gzip, Trailers"), ("trailer", "x-sum")], Version::HTTP_2);
    assert_eq!(headers["te"], "trailers");
    assert_eq!(headers["trailer"], "x-sum");
}

#[test]
fn split_cookies_of_http2_are_joined() {
    let headers = forwarded(&[("cookie", "a=1"), ("cookie", "b=2")], Version::HTTP_2);
    assert_eq!(headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[test]
fn an_answer_with_a_transfer_coding_has_no_length() {
    let mut headers = of(&[("content-length", "5"), ("transfer-encoding", "chunked"), ("content-type", "a/b")]);
    towards_client(&mut headers);
    assert_eq!(headers.len(), 1);
    assert_eq!(headers[CONTENT_TYPE], "a/b");
}

#[test]
fn a_guest_can_not_forge_the_error_mark() {
    let mut headers = of(&[(ERROR_MARK.as_str(), "gateway")]);
    towards_client(&mut headers);
    assert!(headers.is_empty());
}

#[test]
fn a_cookie_loses_its_domain_and_nothing_else() {
    let table = [
        ("a=1", "a=1"),
        ("domain=1; Path=/", "domain=1; Path=/"),
        ("a=1; Domain=sandbox.localhost; Path=/; Secure", "a=1; Path=/; Secure"),
        ("a=1;DOMAIN = .x ; HttpOnly; domain", "a=1; HttpOnly"),
    ];
    for (from, to) in table {
        let mut headers = of(&[("set-cookie", from), ("set-cookie", "b=2; Domain=x")]);
        towards_client(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), [to, "b=2"]);
    }
}
