use super::*;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{CertificateError, Error, RootCertStore};
use std::collections::HashSet;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

fn name(text: &str) -> DomainName {
    DomainName::parse(text).expect("a name")
}

/// What a client that trusts this authority alone says about a leaf for a name.
fn verdict(trusted: &Authority, leaf: &CertifiedKey, asked: &str) -> Result<(), Error> {
    let mut roots = RootCertStore::empty();
    roots.add(der(trusted)).expect("a trust anchor");
    let provider = Arc::new(ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("verifier");
    let asked = ServerName::try_from(asked.to_owned()).expect("a server's name");
    verifier.verify_server_cert(&leaf.cert[0], &[], &asked, &[], UnixTime::now()).map(|_| ())
}

fn der(authority: &Authority) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).expect("a certificate")
}

#[test]
fn a_leaf_names_the_one_name_and_nothing_else() {
    let authority = Authority::generate().expect("an authority");
    let leaf = authority.leaf(&name("api.example.com")).expect("a leaf");
    let (_, parsed) = X509Certificate::from_der(&leaf.cert[0]).expect("a certificate");
    let names = &parsed.subject_alternative_name().expect("readable").expect("there").value.general_names;
    assert_eq!(names, &[GeneralName::DNSName("api.example.com")]);
    assert!(!parsed.is_ca());
    assert_eq!(leaf.cert.len(), 1);
    assert_eq!(verdict(&authority, &leaf, "api.example.com"), Ok(()));
    for other in ["example.com", "www.example.com", "x.api.example.com"] {
        let refused = verdict(&authority, &leaf, other);
        assert!(
            matches!(refused, Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. }))),
            "{other}: {refused:?}"
        );
    }
}

#[test]
fn a_leaf_of_another_sandbox_is_not_trusted() {
    let (ours, theirs) = (Authority::generate().expect("one"), Authority::generate().expect("another"));
    let leaf = theirs.leaf(&name("api.example.com")).expect("a leaf");
    let refused = verdict(&ours, &leaf, "api.example.com");
    assert!(matches!(refused, Err(Error::InvalidCertificate(_))), "{refused:?}");
}

#[test]
fn the_authority_signs_certificates_and_no_further_authorities_for_ten_years() {
    let der = der(&Authority::generate().expect("an authority"));
    let (_, ca) = X509Certificate::from_der(&der).expect("a certificate");
    let constraints = ca.basic_constraints().expect("readable").expect("there");
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = ca.key_usage().expect("readable").expect("there").value;
    assert!(usage.key_cert_sign());
    assert_eq!(usage.flags.count_ones(), 1);
    let has_id = |e: &x509_parser::prelude::X509Extension<'_>| {
        matches!(e.parsed_extension(), ParsedExtension::SubjectKeyIdentifier(_))
    };
    assert!(ca.extensions().iter().any(has_id));
    assert_eq!(ca.subject().to_string(), "CN=Leapbox sandbox CA");
    let (begin, end) = (ca.validity().not_before.to_datetime(), ca.validity().not_after.to_datetime());
    assert_eq!(end - begin, LIFETIME + CLOCK_SKEW);
}

#[test]
fn a_stored_authority_signs_what_the_guest_trusts_already() {
    let first = Authority::generate().expect("an authority");
    let again = Authority::from_pem(first.certificate_pem(), &first.key_pem()).expect("the same");
    let leaf = again.leaf(&name("api.example.com")).expect("a leaf");
    assert_eq!(verdict(&first, &leaf, "api.example.com"), Ok(()));
    assert_eq!(again.certificate_pem(), first.certificate_pem());
}

#[test]
fn a_key_of_another_authority_is_refused() {
    let (one, other) = (Authority::generate().expect("one"), Authority::generate().expect("another"));
    let mixed = Authority::from_pem(one.certificate_pem(), &other.key_pem());
    assert!(matches!(mixed, Err(AuthorityError::Mismatch { .. })), "{mixed:?}");
    let garbage = Authority::from_pem("-----BEGIN", &one.key_pem());
    assert!(matches!(garbage, Err(AuthorityError::StoredPem { .. })), "{garbage:?}");
    let no_key = Authority::from_pem(one.certificate_pem(), one.certificate_pem());
    assert!(matches!(no_key, Err(AuthorityError::StoredKey { .. })), "{no_key:?}");
}

#[test]
fn leaves_are_remembered_but_not_without_bound() {
    let authority = Authority::generate().expect("an authority");
    let first = authority.leaf(&name("first.example.com")).expect("a leaf");
    assert!(Arc::ptr_eq(&first, &authority.leaf(&name("first.example.com")).expect("a leaf")));
    for n in 0..CACHED_LEAVES + 10 {
        authority.leaf(&name(&format!("n{n}.example.com"))).expect("a leaf");
    }
    assert_eq!(authority.leaves.lock().len(), CACHED_LEAVES);
    assert!(!Arc::ptr_eq(&first, &authority.leaf(&name("first.example.com")).expect("a leaf")));
}

#[test]
fn every_leaf_has_a_serial_number_of_its_own() {
    let authority = Authority::generate().expect("an authority");
    let serials: HashSet<String> = (0..50)
        .map(|n| {
            let leaf = authority.leaf(&name(&format!("n{n}.example.com"))).expect("a leaf");
            X509Certificate::from_der(&leaf.cert[0]).expect("a certificate").1.raw_serial_as_string()
        })
        .collect();
    assert_eq!(serials.len(), 50);
}

#[test]
fn a_name_too_long_for_a_common_name_has_a_leaf_too() {
    let authority = Authority::generate().expect("an authority");
    let long = format!("{}.{}.example.com", "a".repeat(60), "b".repeat(60));
    let leaf = authority.leaf(&name(&long)).expect("a leaf");
    assert_eq!(verdict(&authority, &leaf, &long), Ok(()));
}

#[test]
fn debug_output_holds_nothing_of_the_key() {
    let authority = Authority::generate().expect("an authority");
    assert_eq!(format!("{authority:?}"), "Authority { .. }");
}
