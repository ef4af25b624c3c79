//! Finds the platform's key in a request's headers, and removes it before the request is forwarded to a sandbox.
//!
//! The key comes in `authorization` or `leap0-authorization`, with or without `Bearer `. Where both are present,
//! `leap0-authorization` is the platform's, and `authorization` belongs to the app inside the sandbox.

use crate::AuthError;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries the platform's key whenever it is present.
const LEAP0_AUTHORIZATION: HeaderName = HeaderName::from_static("leap0-authorization");

/// The text in which the request claims to have the platform's key; it is not checked yet.
pub(crate) fn platform_key(headers: &HeaderMap) -> Result<&str, AuthError> {
    let (values, header) = if headers.contains_key(LEAP0_AUTHORIZATION) {
        (headers.get_all(LEAP0_AUTHORIZATION), "leap0-authorization")
    } else {
        (headers.get_all(AUTHORIZATION), "authorization")
    };
    let mut values = values.iter();
    let value = values.next().ok_or(AuthError::Missing)?;
    // With two values, which one is meant would be a guess, and a program in front of us may have guessed otherwise.
    if values.next().is_some() {
        return Err(AuthError::Repeated { header });
    }
    credential(value).ok_or(AuthError::Malformed)
}

/// The header's value without the scheme `Bearer`, which RFC 9110 (11.1) compares without regard to case.
fn credential(value: &HeaderValue) -> Option<&str> {
    let text = value.to_str().ok()?.trim();
    match text.split_once([' ', '\t']) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("bearer") => Some(rest.trim()),
        // Also another scheme, such as `Basic`: with it, the text is no key, and is refused as one.
        _ => Some(text),
    }
}

/// Removes the platform's key from a request that is to be forwarded to a sandbox, and keeps the application's own
/// `authorization`.
pub fn strip_platform_key(headers: &mut HeaderMap) {
    let platform: Vec<HeaderValue> = headers.get_all(LEAP0_AUTHORIZATION).iter().cloned().collect();
    // Without the other header, `authorization` was the platform's.
    if platform.is_empty() {
        headers.remove(AUTHORIZATION);
        return;
    }
    headers.remove(LEAP0_AUTHORIZATION);
    // A client may send the key in both headers. The key must never reach a sandbox (case 32), so `authorization` is
    // compared with it, with and without the scheme.
    let keys: Vec<&str> = platform.iter().filter_map(credential).collect();
    let is_platforms = |value: &HeaderValue| credential(value).is_some_and(|text| keys.contains(&text));
    if headers.get_all(AUTHORIZATION).iter().any(is_platforms) {
        let apps: Vec<HeaderValue> =
            headers.get_all(AUTHORIZATION).iter().filter(|value| !is_platforms(value)).cloned().collect();
        headers.remove(AUTHORIZATION);
        for value in apps {
            headers.append(AUTHORIZATION, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a row of the table expects to be found.
    type Found = Result<&'static str, &'static str>;
    /// A request's headers.
    type Pairs = &'static [(&'static str, &'static str)];

    fn headers(pairs: Pairs) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_key_is_found_exactly_where_the_table_says() {
        const A: &str = "authorization";
        const L: &str = "leap0-authorization";
        let table: &[(Pairs, Found)] = &[
            (&[], Err("no authorization header")),
            (&[(A, "k1")], Ok("k1")),
            (&[(A, "Bearer k1")], Ok("k1")),
            (&[(A, "bearer k1")], Ok("k1")),
            (&[(A, "BEARER   k1  ")], Ok("k1")),
            (&[(A, "Bearer\tk1")], Ok("k1")),
            (&[(A, "Bearerk1")], Ok("Bearerk1")),
            (&[(A, "Basic dTpw")], Ok("Basic dTpw")),
            (&[(A, "")], Ok("")),
            (&[(A, "Bearer ")], Ok("Bearer")),
            (&[(L, "k1")], Ok("k1")),
            (&[(L, "Bearer k1")], Ok("k1")),
            (&[(A, "Bearer apps"), (L, "k1")], Ok("k1")),
            (&[(L, "Bearer k1"), (A, "Basic dTpw")], Ok("k1")),
            (&[(A, "Bearer k1"), (L, "")], Ok("")),
            (&[(A, "k1"), (A, "k2")], Err("the authorization header is there more than once")),
            (&[(L, "k1"), (L, "k1")], Err("the leap0-authorization header is there more than once")),
            (&[(A, "a"), (A, "b"), (L, "k1")], Ok("k1")),
            (&[("x-api-key", "k1")], Err("no authorization header")),
        ];
        for (pairs, expected) in table {
            let headers = headers(pairs);
            let found = platform_key(&headers).map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(str::to_owned), "{pairs:?}");
        }
    }

    #[test]
    fn a_value_that_is_not_text_is_malformed() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_bytes(b"Bearer \xff").expect("a header value"));
        assert!(matches!(platform_key(&headers), Err(AuthError::Malformed)));
    }

    #[test]
    fn stripping_takes_the_platforms_key_and_keeps_the_apps_authorization() {
        const A: &str = "authorization";
        const L: &str = "leap0-authorization";
        let table: &[(Pairs, &[&str])] = &[
            (&[], &[]),
            (&[(A, "Bearer k1")], &[]),
            (&[(A, "k1"), (A, "k2")], &[]),
            (&[(L, "k1")], &[]),
            (&[(L, "k1"), (A, "Basic dTpw")], &["Basic dTpw"]),
            (&[(L, "Bearer k1"), (A, "Bearer apps")], &["Bearer apps"]),
            (&[(L, "Bearer k1"), (A, "k1")], &[]),
            (&[(L, "k1"), (A, "bearer k1"), (A, "Bearer apps"), (A, "x")], &["Bearer apps", "x"]),
        ];
        for (pairs, kept) in table {
            let mut headers = headers(pairs);
            headers.append("x-other", HeaderValue::from_static("stays"));
            strip_platform_key(&mut headers);
            let left: Vec<_> = headers.get_all(AUTHORIZATION).iter().map(|v| v.to_str().expect("text")).collect();
            assert_eq!(left, *kept, "{pairs:?}");
            assert!(!headers.contains_key(LEAP0_AUTHORIZATION), "{pairs:?}");
            assert!(headers.contains_key("x-other"));
        }
    }
}
