//! Compares two listings of the host-wide table. It does no I/O.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a table has: its chains, sets and rules, and the number of elements of each set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Each object as JSON, without what differs between tables that were made alike: its handle and its elements.
    objects: BTreeSet<String>,
    elements: BTreeMap<String, usize>,
}

impl Listing {
    /// Reads what `nft -j list table` has printed. What is not understood counts as missing.
    pub(crate) fn parse(json: &str) -> Self {
        let listing: Value = serde_json::from_str(json).unwrap_or_default();
        let mut found = Self::default();
        let entries = listing["nftables"].as_array().into_iter().flatten();
        for (kind, object) in entries.filter_map(Value::as_object).flatten() {
            // nft's own version, which an update changes under a running server.
            if kind == "metainfo" {
                continue;
            }
            let Some(mut object) = object.as_object().cloned() else { continue };
            object.remove("handle");
            if kind == "set" {
                let name = object.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                let elements = object.remove("elem").and_then(|list| list.as_array().map(Vec::len));
                found.elements.insert(name, elements.unwrap_or(0));
            }
            found.objects.insert(format!("{kind} {}", Value::Object(object)));
        }
        found
    }

    /// Whether everything that `expected` has is here: each chain, set and rule, and elements in each set that must
    /// have some. Elements are not compared one by one, because nft lists ours merged with those that an older server
    /// has left.
    pub(crate) fn has_all_of(&self, expected: &Self) -> bool {
        let mut sets = expected.elements.iter().filter(|(_, count)| **count > 0);
        expected.objects.is_subset(&self.objects) && sets.all(|(set, _)| self.elements(set) > 0)
    }

    /// The number of elements of a set; 0 if there is no such set.
    pub(crate) fn elements(&self, set: &str) -> usize {
        self.elements.get(set).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = r#", {"rule": {"table": "t", "chain": "c", "handle": 9, "expr": [{"drop": null}]}}"#;

    fn listing(handle: u32, elements: &str, rule: &str) -> Listing {
        Listing::parse(&format!(
            r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}}, {{"table": {{"name": "t", "handle": {handle}}}}},
                {{"set": {{"name": "blocked", "handle": {handle}{elements}}}}},
                {{"chain": {{"name": "c", "handle": {handle}, "hook": "forward"}}}}{rule}]}}"#
        ))
    }

    #[test]
    fn the_same_table_made_anew_lacks_nothing_and_more_than_that_is_no_fault() {
        let expected = listing(1, r#", "elem": ["10.0.0.1", "10.0.0.3"]"#, RULE);
        assert_eq!((expected.objects.len(), expected.elements("blocked")), (4, 2));
        let other = format!("{RULE}{}", RULE.replace("drop", "accept"));
        assert!(listing(7, r#", "elem": ["10.0.0.0-10.0.0.3"]"#, &other).has_all_of(&expected));
    }

    #[test]
    fn a_rule_or_all_elements_or_everything_that_is_gone_is_missing() {
        let elements = r#", "elem": ["10.0.0.1"]"#;
        let expected = listing(1, elements, RULE);
        assert!(!listing(1, elements, "").has_all_of(&expected));
        assert!(!listing(1, elements, &RULE.replace("drop", "accept")).has_all_of(&expected));
        assert!(!listing(1, "", RULE).has_all_of(&expected));
        assert!(!Listing::parse("Error: No such file or directory").has_all_of(&expected));
        assert!(!Listing::default().has_all_of(&expected));
    }
}
