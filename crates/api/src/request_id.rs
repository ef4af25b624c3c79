//! The id under which a request is found in the log: the client's own, or a generated one.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that carries the id in the request and in the answer.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Bytes of the longest id that is taken from a client.
// The id is in every log line of its request, so its length is paid for with each of them.
const LEN_MAX: usize = 128;

/// The client's id if it is harmless in a log, else a new one of 32 hex digits.
pub(crate) fn of(headers: &HeaderMap) -> HeaderValue {
    match headers.get(X_REQUEST_ID) {
        Some(value) if is_harmless(value.as_bytes()) => value.clone(),
        _ => generated(),
    }
}

fn is_harmless(id: &[u8]) -> bool {
    // Nothing that could end a field or a line of the log, and so forge another.
    (1..=LEN_MAX).contains(&id.len())
        && id.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn generated() -> HeaderValue {
    // Without random bytes the request is served all the same, with an id that is not unique.
    let id = u128::from(getrandom::u64().unwrap_or(0)) << 64 | u128::from(getrandom::u64().unwrap_or(0));
    HeaderValue::from_str(&format!("{id:032x}")).unwrap_or(HeaderValue::from_static("none"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(asked: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_str(asked).expect("a header value"));
        of(&headers).to_str().expect("text").to_owned()
    }

    #[test]
    fn a_harmless_id_is_kept() {
        for id in ["a", "0e1f.A-b_c", &"x".repeat(LEN_MAX)] {
            assert_eq!(answered(id), *id);
        }
    }

    #[test]
    fn an_id_that_is_too_long_or_could_forge_a_log_line_is_replaced() {
        for id in ["", " ", "a b", "a=\"b\"", &"x".repeat(LEN_MAX + 1)] {
            assert_eq!(answered(id).len(), 32, "{id}");
        }
    }

    #[test]
    fn made_up_ids_differ() {
        assert_ne!(of(&HeaderMap::new()), of(&HeaderMap::new()));
    }
}
