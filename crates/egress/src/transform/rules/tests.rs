use super::*;
use leapbox_egress_policy::Policy;
use serde_json::json;

fn rules() -> Rules {
    let document = json!({
        "mode": "custom",
        "transforms": [{
            "domain": "api.example.com",
            "inject_headers": {"Authorization": "Bearer secret", "X-Team": "blue"},
            "strip_headers": ["X-Debug"],
        }],
    });
    match Policy::parse(&document, &[]).expect("a policy") {
        Policy::Custom(custom) => Rules::new(&custom.transforms[0]).expect("rules"),
        other => panic!("{other:?}"),
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// The headers as the upstream gets them, sorted.
fn towards_upstream(version: Version, lines: &[(&'static str, &'static str)]) -> Vec<String> {
    let mut headers = headers(lines);
    rules().towards_upstream(&mut headers, version, &HeaderValue::from_static("api.example.com"));
    let mut lines: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
    lines.sort();
    lines
}

const INJECTED: [&str; 3] = ["authorization: Bearer secret", "host: api.example.com", "x-team: blue"];

#[test]
fn injected_headers_replace_the_guests() {
    let sent = towards_upstream(
        Version::HTTP_11,
        &[("host", "API.example.com."), ("authorization", "mine"), ("authorization", "mine too"), ("x-team", "red")],
    );
    assert_eq!(sent, INJECTED);
}

#[test]
fn stripped_headers_are_gone_however_they_are_spelt() {
    let sent =
        towards_upstream(Version::HTTP_11, &[("x-debug", "1"), ("x_debug", "1"), ("x_team", "red"), ("x-team", "r")]);
    assert_eq!(sent, INJECTED);
}

#[test]
fn the_connection_header_can_drop_no_injected_header() {
    let sent = towards_upstream(
        Version::HTTP_11,
        &[("connection", "close, authorization, X-Team, host"), ("connection", "x-mine"), ("x-mine", "1")],
    );
    assert_eq!(sent, INJECTED);
}

#[test]
fn fields_of_the_guests_connection_stay_there() {
    let sent = towards_upstream(
        Version::HTTP_11,
        &[
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authorization", "Basic eA=="),
            ("proxy-anything", "1"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("expect", "100-continue"),
            ("accept", "*/*"),
        ],
    );
    assert_eq!(sent, [&["accept: */*"][..], &INJECTED].concat());
}

#[test]
fn trailers_are_still_asked_for() {
    let sent = towards_upstream(Version::HTTP_11, &[("te", "trailers, deflate")]);
    assert_eq!(
        sent,
        [&INJECTED[..1], &["connection: TE"], &INJECTED[1..2], &["te: trailers"], &INJECTED[2..]].concat()
    );
    let sent = towards_upstream(Version::HTTP_2, &[("te", "trailers")]);
    assert_eq!(sent, [INJECTED[0], "te: trailers", INJECTED[2]]);
}

#[test]
fn http2_says_its_authority_elsewhere() {
    assert_eq!(towards_upstream(Version::HTTP_2, &[("host", "api.example.com")]), [INJECTED[0], INJECTED[2]]);
}

#[test]
fn trailers_bring_in_nothing_that_headers_may_not() {
    let mut trailers = headers(&[
        ("authorization", "mine"),
        ("x_team", "red"),
        ("x-debug", "1"),
        ("host", "other.example.com"),
        ("content-length", "5"),
        ("transfer-encoding", "chunked"),
        ("grpc-status", "0"),
    ]);
    rules().trailers(&mut trailers);
    assert_eq!(trailers, headers(&[("grpc-status", "0")]));
}

#[test]
fn the_guest_gets_the_upstreams_headers_but_those_of_its_connection() {
    let mut answer = headers(&[
        ("connection", "close, x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("content-length", "7"),
        ("set-cookie", "a=b; Domain=example.com"),
        ("trailer", "x-sum"),
    ]);
    towards_guest(&mut answer);
    assert_eq!(answer, headers(&[("set-cookie", "a=b; Domain=example.com"), ("trailer", "x-sum")]));
}

#[test]
fn debug_output_of_headers_holds_no_secret() {
    let mut headers = HeaderMap::new();
    rules().towards_upstream(&mut headers, Version::HTTP_11, &HeaderValue::from_static("api.example.com"));
    assert!(!format!("{headers:?}").contains("secret"), "{headers:?}");
}
