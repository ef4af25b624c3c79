//! The answers to requests that are not passed on.

use super::body::Answer;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode, Version};
use leapbox_egress_policy::Denial;

/// How a request is refused: the denial, which is the reason, and the answer to it.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// Written to the journal, and the text of the answer. It names what the guest has done or asked for, and no
    /// secret.
    pub(crate) denial: Denial,
    /// Whether the guest's connection is to be closed, because only a new one can succeed.
    pub(crate) closes: bool,
}

impl Refusal {
    /// Refuses with 502: the upstream cannot be used, or has not answered.
    pub(crate) fn upstream(denial: Denial) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, denial, closes: false }
    }

    pub(crate) fn answer(&self, version: Version) -> Response<Answer> {
        let text = format!("Leapbox did not pass this request on: {}\n", self.denial);
        let mut response = Response::new(Answer::from_text(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.closes && version != Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
