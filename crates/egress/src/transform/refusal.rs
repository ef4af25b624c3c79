//! What the guest reads when a request of its is not passed on.

use super::body::Answer;
use http::header::{CONNECTION, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode, Version};
use leapbox_egress_policy::Denial;

/// Why a request is not passed on.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    /// Also the guest's text: it names what the guest did or asked for, and no secret.
    pub(crate) denial: Denial,
    /// The guest should come again on a new connection.
    pub(crate) closes: bool,
}

impl Refusal {
    /// The upstream can't be used, or gave no answer.
    pub(crate) fn upstream(denial: Denial) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, denial, closes: false }
    }

    pub(crate) fn answer(&self, version: Version) -> Response<Answer> {
        let text = format!("Leapbox did not pass this request on: {}\n", self.denial);
        let mut response = Response::new(Answer::ours(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self.closes && version != Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
