//! The OpenAPI document, made from the handlers' descriptions and the types of `api-types`, and checked in as
//! `docs/openapi.json`.
//!
//! A test compares the two, so that the API does not change unseen.

use crate::routes;
use leapbox_api_types::FieldError;
use leapbox_api_types::error::ErrorBody;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("An API key, in `authorization` or `leap0-authorization`, with or without `Bearer `."))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Leapbox",
        description = "The control plane of Leapbox. Every path is accepted with and without a trailing slash."
    ),
    modifiers(&ApiKey),
    security(("api_key" = [])),
    components(schemas(ErrorBody, FieldError)),
)]
struct Document;

/// The document as JSON, ending in a newline.
pub fn openapi() -> Result<String, serde_json::Error> {
    let document = OpenApiRouter::with_openapi(Document::openapi());
    let document = routes::described().fold(document, OpenApiRouter::routes).into_openapi();
    document.to_pretty_json().map(|json| json + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::collections::HashSet;
    use std::path::Path;

    /// Every value of `name` anywhere in the document.
    fn values_of<'d>(name: &str, value: &'d Value, found: &mut Vec<&'d str>) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    match value.as_str() {
                        Some(text) if field == name => found.push(text),
                        _ => values_of(name, value, found),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| values_of(name, item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_resolves_and_operation_names_are_unique() {
        let document: Value = serde_json::from_str(&openapi().expect("a document")).expect("JSON");
        let mut references = Vec::new();
        values_of("$ref", &document, &mut references);
        assert!(!references.is_empty());
        for reference in references {
            assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference}");
        }
        let mut operations = Vec::new();
        values_of("operationId", &document["paths"], &mut operations);
        assert_eq!(operations.iter().collect::<HashSet<_>>().len(), operations.len(), "{operations:?}");
        assert_eq!(operations.len(), 21);
    }

    #[test]
    fn the_checked_in_document_is_what_the_code_says() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
        let made = openapi().expect("a document");
        if std::env::var_os("LEAPBOX_WRITE_OPENAPI").is_some() {
            std::fs::write(&file, &made).expect("written");
        }
        let checked_in = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(checked_in == made, "docs/openapi.json is out of date: run this test with LEAPBOX_WRITE_OPENAPI=1");
    }
}
