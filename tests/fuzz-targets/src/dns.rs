//! The way of a query through a sandbox's name server, and of an upstream's answer back, under each mode.

use leapbox_egress_policy::{Cidr, Evaluator, Policy};
use serde_json::json;
use std::sync::{Arc, LazyLock};

static EVALUATORS: LazyLock<[Evaluator; 3]> = LazyLock::new(|| {
    let custom = json!({
        "mode": "custom",
        "allow_domains": ["example.com", "*.example.com", "*.xn--bcher-kva.example"],
        "allow_cidrs": ["10.1.0.0/16"],
        "transforms": [{ "domain": "api.example.com", "strip_headers": ["cookie"] }],
    });
    [json!({ "mode": "allow-all" }), json!({ "mode": "deny-all" }), custom].map(|policy| {
        let policy = Policy::stored(&policy).expect("a policy");
        Evaluator::new(Arc::new(policy), vec![Cidr::parse("10.0.0.0/8").expect("a network")])
    })
});

/// Answers a query, and reads an upstream's answer, under each mode.
pub fn dns(bytes: &[u8]) {
    for evaluator in EVALUATORS.iter() {
        leapbox_network::fuzz::dns(bytes, evaluator);
    }
}
