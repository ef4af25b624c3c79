//! The extractor for query strings.

use crate::answer::Failure;
use axum::extract::FromRequestParts;
use axum::extract::rejection::QueryRejection;
use http::request::Parts;
use leapbox_api_types::ApiError;
use leapbox_errors::chain;
use serde_json::{Map, Value};

/// The query's parameters as a JSON object of strings, so that one set of checks serves bodies and queries. Of a
/// parameter that is given twice, the last value counts.
pub(crate) struct Query(pub Map<String, Value>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri).map_err(unreadable)?;
        Ok(Query(pairs.0.into_iter().map(|(name, value)| (name, Value::String(value))).collect()))
    }
}

fn unreadable(error: QueryRejection) -> Failure {
    tracing::debug!(error = %chain(&error), "a request's query string cannot be decoded");
    Failure(ApiError::BadRequest("the query string cannot be decoded; percent-encode its values as UTF-8".to_owned()))
}
