//! What an evaluator says to names and addresses.

use leapbox_egress_policy::{CLOSED_NETWORKS, Cidr, Denial, DomainName, Evaluator, Passage, Policy};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::sync::Arc;

fn evaluator(policy: &Value, operator: &[&str]) -> Evaluator {
    let operator: Vec<Cidr> = operator.iter().map(|text| Cidr::parse(text).expect("a network")).collect();
    Evaluator::new(Arc::new(Policy::stored(policy).expect("a policy")), operator)
}

fn name(text: &str) -> DomainName {
    DomainName::parse(text).expect("a name")
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

/// The pattern of the transform through which the name goes, `opaque`, or the rule that refuses it.
fn decided(evaluator: &Evaluator, text: &str) -> String {
    match evaluator.name(&name(text)) {
        Ok(Passage::Opaque) => "opaque".into(),
        Ok(Passage::Transform(transform)) => transform.domain.to_string(),
        Err(denial) => denial.rule().into(),
    }
}

#[test]
fn allow_all_lets_every_name_and_public_address_through() {
    let all = evaluator(&json!({ "mode": "allow-all" }), &["10.0.0.0/8"]);
    assert_eq!(decided(&all, "anything.example"), "opaque");
    assert_eq!(all.direct(), [(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)]);
    assert_eq!(all.address(address("8.8.8.8")), Ok(()));
    assert!(all.address(address("10.0.0.1")).is_err(), "the operator opens it to who names it");
    assert!(all.opened_networks().is_empty());
}

#[test]
fn deny_all_lets_nothing_through() {
    let none = evaluator(&json!({ "mode": "deny-all" }), &["10.0.0.0/8"]);
    assert_eq!(none.name(&name("example.com")), Err(Denial::DenyAll));
    assert_eq!(none.address(address("8.8.8.8")), Err(Denial::DenyAll));
    assert!(none.direct().is_empty() && none.opened_networks().is_empty());
}

#[test]
fn custom_denies_what_it_does_not_list() {
    let custom = evaluator(&json!({ "mode": "custom", "allow_domains": ["a.example.com", "*.b.example.com"] }), &[]);
    assert_eq!(decided(&custom, "a.example.com"), "opaque");
    assert_eq!(decided(&custom, "x.b.example.com"), "opaque");
    for denied in ["b.example.com", "x.a.example.com", "example.com", "localhost"] {
        assert_eq!(custom.name(&name(denied)), Err(Denial::Name { name: name(denied) }));
    }
    assert!(custom.direct().is_empty());
}

#[test]
fn transforms_go_first_and_the_most_particular_of_them() {
    let custom = evaluator(
        &json!({
            "mode": "custom",
            "allow_domains": ["api.example.com", "*.free.example.com"],
            "transforms": [
                { "domain": "*.example.com" }, { "domain": "*.deep.example.com" }, { "domain": "api.example.com" },
            ],
        }),
        &[],
    );
    for (asked, answer) in [
        ("api.example.com", "api.example.com"),
        ("www.example.com", "*.example.com"),
        ("deep.example.com", "*.example.com"),
        ("a.deep.example.com", "*.deep.example.com"),
        ("a.b.deep.example.com", "*.deep.example.com"),
        ("a.free.example.com", "*.example.com"),
        ("example.com", "name"),
    ] {
        assert_eq!(decided(&custom, asked), answer, "{asked}");
    }
}

#[test]
fn case_16_an_allowed_name_leads_nowhere_inside() {
    let custom =
        evaluator(&json!({ "mode": "custom", "allow_domains": ["x.com"], "allow_cidrs": ["10.0.0.0/8"] }), &[]);
    for (network, _) in CLOSED_NETWORKS {
        let network = Cidr::parse(network).expect("a network");
        for inside in [network.first(), network.last()] {
            assert!(matches!(custom.address(inside), Err(Denial::Address { .. })), "{inside}");
        }
    }
    for public in
        ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.32.0.0", "223.255.255.255"]
    {
        assert_eq!(custom.address(address(public)), Ok(()), "{public}");
    }
}

#[test]
fn case_16_unless_operator_and_policy_both_name_it() {
    let policy =
        json!({ "mode": "custom", "allow_cidrs": ["10.1.0.0/16", "10.1.2.0/24", "10.2.3.4", "192.168.0.0/16"] });
    let custom = evaluator(&policy, &["10.1.2.0/24", "10.1.3.0/24", "10.2.0.0/16", "172.16.0.0/12"]);
    let open: Vec<String> = custom.opened_networks().iter().map(ToString::to_string).collect();
    assert_eq!(open, ["10.1.2.0/24", "10.2.3.4/32"]);
    for inside in ["10.1.2.0", "10.1.2.255", "10.2.3.4"] {
        assert_eq!(custom.address(address(inside)), Ok(()), "{inside}");
    }
    for closed in ["10.1.3.0", "10.1.4.0", "10.2.3.5", "192.168.0.1", "172.16.0.1", "127.0.0.1"] {
        assert!(custom.address(address(closed)).is_err(), "{closed}");
    }
}

#[test]
fn whoever_allows_everything_has_named_no_private_network() {
    let policy = json!({ "mode": "custom", "allow_cidrs": ["0.0.0.0/0"] });
    let everything = evaluator(&policy, &["10.0.0.0/8"]);
    assert!(everything.opened_networks().is_empty());
    assert!(everything.address(address("10.0.0.1")).is_err());
    assert_eq!(everything.address(address("8.8.8.8")), Ok(()));
}

#[test]
fn opened_networks_do_not_overlap() {
    let policy =
        json!({ "mode": "custom", "allow_cidrs": ["10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/24", "10.128.0.0/9"] });
    let open: Vec<String> =
        evaluator(&policy, &["10.0.0.0/8", "10.0.0.0/12"]).opened_networks().iter().map(ToString::to_string).collect();
    assert_eq!(open, ["10.0.0.0/8"]);
}

#[test]
fn every_denial_has_a_rule_of_its_own_and_one_line_for_the_log() {
    let host = name("x.com");
    let text = "evil\n".repeat(100);
    let denials = [
        Denial::DenyAll,
        Denial::Name { name: host.clone() },
        Denial::not_a_name(&text),
        Denial::Address { address: Ipv4Addr::LOCALHOST, what: "loopback" },
        Denial::Packet { protocol: "UDP", address: Ipv4Addr::LOCALHOST, port: Some(443) },
        Denial::NoName,
        Denial::EncryptedHello,
        Denial::Malformed { what: "a line" },
        Denial::Authority { name: host.clone() },
        Denial::QueryType { name: host.clone(), kind: "NULL".into() },
        Denial::TooMany { what: "connections" },
        Denial::Slow { what: "the hello" },
        Denial::Unresolved { name: host.clone() },
        Denial::ServerSilent { name: host.clone() },
        Denial::Upstream { name: host, what: "its certificate has expired".into() },
    ];
    assert_eq!(denials.each_ref().map(Denial::rule), *Denial::RULES);
    for denial in denials {
        let text = denial.to_string();
        assert!(!text.contains('\n') && text.len() < 250, "{text}");
    }
}

fn cidrs() -> impl Strategy<Value = Vec<Cidr>> {
    // Few distinct networks, so that they touch, nest and repeat.
    let cidr = (0_u8..4, 0_u8..4, 0_u8..=32, any::<bool>()).prop_map(|(high, low, prefix, top)| {
        let base = if top { 252 } else { 8 };
        Cidr::parse(&format!("{}.255.0.{low}/{prefix}", base + high)).expect("a network")
    });
    prop::collection::vec(cidr, 0..10)
}

proptest! {
    #[test]
    fn what_leaves_directly_is_what_any_network_contains(cidrs in cidrs()) {
        let texts: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
        let direct = evaluator(&json!({ "mode": "custom", "allow_cidrs": texts }), &[]).direct();
        for pair in direct.windows(2) {
            prop_assert!(u64::from(pair[0].1.to_bits()) + 1 < u64::from(pair[1].0.to_bits()), "{direct:?}");
        }
        for edge in cidrs.iter().flat_map(|cidr| [cidr.first(), cidr.last()]) {
            for near in [edge.to_bits().saturating_sub(1), edge.to_bits(), edge.to_bits().saturating_add(1)] {
                let near = Ipv4Addr::from_bits(near);
                let inside = direct.iter().any(|(first, last)| *first <= near && near <= *last);
                prop_assert_eq!(inside, cidrs.iter().any(|cidr| cidr.contains(near)), "{}", near);
            }
        }
    }

    #[test]
    fn opened_networks_are_those_that_lie_in_one_of_the_operators(allowed in cidrs(), operator in cidrs()) {
        let texts = |cidrs: &[Cidr]| cidrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        let listed = texts(&operator);
        let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
        let policy = json!({ "mode": "custom", "allow_cidrs": texts(&allowed) });
        let opened = evaluator(&policy, &listed).opened_networks();
        let is_listed = |cidr: &Cidr| operator.iter().any(|open| open.contains_all(cidr));
        for edge in allowed.iter().chain(&operator).flat_map(|cidr| [cidr.first(), cidr.last()]) {
            let covering = opened.iter().filter(|cidr| cidr.contains(edge)).count();
            let named = allowed.iter().any(|cidr| is_listed(cidr) && cidr.contains(edge));
            prop_assert_eq!(covering, usize::from(named), "{}", edge);
        }
    }
}
