use super::*;
use leapbox_api_types::sandbox::SortOrder;
use leapbox_egress_policy::Policy;
use serde_json::json;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

/// On an installation whose operator lists nothing.
fn restore(body: &Map<String, Value>) -> Result<RestoreSnapshot, ApiError> {
    super::restore(body, &[])
}

/// `field: error` of every note.
fn refused<T>(result: Result<T, ApiError>) -> Vec<String> {
    match result {
        Ok(_) => Vec::new(),
        Err(ApiError::Validation(notes)) => {
            notes.into_iter().map(|note| format!("{}: {}", note.field, note.error)).collect()
        }
        Err(other) => panic!("not a validation error: {other:?}"),
    }
}

#[test]
fn an_empty_create_has_no_name_and_lets_its_sandbox_live() {
    let nothing = NewSnapshot { name: None, kill_sandbox_after: false };
    for body in [json!({}), json!({ "name": null, "kill_sandbox_after": null, "of_a_later_contract": 1 })] {
        assert_eq!(create(&object(body)), Ok(nothing.clone()));
    }
}

#[test]
fn what_the_sdk_sends_is_taken() {
    let new = create(&object(json!({ "name": " workspace warm\t", "kill_sandbox_after": true })));
    assert_eq!(new, Ok(NewSnapshot { name: Some("workspace warm".to_owned()), kill_sandbox_after: true }));

    let body = json!({
        "snapshot_name": "workspace warm ", "auto_pause": true, "timeout": 28800,
        "network_policy": { "mode": "allow-all" },
    });
    let expected = RestoreSnapshot {
        snapshot_name: "workspace warm".to_owned(),
        timeout_s: 28800,
        auto_pause: true,
        network_policy: Some(Policy::AllowAll),
    };
    assert_eq!(restore(&object(body)), Ok(expected));
    let defaults =
        RestoreSnapshot { snapshot_name: "x".to_owned(), timeout_s: 300, auto_pause: false, network_policy: None };
    assert_eq!(restore(&object(json!({ "snapshot_name": "x", "network_policy": null }))), Ok(defaults));

    let parameters = json!({ "query": "", "sort": "created_at", "order-by": "desc", "page": "1", "page-size": "20" });
    assert_eq!(list(&object(parameters)), list(&Map::new()));
}

#[test]
fn a_name_has_1_to_64_characters_and_no_control_characters() {
    for (name, problem) in [
        (json!("ü".repeat(64)), None),
        (json!("x".repeat(65)), Some("must be at most 64 characters long")),
        (json!(" \n "), Some("must not be empty")),
        (json!("a\u{7}b"), Some("must not contain control characters")),
        (json!("a\0b"), Some("must not contain a NUL byte")),
        (json!(7), Some("must be a string")),
    ] {
        let expected =
            |field: &str| problem.map(|problem| format!("{field}: {problem}")).into_iter().collect::<Vec<_>>();
        assert_eq!(refused(create(&object(json!({ "name": name })))), expected("name"));
        assert_eq!(refused(restore(&object(json!({ "snapshot_name": name })))), expected("snapshot_name"));
    }
}

#[test]
fn every_bad_field_is_named_at_once() {
    assert_eq!(
        refused(create(&object(json!({ "name": "", "kill_sandbox_after": "yes" })))),
        ["name: must not be empty", "kill_sandbox_after: must be true or false"]
    );
    let body = json!({ "timeout": 0, "auto_pause": 1, "network_policy": { "mode": "denied" } });
    assert_eq!(
        refused(restore(&object(body))),
        [
            "snapshot_name: is required",
            "timeout: must be an integer between 1 and 28800",
            "auto_pause: must be true or false",
            "network_policy.mode: must be one of allow-all, deny-all, custom",
        ]
    );
    let parameters = json!({ "query": "x".repeat(65), "sort": "name", "order-by": "", "page": "0", "page-size": "" });
    assert_eq!(
        refused(list(&object(parameters))),
        [
            "query: must be at most 64 characters long",
            "sort: must be one of created_at, template_id",
            "order-by: must be one of asc, desc",
            "page: must be an integer of at least 1",
            "page-size: must be an integer between 1 and 100",
        ]
    );
}

#[test]
fn a_full_list_query_is_taken_and_its_text_is_not_trimmed() {
    let parameters =
        json!({ "query": " %a", "sort": "template_id", "order-by": "asc", "page": "3", "page-size": "100" });
    let expected = SnapshotListQuery {
        name: Some(" %a".to_owned()),
        sort: SnapshotSort::Template,
        order: SortOrder::Ascending,
        page: 3,
        page_size: 100,
    };
    assert_eq!(list(&object(parameters)), Ok(expected));
}
