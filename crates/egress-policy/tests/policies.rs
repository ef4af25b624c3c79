//! Which objects of the API are policies, and what is wrong with the others.

use leapbox_egress_policy::{Cidr, CidrError, Policy, operator_cidr};
use serde_json::{Value, json};

fn parse(value: &Value) -> Result<Policy, Vec<String>> {
    Policy::parse(value, &[]).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn problems(value: &Value) -> Vec<String> {
    parse(value).expect_err("a bad policy")
}

/// The only problem of a `custom` policy with one more field.
fn problem(field: &str, value: Value) -> String {
    let mut problems = problems(&json!({ "mode": "custom", field: value }));
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

fn transform_problem(field: &str, value: Value) -> String {
    problem("transforms", json!([{ "domain": "api.example.com", field: value }]))
}

#[test]
fn the_three_modes_and_nothing_else() {
    assert_eq!(parse(&Value::Null), Ok(Policy::AllowAll));
    assert_eq!(parse(&json!({ "mode": "allow-all" })), Ok(Policy::default()));
    assert_eq!(parse(&json!({ "mode": "deny-all", "allow_domains": [], "transforms": null })), Ok(Policy::DenyAll));
    assert_eq!(parse(&json!({ "mode": "custom" })), Ok(Policy::Custom(Default::default())));
    for (mode, policy) in [("allow-all", Policy::AllowAll), ("custom", Policy::Custom(Default::default()))] {
        let lists = json!({ "mode": mode, "allow_domains": null, "allow_cidrs": [], "transforms": null });
        assert_eq!(parse(&lists), Ok(policy.clone()));
        let lists = json!({ "mode": mode, "allow_domains": [], "allow_cidrs": null, "transforms": [] });
        assert_eq!(parse(&lists), Ok(policy));
    }
    for bad in [json!({}), json!({ "mode": null }), json!({ "mode": "Custom" }), json!({ "mode": 1 })] {
        assert_eq!(problems(&bad), ["mode: must be one of allow-all, deny-all, custom"]);
    }
    assert_eq!(problems(&json!("deny-all")), ["must be an object"]);
}

#[test]
fn lists_belong_to_custom_alone() {
    for mode in ["allow-all", "deny-all"] {
        let policy =
            json!({ "mode": mode, "allow_domains": ["x.com"], "allow_cidrs": ["1.1.1.1"], "transforms": [{}] });
        let field = |list| format!("{list}: is for mode custom: leave it out, or set the mode");
        assert_eq!(problems(&policy), ["allow_domains", "allow_cidrs", "transforms"].map(field));
    }
    assert_eq!(problems(&json!({ "mode": "deny-all", "allow_domains": "x.com" })), ["allow_domains: must be an array"]);
}

#[test]
fn the_documented_example_is_a_policy() {
    let policy = parse(&json!({ "mode": "custom", "allow_cidrs": ["1.2.3.4/32"] })).expect("a policy");
    assert_eq!(policy.shown(), json!({ "mode": "custom", "allow_cidrs": ["1.2.3.4/32"] }));
}

#[test]
fn every_bad_entry_is_named() {
    let policy = json!({
        "mode": "custom",
        "allow_domains": ["ok.example.com", "http://x.com", 7],
        "allow_cidrs": ["10.0.0.0/8", "1.2.3.4/33", "8.8.8.8", "x.com"],
        "transforms": [{ "domain": "*" }, "x.com", { "inject_headers": { "Host": "x.com" }, "strip_headers": ["a b"] }],
        "something_new": true,
    });
    let at: Vec<String> = Policy::parse(&policy, &[]).expect_err("bad").into_iter().map(|problem| problem.at).collect();
    assert_eq!(
        at,
        [
            "allow_domains[1]",
            "allow_domains[2]",
            "allow_cidrs[0]",
            "allow_cidrs[1]",
            "allow_cidrs[3]",
            "transforms[0].domain",
            "transforms[1]",
            "transforms[2].domain",
            "transforms[2].inject_headers",
            "transforms[2].strip_headers[0]",
        ]
    );
}

#[test]
fn a_list_that_is_too_long_is_one_problem() {
    let domains = |count: usize| (0..count).map(|n| format!("d{n}.example.com")).collect::<Vec<_>>();
    let cidrs = |count: usize| (0..count).map(|n| format!("8.8.8.{n}")).collect::<Vec<_>>();
    let transforms =
        |count: usize| domains(count).into_iter().map(|domain| json!({ "domain": domain })).collect::<Vec<_>>();
    let most = json!({
        "mode": "custom", "allow_domains": domains(50), "allow_cidrs": cidrs(10), "transforms": transforms(20),
    });
    assert!(parse(&most).is_ok());
    assert_eq!(problem("allow_domains", json!(domains(51))), "allow_domains: has 51 entries, and 50 are allowed");
    assert_eq!(problem("allow_cidrs", json!(cidrs(11))), "allow_cidrs: has 11 entries, and 10 are allowed");
    assert_eq!(problem("transforms", json!(transforms(21))), "transforms: has 21 entries, and 20 are allowed");
    let headers: serde_json::Map<String, Value> = (0..33).map(|n| (format!("x-{n}"), json!("v"))).collect();
    assert_eq!(
        transform_problem("inject_headers", Value::Object(headers)),
        "transforms[0].inject_headers: has 33 entries, and 32 are allowed"
    );
    assert_eq!(
        transform_problem("strip_headers", json!(vec!["x"; 33])),
        "transforms[0].strip_headers: has 33 entries, and 32 are allowed"
    );
}

#[test]
fn a_network_is_ipv4_with_its_host_bits_masked_away() {
    for (text, network) in [
        ("1.2.3.4", "1.2.3.4/32"),
        ("1.2.3.4/32", "1.2.3.4/32"),
        ("1.2.3.4/24", "1.2.3.0/24"),
        ("1.2.3.4/0", "0.0.0.0/0"),
        ("255.255.255.255/1", "128.0.0.0/1"),
    ] {
        assert_eq!(Cidr::parse(text).map(|cidr| cidr.to_string()), Ok(network.to_owned()), "{text}");
    }
    for (text, error) in [
        ("2001:db8::/32", CidrError::Ipv6),
        ("::ffff:1.2.3.4", CidrError::Ipv6),
        ("example.com", CidrError::Domain),
        ("*.example.com", CidrError::Domain),
        ("1.2.3.4/33", CidrError::Prefix),
        ("1.2.3.4/", CidrError::Prefix),
        ("1.2.3.4/+8", CidrError::Prefix),
        ("1.2.3.4/256", CidrError::Prefix),
        ("1.2.3.0/255.255.255.0", CidrError::Prefix),
        ("1.2.3.4/8/8", CidrError::Prefix),
        ("1.2.3", CidrError::Text),
        ("010.1.2.3", CidrError::Text),
        ("0x01020304", CidrError::Text),
        (" 1.2.3.4", CidrError::Text),
        ("", CidrError::Text),
    ] {
        assert_eq!(Cidr::parse(text), Err(error), "{text}");
    }
}

#[test]
fn a_network_that_no_sandbox_may_reach_is_refused_unless_the_operator_opens_it() {
    let private = json!({ "mode": "custom", "allow_cidrs": ["10.1.0.0/16"] });
    assert_eq!(
        problems(&private),
        ["allow_cidrs[0]: is private (RFC 1918): no sandbox may reach it unless the operator lists it"]
    );
    let operator = |text: &str| [operator_cidr(text).expect("a network to open")];
    assert!(Policy::parse(&private, &operator("10.0.0.0/8")).is_ok());
    assert!(Policy::parse(&private, &operator("10.1.0.0/16")).is_ok());
    assert!(Policy::parse(&private, &operator("10.1.2.0/24")).is_err(), "it is wider than what is opened");
    // What spans several of the closed networks is closed as a whole, too.
    assert!(problem("allow_cidrs", json!(["224.0.0.0/3"])).contains("multicast"));
    assert!(problem("allow_cidrs", json!(["169.254.169.254"])).contains("metadata"));
    // What is partly public is good for that part.
    assert!(parse(&json!({ "mode": "custom", "allow_cidrs": ["0.0.0.0/0", "8.0.0.0/5"] })).is_ok());
}

#[test]
fn a_stored_policy_is_good_whatever_the_operator_opens_today() {
    let operator = [operator_cidr("10.0.0.0/8").expect("private")];
    let policy = Policy::parse(&json!({ "mode": "custom", "allow_cidrs": ["10.1.0.0/16"] }), &operator).expect("open");
    assert_eq!(Policy::stored(&policy.document()), Ok(policy));
}

#[test]
fn the_operator_never_opens_the_host_to_itself_or_the_metadata_address() {
    for text in ["10.0.0.0/8", "192.168.1.7", "100.64.0.0/10", "169.254.1.0/24", "8.8.8.8"] {
        assert!(operator_cidr(text).is_ok(), "{text}");
    }
    for text in
        ["0.0.0.0/0", "127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.169.254", "169.254.0.0/16"]
    {
        assert!(matches!(operator_cidr(text), Err(CidrError::NeverOpen { .. })), "{text}");
    }
    assert_eq!(operator_cidr("fd00::/8"), Err(CidrError::Ipv6));
}

#[test]
fn a_transform_touches_no_header_that_says_where_a_request_goes_or_ends() {
    for name in [
        "Host",
        "content-length",
        "Transfer-Encoding",
        "connection",
        "Keep-Alive",
        "TE",
        "trailer",
        "Upgrade",
        "Proxy-Authorization",
        "proxy-connection",
        ":authority",
        ":path",
        "",
        "a b",
        "x:y",
        "x\r\ny",
        "ü",
    ] {
        let injected = transform_problem("inject_headers", json!({ name: "secret" }));
        assert!(injected.starts_with("transforms[0].inject_headers: "), "{injected}");
        let stripped = transform_problem("strip_headers", json!([name]));
        assert!(stripped.starts_with("transforms[0].strip_headers[0]: "), "{stripped}");
    }
}

#[test]
fn a_headers_value_is_one_line_that_arrives_as_it_is() {
    for value in ["", "Bearer abc", "a  b", "Grüße", &"x".repeat(8192)] {
        let policy =
            json!({ "mode": "custom", "transforms": [{ "domain": "x.com", "inject_headers": { "a": value } }] });
        assert!(parse(&policy).is_ok(), "{value}");
    }
    for value in ["secret\r\nHost: evil", "secret\n", "sec\0ret", "sec\tret", "\u{7f}secret", " secret", "secret "] {
        let problem = transform_problem("inject_headers", json!({ "Authorization": value }));
        assert!(problem.contains("`authorization`") && !problem.contains("sec"), "{problem}");
    }
    let long = transform_problem("inject_headers", json!({ "a": "x".repeat(8193) }));
    assert_eq!(long, "transforms[0].inject_headers: the value of `a` is longer than 8 KiB");
    assert!(transform_problem("inject_headers", json!({ "a": ["secret"] })).ends_with("must be a string"));
    assert!(transform_problem("inject_headers", json!(["a"])).ends_with("must be an object of strings"));
}

#[test]
fn two_of_the_same_are_refused_whatever_their_case() {
    let twice = transform_problem("inject_headers", json!({ "X-Key": "1", "x-key": "2" }));
    assert_eq!(twice, "transforms[0].inject_headers: has `x-key` twice: case makes no difference");
    let twice = problem("transforms", json!([{ "domain": "x.com" }, { "domain": "*.x.com" }, { "domain": "X.com." }]));
    assert_eq!(twice, "transforms[2].domain: has a transform already: put both into one");
}

fn with_secret() -> Policy {
    parse(&json!({
        "mode": "custom",
        "allow_domains": ["*.Example.com"],
        "allow_cidrs": ["8.8.8.8/24"],
        "transforms": [
            { "domain": "api.example.com", "inject_headers": { "Authorization": "Bearer s3cr3t" },
              "strip_headers": ["Cookie", "cookie"] },
            { "domain": "other.example.com" },
        ],
    }))
    .expect("a policy")
}

#[test]
fn what_is_stored_comes_back_as_it_was() {
    for policy in [Policy::AllowAll, Policy::DenyAll, with_secret()] {
        assert_eq!(Policy::stored(&policy.document()), Ok(policy.clone()));
    }
    assert!(with_secret().has_secrets() && with_secret().has_transforms());
    assert!(!Policy::AllowAll.has_secrets() && !Policy::AllowAll.has_transforms());
}

#[test]
fn no_secret_is_shown() {
    let policy = with_secret();
    assert_eq!(
        policy.shown(),
        json!({
            "mode": "custom",
            "allow_domains": ["*.example.com"],
            "allow_cidrs": ["8.8.8.0/24"],
            "transforms": [
                { "domain": "api.example.com", "inject_headers": { "authorization": "[redacted]" },
                  "strip_headers": ["cookie"] },
                { "domain": "other.example.com" },
            ],
        })
    );
    assert!(!format!("{policy:?} {policy:#?}").contains("s3cr3t"));
    assert!(policy.document().to_string().contains("s3cr3t"));
}

#[test]
fn a_transform_removes_what_it_strips_and_what_it_injects() {
    let Policy::Custom(custom) = with_secret() else { panic!("custom") };
    assert!(custom.transforms[0].removes("cookie") && custom.transforms[0].removes("authorization"));
    assert!(!custom.transforms[0].removes("accept") && !custom.transforms[1].removes("cookie"));
}
