//! The policy, as sentences.

use super::*;

fn version(text: &str) -> Version {
    Version::parse(&format!("Firecracker v{text}\n")).expect("a version")
}

fn refusal(firecracker: &str, jailer: &str) -> Refusal {
    judge(&version(firecracker), &version(jailer)).expect_err("refused")
}

/// What is warned of, in short.
fn warned(text: &str) -> Vec<String> {
    let warnings = judge(&version(text), &version(text)).expect("used");
    assert!(warnings.iter().all(|w| w.advice.contains(RECOMMENDED)), "{warnings:?}");
    warnings.iter().map(|w| w.what.split([':', ' ']).next().unwrap_or_default().to_owned()).collect()
}

fn warns_of(text: &str, what: &str) -> bool {
    warned(text).iter().any(|w| w == what)
}

#[test]
fn what_the_binaries_print_is_understood() {
    let real = "Firecracker v1.12.1\n\n2026-11-23T12:40:55.6 [anonymous-instance:main] Firecracker exiting\n";
    assert_eq!(Version::parse(real), Some(version("1.12.1")));
    assert_eq!(Version::parse("Jailer v1.12.1\n\n"), Some(version("1.12.1")));
    assert_eq!(Version::parse("Jailer v1.17.0-dev\n").expect("a version").to_string(), "1.17.0-dev");
    assert_eq!(Version::parse("Firecracker v1.16.1+ours.2").expect("a version").label, "+ours.2");
}

#[test]
fn what_is_no_version_is_not_taken_for_one() {
    for text in ["", "Firecracker", "Firecracker v1.12", "Firecracker v1.12.1.0", "Firecracker vx.y.z", "v1.12.1"] {
        assert_eq!(Version::parse(text), None, "{text:?}");
    }
}

#[test]
fn anything_before_1_12_is_too_old() {
    for old in ["1.11.9", "1.0.0", "0.25.2"] {
        assert_eq!(refusal(old, old), Refusal::TooOld { found: version(old) });
    }
}

#[test]
fn a_major_release_that_was_never_tried_is_refused() {
    assert_eq!(refusal("2.0.0", "2.0.0"), Refusal::UntriedMajor { found: version("2.0.0") });
}

#[test]
fn a_jailer_of_another_release_is_refused_even_if_only_its_label_differs() {
    assert!(matches!(refusal("1.16.1", "1.16.0"), Refusal::Mismatch { .. }));
    assert!(matches!(refusal("1.16.1", "1.16.1-dev"), Refusal::Mismatch { .. }));
}

#[test]
fn the_recommended_release_and_later_ones_of_its_major_are_used_without_a_warning() {
    for good in [RECOMMENDED, "1.16.2", "1.17.0", "1.99.3"] {
        assert_eq!(warned(good), [""; 0], "{good}");
    }
}

#[test]
fn the_symlink_in_the_jail_is_warned_of_up_to_1_13_1_and_in_1_14_0() {
    for (text, affected) in
        [("1.12.1", true), ("1.13.1", true), ("1.13.2", false), ("1.14.0", true), ("1.14.1", false), ("1.15.0", false)]
    {
        assert_eq!(warns_of(text, "CVE-2026-1386"), affected, "{text}");
    }
}

#[test]
fn the_write_through_pci_is_warned_of_from_1_13_0_to_1_14_3_and_in_1_15_0() {
    for (text, affected) in [
        ("1.12.1", false),
        ("1.13.0", true),
        ("1.14.3", true),
        ("1.14.4", false),
        ("1.15.0", true),
        ("1.15.1", false),
        ("1.16.0", false),
    ] {
        assert_eq!(warns_of(text, "CVE-2026-5747"), affected, "{text}");
    }
}

#[test]
fn dead_vsocks_are_warned_of_in_1_16_0_alone() {
    assert_eq!(warned("1.16.0"), ["vsock"]);
}

#[test]
fn releases_past_their_support_are_warned_of() {
    assert!(warns_of("1.12.1", "1.12") && warns_of("1.15.1", "1.15"));
    assert!(!warns_of("1.16.0", "1.16"));
}

#[test]
fn a_build_that_is_no_release_is_warned_of() {
    assert_eq!(warned("1.17.0-dev"), ["1.17.0-dev"]);
}

#[test]
fn every_warning_says_what_why_it_matters_here_or_not_and_what_to_do() {
    let warnings = judge(&version("1.12.1"), &version("1.12.1")).expect("used");
    assert_eq!(warnings.len(), 2);
    let text = warnings[0].to_string();
    for part in ["CVE-2026-1386", "every jail is a new directory", "install Firecracker 1.16.1 or later"] {
        assert!(text.contains(part), "{text}");
    }
}
