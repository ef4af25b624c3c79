use super::*;
use proptest::prelude::*;
use serde_json::json;

/// The notes that reading `field` of `body` with `read` leaves.
fn notes<T>(body: Value, read: impl FnOnce(&mut Fields<'_>) -> T) -> Vec<String> {
    let body = body.as_object().expect("an object").clone();
    let mut fields = Fields::new(&body);
    read(&mut fields);
    fields.notes.into_iter().map(|note| format!("{}: {}", note.field, note.error)).collect()
}

#[test]
fn an_integer_may_be_written_with_a_zero_fraction_and_nothing_else() {
    for (value, expected) in [
        (json!(1), Some(1)),
        (json!(8), Some(8)),
        (json!(2.0), Some(2)),
        (json!(0), None),
        (json!(9), None),
        (json!(-1), None),
        (json!(2.5), None),
        (json!(1e300), None),
        (json!(u64::MAX), None),
        (json!("2"), None),
        (json!(true), None),
        (json!([2]), None),
    ] {
        let body = json!({ "vcpu": value });
        let body = body.as_object().expect("an object");
        let mut fields = Fields::new(body);
        assert_eq!(fields.integer("vcpu", 1..=8), expected, "{body:?}");
        let refused: Vec<_> = fields.notes.iter().map(|note| note.error.as_str()).collect();
        let expected: &[&str] = if expected.is_some() { &[] } else { &["must be an integer between 1 and 8"] };
        assert_eq!(refused, expected, "{body:?}");
    }
}

#[test]
fn null_and_absent_are_the_same() {
    for body in [json!({}), json!({ "x": null })] {
        let found = notes(body.clone(), |fields| {
            assert_eq!(fields.integer("x", 1..=8), None);
            assert!(!fields.flag("x"));
            assert_eq!(fields.text("x"), None);
            assert_eq!(fields.permissions("x"), None);
            assert!(fields.texts("x", 3).is_empty());
            assert!(fields.environment("x").is_empty());
        });
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(notes(body, |fields| fields.path("x")), ["x: is required"]);
    }
}

#[test]
fn a_required_text_is_a_text_not_empty_not_too_long_and_without_nul() {
    for (value, expected) in [
        (json!(""), "x: must not be empty"),
        (json!(5), "x: must be a string"),
        (json!("a\0b"), "x: must not contain a NUL byte"),
        (json!("abcd"), "x: must be at most 3 bytes long"),
    ] {
        assert_eq!(notes(json!({ "x": value }), |fields| fields.required_text("x", 3)), [expected]);
    }
    assert!(notes(json!({ "x": "abc" }), |fields| fields.required_text("x", 3)).is_empty());
}

#[test]
fn permissions_are_octal() {
    for (text, expected) in [
        ("755", Some(0o755)),
        ("0644", Some(0o644)),
        ("7777", Some(0o7777)),
        ("07777", Some(0o7777)),
        ("0", Some(0)),
        ("", None),
        ("888", None),
        ("10000", None),
        ("0o755", None),
        ("+755", None),
        ("-1", None),
        ("rwxr-xr-x", None),
        ("000755", None),
    ] {
        let body = json!({ "permissions": text });
        let mut fields = Fields::new(body.as_object().expect("an object"));
        assert_eq!(fields.permissions("permissions"), expected, "{text}");
        assert_eq!(fields.notes.is_empty(), expected.is_some(), "{text}");
    }
    assert_eq!(notes(json!({ "x": 755 }), |fields| fields.permissions("x")), ["x: must be a string"]);
}

#[test]
fn a_list_of_texts_is_bounded_and_all_text() {
    assert_eq!(notes(json!({ "x": "a" }), |fields| fields.texts("x", 2)), ["x: must be an array of strings"]);
    assert_eq!(
        notes(json!({ "x": ["a", "b", "c"] }), |fields| fields.texts("x", 2)),
        ["x: must have at most 2 entries"]
    );
    let mixed = "x: every entry must be a string without NUL bytes";
    assert_eq!(notes(json!({ "x": ["a", 1] }), |fields| fields.texts("x", 2)), [mixed]);
    assert_eq!(notes(json!({ "x": ["a\0"] }), |fields| fields.texts("x", 2)), [mixed]);
}

#[test]
fn every_bad_variable_is_named() {
    let body =
        json!({ "env_vars": { "": "a", "A=B": "b", "N": 5, "OK": "fine", "Z": "a\0", "\u{0}": "c", "NULL": null } });
    let mut found = notes(body, |fields| {
        assert_eq!(fields.environment("env_vars"), [("OK".to_owned(), "fine".to_owned())]);
    });
    found.sort();
    assert_eq!(
        found,
        [
            "env_vars: a variable's name must not be empty",
            "env_vars: the name \"A=B\" must not contain `=` or a NUL byte",
            "env_vars: the name \"\\0\" must not contain `=` or a NUL byte",
            "env_vars: the value of \"N\" must be a string",
            "env_vars: the value of \"NULL\" must be a string",
            "env_vars: the value of \"Z\" must not contain a NUL byte",
        ]
    );
}

#[test]
fn variables_are_bounded_in_number_and_in_bytes() {
    let many: Map<String, Value> = (0..=ENV_COUNT_MAX).map(|n| (format!("V{n}"), json!(""))).collect();
    assert_eq!(notes(json!({ "e": many }), |fields| fields.environment("e")), ["e: must have at most 4096 variables"]);
    let fits = "x".repeat(ENV_BYTES_MAX - 3);
    assert!(notes(json!({ "e": { "A": fits } }), |fields| fields.environment("e")).is_empty());
    let found = notes(json!({ "e": { "A": format!("{fits}x") } }), |fields| fields.environment("e"));
    assert_eq!(found, ["e: must be at most 65536 bytes in all; these are 65537"]);
}

#[test]
fn an_answer_does_not_grow_with_the_number_of_mistakes_nor_with_their_length() {
    let bad: Map<String, Value> = (0..1000).map(|n| (format!("{n}{}", "=".repeat(5000)), json!(""))).collect();
    let found = notes(json!({ "e": bad }), |fields| fields.environment("e"));
    assert_eq!(found.len(), NOTES_MAX);
    assert!(found.iter().all(|note| note.len() < 400), "{}", found[0]);
}

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,4}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_a_field_holds_it_is_either_taken_or_noted(value in any_json()) {
        let body = json!({ "x": value });
        let body = body.as_object().expect("an object");
        let mut fields = Fields::new(body);
        let taken = fields.integer("x", 0..=u64::MAX).is_some();
        prop_assert!(taken || body["x"].is_null() || fields.notes.len() == 1);
        let mut fields = Fields::new(body);
        let taken = fields.text("x").is_some();
        prop_assert!(taken || body["x"].is_null() || fields.notes.len() == 1);
        let mut fields = Fields::new(body);
        let pairs = fields.environment("x");
        let all = body["x"].as_object().is_some_and(|map| map.len() == pairs.len());
        prop_assert!(all || body["x"].is_null() || !fields.notes.is_empty());
        let sound = |(name, value): &(String, String)| {
            !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0')
        };
        prop_assert!(pairs.iter().all(sound));
    }
}
