//! Which texts are names, and which names a pattern means (cases 13 and 26).

use leapbox_egress_policy::{DomainName, DomainPattern, NameError, PatternError};
use proptest::prelude::*;

fn name(text: &str) -> DomainName {
    DomainName::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn pattern(text: &str) -> DomainPattern {
    DomainPattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn case_13_an_address_in_no_notation_is_a_name() {
    for text in [
        "93.184.216.34",
        "93.184.216.34.",
        "1572395042",
        "0x5db8d822",
        "0X5DB8D822",
        "0135.0270.0330.0042",
        "0x5d.0xb8.0xd8.0x22",
        "93.184.55330",
        "93.12113954",
        "93.184.216.0x22",
        "1.2.3.4.5",
        "999.999.999.999",
        "example.com.1",
        "example.0x",
        "::1",
        "::ffff:93.184.216.34",
        "[::ffff:93.184.216.34]",
        "[::1]",
        "2001:db8::1",
        "93.184.216.34",
        "⑨③.184.216.34",
        "93。184。216。34",
    ] {
        assert_eq!(DomainName::parse(text), Err(NameError::IpLiteral), "{text}");
        assert!(DomainPattern::parse(text).is_err(), "{text}");
        assert!(DomainPattern::parse(&format!("*.{text}")).is_err(), "*.{text}");
    }
}

#[test]
fn case_26_a_name_has_one_normal_form() {
    for (text, normal) in [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("example.com.", "example.com"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("bu\u{308}cher.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),
        ("example。com", "example.com"),
        ("example.com", "example.com"),
        ("_sip._tcp.example.com", "_sip._tcp.example.com"),
        ("1and1.com", "1and1.com"),
        ("1.0x1.example", "1.0x1.example"),
        ("r3---sn-4g5.googlevideo.com", "r3---sn-4g5.googlevideo.com"),
        ("localhost", "localhost"),
    ] {
        assert_eq!(name(text).as_str(), normal, "{text}");
    }
}

#[test]
fn case_26_an_exact_table_of_what_patterns_match() {
    for (text, matching, others) in [
        (
            "example.com",
            &["example.com", "EXAMPLE.com", "example.com."][..],
            &["www.example.com", "evilexample.com", "example.com.evil.org", "example.co", "xample.com", "com"][..],
        ),
        (
            "*.x.com",
            &["a.x.com", "A.X.COM", "a.b.c.x.com", "a.x.com.", "_dmarc.x.com"],
            &["x.com", "x.com.", "evilx.com", "a.evilx.com", "x.com.evil.org", "a.x.org", "a.x.co", "com"],
        ),
        ("EXAMPLE.Com.", &["example.com"], &["www.example.com"]),
        ("*.Bücher.example", &["www.xn--bcher-kva.example"], &["xn--bcher-kva.example", "www.bucher.example"]),
        ("xn--bcher-kva.example", &["BÜCHER.example"], &["bucher.example"]),
        // A Cyrillic а is another letter.
        ("аpple.com", &["xn--pple-43d.com"], &["apple.com"]),
    ] {
        let pattern = pattern(text);
        for yes in matching {
            assert!(pattern.matches(&name(yes)), "{text} must match {yes}");
        }
        for no in others {
            assert!(!pattern.matches(&name(no)), "{text} must not match {no}");
        }
    }
}

#[test]
fn what_is_no_name_says_why() {
    let label = "a".repeat(64);
    let long = format!("{}.com", vec!["abc"; 63].join("."));
    let endless = "a.".repeat(100_000);
    for (text, error) in [
        ("", NameError::Empty),
        (".", NameError::Empty),
        ("..", NameError::EmptyLabel),
        (".example.com", NameError::EmptyLabel),
        ("a..example.com", NameError::EmptyLabel),
        ("example.com..", NameError::EmptyLabel),
        ("-a.example.com", NameError::Hyphen),
        ("a-.example.com", NameError::Hyphen),
        ("a b.com", NameError::Character { character: ' ' }),
        ("example.com\0.evil.org", NameError::Character { character: '\0' }),
        ("example.com\n", NameError::Character { character: '\n' }),
        ("example.com/", NameError::Character { character: '/' }),
        ("user@example.com", NameError::Character { character: '@' }),
        ("exa%6dple.com", NameError::Character { character: '%' }),
        ("exa\\109ple.com", NameError::Character { character: '\\' }),
        ("\u{202e}moc.example", NameError::International),
        (&label, NameError::TooLong),
        (&long, NameError::TooLong),
        (&endless, NameError::TooLong),
    ] {
        assert_eq!(DomainName::parse(text), Err(error), "{text:.80}");
    }
}

#[test]
fn what_is_no_pattern_says_what_to_write_instead() {
    for (text, error) in [
        ("https://example.com", PatternError::Url),
        ("https://example.com:443/", PatternError::Url),
        ("example.com/path", PatternError::Url),
        ("example.com:443", PatternError::Port),
        ("93.184.216.34", PatternError::Ip),
        ("93.184.216.34/32", PatternError::Ip),
        ("0x5db8d822", PatternError::Ip),
        ("2001:db8::1", PatternError::Ipv6),
        ("2001:db8::/32", PatternError::Ipv6),
        ("[2001:db8::1]:443", PatternError::Ipv6),
        ("*", PatternError::Everything),
        ("a.*.com", PatternError::Wildcard),
        ("*.*.com", PatternError::Wildcard),
        ("*example.com", PatternError::Wildcard),
        ("**.example.com", PatternError::Wildcard),
        ("example.*", PatternError::Wildcard),
        ("localhost", PatternError::OneLabel),
        ("com", PatternError::OneLabel),
        ("*.com", PatternError::OneLabel),
        ("*.", PatternError::Name(NameError::Empty)),
        ("", PatternError::Name(NameError::Empty)),
        (".example.com", PatternError::Name(NameError::EmptyLabel)),
        (" example.com", PatternError::Name(NameError::Character { character: ' ' })),
    ] {
        assert_eq!(DomainPattern::parse(text), Err(error), "{text}");
    }
}

#[test]
fn a_pattern_is_shown_as_it_is_compared() {
    assert_eq!(pattern("*.Bücher.Example.").to_string(), "*.xn--bcher-kva.example");
    assert_eq!(pattern("EXAMPLE.com").to_string(), "example.com");
}

proptest! {
    #[test]
    fn the_normal_form_is_its_own_normal_form(text in "\\PC{0,40}|[a-zA-Z0-9._*ßüÖ。-]{0,40}") {
        if let Ok(name) = DomainName::parse(&text) {
            prop_assert_eq!(DomainName::parse(name.as_str()), Ok(name.clone()));
            prop_assert_eq!(DomainName::parse(&format!("{name}.")), Ok(name.clone()));
            prop_assert_eq!(DomainName::parse(&name.as_str().to_uppercase()), Ok(name.clone()));
            prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
        }
        if let Ok(pattern) = DomainPattern::parse(&text) {
            prop_assert_eq!(DomainPattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }

    #[test]
    fn every_number_is_an_address_and_no_name(number: u32, shape in 0..6) {
        let [a, b, c, d] = number.to_be_bytes();
        let text = match shape {
            0 => format!("{number}"),
            1 => format!("{number:#x}"),
            2 => format!("{number:#o}").replace("0o", "0"),
            3 => format!("{a}.{}", number & 0xff_ffff),
            4 => format!("{a:#x}.0{b:o}.{}", u16::from_be_bytes([c, d])),
            _ => format!("{a}.{b}.{c}.{d:#X}"),
        };
        prop_assert_eq!(DomainName::parse(&text), Err(NameError::IpLiteral));
    }

    #[test]
    fn a_wildcard_means_what_ends_in_a_dot_and_the_rest(prefix in "[a-z]{0,3}(\\.[a-z]{1,3}){0,2}\\.?") {
        let Ok(name) = DomainName::parse(&format!("{prefix}x.com")) else { return Ok(()) };
        let below = name.as_str().len() > "x.com".len() && name.as_str().ends_with(".x.com");
        prop_assert_eq!(pattern("*.x.com").matches(&name), below);
        prop_assert_eq!(pattern("x.com").matches(&name), name.as_str() == "x.com");
    }
}
