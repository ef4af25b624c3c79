//! A finding of `doctor`, and how findings are printed.

use serde::Serialize;

/// The severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Green,
    /// Sandboxes can run, but something is weaker or slower than it could be.
    Yellow,
    /// Sandboxes cannot run, or their isolation is broken. This makes the exit code 1.
    Red,
}

/// A finding. Its fields are those of an entry of `checks` in `doctor --json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) level: Level,
    /// The state that was found, as a phrase that follows the name.
    pub(super) found: String,
    /// The remedy, mostly a command; absent if the level is green.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Check {
    pub(super) fn green(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: Level::Green, found: found.into(), advice: None }
    }

    pub(super) fn yellow(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, level: Level::Yellow, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn red(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, level: Level::Red, found: found.into(), advice: Some(advice.into()) }
    }
}

pub(super) fn as_text(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let mark = match check.level {
            Level::Green => '✔',
            Level::Yellow => '!',
            Level::Red => '✘',
        };
        text.push_str(&format!("{mark} {:<18} {}\n", check.name, check.found));
        if let Some(advice) = &check.advice {
            text.push_str(&format!("  {:<18} → {advice}\n", ""));
        }
    }
    let count = |level| checks.iter().filter(|c| c.level == level).count();
    let (red, yellow) = (count(Level::Red), count(Level::Yellow));
    text.push_str(&match (red, yellow) {
        (0, 0) => "\nEverything is as it should be.\n".to_owned(),
        (0, _) => format!("\nSandboxes can run; {yellow} finding(s) could be better.\n"),
        _ => format!("\nSandboxes cannot run, or not safely: {red} finding(s) to mend first.\n"),
    });
    text
}

pub(super) fn as_json(checks: &[Check]) -> String {
    let ok = checks.iter().all(|c| c.level != Level::Red);
    format!("{:#}\n", serde_json::json!({"ok": ok, "checks": checks}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_red_finding_says_what_to_do_and_decides_the_verdict() {
        let checks = [Check::green("a", "fine"), Check::red("b", "gone", "get it")];
        let text = as_text(&checks);
        assert!(text.contains("→ get it") && text.contains("not safely: 1"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&as_json(&checks)).expect("json");
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][1]["level"], "red");
    }
}
