//! Errors as HTTP responses, and the answers that belong to no resource.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use leapbox_api_types::ApiError;

/// An [`ApiError`] that a handler can return. axum turns it into the response.
#[derive(Debug)]
pub(crate) struct Failure(pub ApiError);

impl<E: Into<ApiError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Failure(error) = self;
        let mut response = (error.status(), Json(error.body())).into_response();
        if let Some(seconds) = error.retry_after_s() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if error == ApiError::Unauthorized {
            // RFC 9110, 11.6.1: a 401 names a way to authenticate.
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Answers `GET /healthz`, for load balancers and scripts that wait for the server.
pub(crate) async fn healthy() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "ok" }))
}

/// Answers a path that is not in the API.
pub(crate) async fn unknown_path() -> Failure {
    Failure(ApiError::NotFound("there is no such path in this API".to_owned()))
}

/// Answers a known path with another method. axum adds `Allow`.
pub(crate) async fn wrong_method() -> Failure {
    Failure(ApiError::MethodNotAllowed)
}
