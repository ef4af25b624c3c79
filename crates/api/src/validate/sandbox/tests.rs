use super::*;
use leapbox_api_types::sandbox::SortOrder;
use leapbox_egress_policy::Policy;
use serde_json::json;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

/// On an installation whose operator lists nothing.
fn create(body: &Map<String, Value>) -> Result<NewSandbox, ApiError> {
    super::create(body, &[])
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

fn create_refused(body: Value) -> Vec<String> {
    refused(create(&object(body)))
}

fn list_refused(query: Value) -> Vec<String> {
    refused(list(&object(query)))
}

#[test]
fn an_empty_create_gets_the_defaults() {
    let new = create(&Map::new()).expect("valid");
    assert_eq!(new.template_name, "system/debian:bookworm");
    assert_eq!((new.vcpu, new.memory_mib, new.timeout_s), (1, 1024, 300));
    assert!(new.env_vars.is_empty() && !new.auto_pause);
}

#[test]
fn what_the_sdk_sends_is_taken() {
    let body = json!({
        "template_name": " system/debian:bookworm ", "vcpu": 8, "memory": 8192, "timeout": 28800,
        "auto_pause": true, "env_vars": { "B": "2", "A": "1" }, "network_policy": null,
        "something_of_a_later_contract": 1,
    });
    let new = create(&object(body)).expect("valid");
    assert_eq!(new.template_name, "system/debian:bookworm");
    assert_eq!((new.vcpu, new.memory_mib, new.timeout_s, new.auto_pause), (8, 8192, 28800, true));
    assert_eq!(new.env_vars, [("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
}

#[test]
fn every_bad_field_is_named_at_once() {
    let body = json!({
        "template_name": "", "vcpu": 9, "memory": 511, "timeout": 0, "env_vars": [], "auto_pause": "yes",
        "mounts": {}, "network_policy": "deny-all",
    });
    assert_eq!(
        create_refused(body),
        [
            "template_name: must not be empty",
            "vcpu: must be an integer between 1 and 8",
            "memory: must be an integer between 512 and 8192",
            "timeout: must be an integer between 1 and 28800",
            "env_vars: must be an object of strings",
            "auto_pause: must be true or false",
            "network_policy: must be an object",
            "mounts: must be an array",
        ]
    );
}

#[test]
fn bounds_are_inclusive() {
    for (field, good, bad) in
        [("vcpu", [1, 8], [0, 9]), ("memory", [512, 8192], [510, 8194]), ("timeout", [1, 28800], [0, 28801])]
    {
        for value in good {
            assert_eq!(create_refused(json!({ field: value })), Vec::<String>::new());
        }
        for value in bad {
            assert_eq!(create_refused(json!({ field: value })).len(), 1, "{field} {value}");
        }
    }
}

#[test]
fn odd_memory_is_refused() {
    assert_eq!(create_refused(json!({ "memory": 1025 })), ["memory: must be an even number of MiB"]);
    assert_eq!(create_refused(json!({ "memory": 513 })), ["memory: must be an even number of MiB"]);
}

#[test]
fn a_template_name_has_at_most_64_characters_and_no_control_characters() {
    assert!(create_refused(json!({ "template_name": "ü".repeat(64) })).is_empty());
    assert_eq!(
        create_refused(json!({ "template_name": "x".repeat(65) })),
        ["template_name: must be at most 64 characters long"]
    );
    assert_eq!(create_refused(json!({ "template_name": "  " })), ["template_name: must not be empty"]);
    assert_eq!(
        create_refused(json!({ "template_name": "a\nb" })),
        ["template_name: must not contain control characters"]
    );
    assert_eq!(create_refused(json!({ "template_name": 7 })), ["template_name: must be a string"]);
}

#[test]
fn fields_of_later_versions_are_refused_never_ignored() {
    assert_eq!(
        create_refused(json!({ "mounts": [{ "type": "object-storage" }] })),
        ["mounts: mounts are not supported yet; leave the field out"]
    );
}

#[test]
fn a_policy_is_taken_and_every_bad_entry_of_one_is_named() {
    let policy = json!({ "mode": "custom", "allow_cidrs": ["1.2.3.4/32"], "allow_domains": ["*.example.com"] });
    let new = create(&object(json!({ "network_policy": policy }))).expect("valid");
    assert!(matches!(new.network_policy, Policy::Custom(_)));
    assert_eq!(create(&Map::new()).expect("valid").network_policy, Policy::AllowAll);

    let policy = json!({ "mode": "custom", "allow_cidrs": ["1.2.3.4/32", "10.0.0.0/8"], "allow_domains": [7] });
    let refused = create_refused(json!({ "network_policy": policy }));
    let fields: Vec<&str> = refused.iter().filter_map(|note| note.split(':').next()).collect();
    assert_eq!(fields, ["network_policy.allow_domains[0]", "network_policy.allow_cidrs[1]"]);
    assert_eq!(create_refused(json!({ "network_policy": { "mode": "Allow-All" } })).len(), 1);
}

#[test]
fn what_the_operator_lists_a_policy_may_open() {
    let body = object(json!({ "network_policy": { "mode": "custom", "allow_cidrs": ["10.1.2.0/24"] } }));
    let private = [Cidr::parse("10.1.0.0/16").expect("cidr")];
    assert!(super::create(&body, &private).is_ok());
    assert!(super::create(&body, &[]).is_err());
}

#[test]
fn what_asks_for_nothing_new_is_taken() {
    for body in [
        json!({ "mounts": [] }),
        json!({ "mounts": null }),
        json!({ "auto_pause": null }),
        json!({ "network_policy": { "mode": "allow-all" } }),
        json!({ "network_policy": { "mode": "allow-all", "allow_domains": [], "allow_cidrs": null } }),
    ] {
        assert_eq!(create_refused(body), Vec::<String>::new());
    }
}

#[test]
fn an_empty_list_query_gets_the_defaults() {
    let query = list(&Map::new()).expect("valid");
    assert_eq!(
        (query.state, query.sort, query.order, query.page, query.page_size),
        (None, SandboxSort::CreatedAt, SortOrder::Descending, 1, 20)
    );
}

#[test]
fn a_full_list_query_is_taken() {
    let parameters =
        json!({ "state": "running", "sort": "state", "order-by": "asc", "page": "3", "page-size": "100", "x": "y" });
    let query = list(&object(parameters)).expect("valid");
    assert_eq!(
        (query.state, query.sort, query.order, query.page, query.page_size),
        (Some(SandboxState::Running), SandboxSort::State, SortOrder::Ascending, 3, 100)
    );
}

#[test]
fn every_bad_parameter_is_named_at_once() {
    let parameters = json!({ "state": "deleted", "sort": "name", "order-by": "ASC", "page": "0", "page-size": "101" });
    assert_eq!(
        list_refused(parameters),
        [
            "state: must be one of starting, running, snapshotting, paused, unpausing, stopping, stopped, deleting",
            "sort: must be one of created_at, state",
            "order-by: must be one of asc, desc",
            "page: must be an integer of at least 1",
            "page-size: must be an integer between 1 and 100",
        ]
    );
}

#[test]
fn a_page_is_a_plain_decimal_number() {
    for bad in ["", "-1", "+1", "1.0", "1e2", " 1", "0x1", "99999999999999999999999"] {
        assert_eq!(list_refused(json!({ "page": bad })), ["page: must be an integer of at least 1"], "{bad}");
    }
    assert_eq!(list(&object(json!({ "page": "007" }))).map(|query| query.page), Ok(7));
}
