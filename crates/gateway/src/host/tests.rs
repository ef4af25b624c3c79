use super::*;
use http::HeaderValue;

const ID: &str = "sbx-abcdefghijklmnop2345";
const DOMAIN: &str = "sandbox.localhost";

fn of_host(host: &str) -> Result<Target, HostError> {
    let mut headers = HeaderMap::new();
    headers.insert(HOST, HeaderValue::from_bytes(host.as_bytes()).expect("a header value"));
    target(Version::HTTP_11, &Uri::from_static("/"), &headers, DOMAIN)
}

fn sandbox_at(port: Option<u16>) -> Result<Target, HostError> {
    Ok(Target::Sandbox { id: ID.parse().expect("an id"), port })
}

#[test]
fn case_30_names_of_sandboxes_and_their_ports() {
    let upper = ID.to_ascii_uppercase();
    let table = [
        (format!("{ID}.{DOMAIN}"), None),
        (format!("{ID}.{DOMAIN}."), None),
        (format!("{ID}.{DOMAIN}:8443"), None),
        (format!("{ID}.{DOMAIN}.:8443"), None),
        (format!("{ID}.{DOMAIN}:"), None),
        (format!("{upper}.Sandbox.LOCALHOST"), None),
        (format!("{ID}-1.{DOMAIN}"), Some(1)),
        (format!("{ID}-8080.{DOMAIN}:443"), Some(8080)),
        (format!("{upper}-8080.{DOMAIN}"), Some(8080)),
        (format!("{ID}-52051.{DOMAIN}"), Some(52051)),
        (format!("{ID}-65535.{DOMAIN}"), Some(65535)),
    ];
    for (host, port) in table {
        assert_eq!(of_host(&host), sandbox_at(port), "{host}");
    }
}

#[test]
fn case_30_edge_ports_and_the_agents_own_are_refused() {
    for port in ["0", "00", "080", "08080", "65536", "99999", "18446744073709551617", "", "80a", "8e3"] {
        let answer = of_host(&format!("{ID}-{port}.{DOMAIN}"));
        assert!(matches!(answer, Err(HostError::BadPort { .. })), "{port:?} gave {answer:?}");
    }
    assert_eq!(of_host(&format!("{ID}-52052.{DOMAIN}")), Err(HostError::AgentPort));
}

#[test]
fn case_30_names_that_are_no_sandbox_are_unknown() {
    let table = [
        format!("www.{DOMAIN}"),
        format!("sbx-.{DOMAIN}"),
        format!("sbx-short.{DOMAIN}"),
        format!("tpl-abcdefghijklmnop2345.{DOMAIN}"),
        format!("a.{ID}.{DOMAIN}"),
        format!("{ID}.api.{DOMAIN}"),
        format!("{ID}-80-80.{DOMAIN}"),
        format!("-{ID}.{DOMAIN}"),
        format!("{ID}{DOMAIN}"),
        format!("{ID}.evil{DOMAIN}"),
        format!("{ID}.{DOMAIN}.evil.com"),
        format!("{ID}.{DOMAIN}.."),
        format!(".{DOMAIN}"),
        "localhost".to_owned(),
        "127.0.0.1:8443".to_owned(),
        "[::1]:8443".to_owned(),
    ];
    for host in table {
        assert_eq!(of_host(&host), Err(HostError::Unknown), "{host}");
    }
}

#[test]
fn the_domain_and_its_api_name_are_the_control_plane() {
    for host in ["sandbox.localhost", "SANDBOX.localhost.", "api.sandbox.localhost:8443", "API.sandbox.localhost"] {
        assert_eq!(of_host(host), Ok(Target::ControlPlane), "{host}");
    }
}

#[test]
fn a_host_that_is_no_host_name_is_malformed() {
    for host in ["", ":8443", "user@sandbox.localhost", "a/b", "a b", "a.b:65536", "a:b:c", "é.x", "a-+80.b"] {
        assert_eq!(of_host(host), Err(HostError::Malformed), "{host}");
    }
}

#[test]
fn host_must_be_there_once_and_agree_with_the_target() {
    let host = format!("{ID}.{DOMAIN}");
    let absolute: Uri = format!("https://{host}/x").parse().expect("a uri");
    let origin = Uri::from_static("/x");
    let with = |hosts: &[&str]| {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::from_str(host).expect("a header value"));
        }
        headers
    };
    let check = |version, uri: &Uri, hosts: &[&str]| target(version, uri, &with(hosts), DOMAIN);
    let v11 = Version::HTTP_11;
    let v2 = Version::HTTP_2;
    assert_eq!(check(v11, &origin, &[]), Err(HostError::Missing));
    assert_eq!(check(Version::HTTP_10, &origin, &[]), Err(HostError::Missing));
    assert_eq!(check(v11, &origin, &[&host, &host]), Err(HostError::Duplicate));
    assert_eq!(check(v11, &absolute, &[]), Err(HostError::Missing));
    assert_eq!(check(v11, &absolute, &[&host]), sandbox_at(None));
    assert_eq!(check(v11, &absolute, &[DOMAIN]), Err(HostError::Mismatch));
    assert_eq!(check(v2, &absolute, &[]), sandbox_at(None));
    assert_eq!(check(v2, &absolute, &[&host]), sandbox_at(None));
    assert_eq!(check(v2, &absolute, &[DOMAIN]), Err(HostError::Mismatch));
    assert_eq!(check(v2, &origin, &[]), Err(HostError::Missing));
    let ftp: Uri = format!("ftp://{host}/x").parse().expect("a uri");
    assert_eq!(check(v11, &ftp, &[&host]), Err(HostError::Malformed));
    let userinfo: Uri = format!("https://u@{host}/x").parse().expect("a uri");
    assert_eq!(check(v2, &userinfo, &[]), Err(HostError::Malformed));
}
