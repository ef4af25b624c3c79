use super::*;
use std::fs::{self, File};

fn write_pair(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    fs::write(&certificate, made.cert.pem()).expect("written");
    fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    (certificate, key)
}

/// File systems keep times coarsely; the tests do not wait for them.
fn touch(path: &Path, seconds: u64) {
    let file = File::options().write(true).open(path).expect("opened");
    file.set_modified(SystemTime::now() + Duration::from_secs(seconds)).expect("touched");
}

fn chain(files: &Files) -> Vec<CertificateDer<'static>> {
    files.current.read().1.cert.clone()
}

#[test]
fn a_changed_certificate_is_taken_and_a_broken_one_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = write_pair(folder.path(), "a.test");
    let files = Files::load(&certificate, &key, None).expect("loads");
    let first = chain(&files);
    assert!(!files.reload().expect("reads"));

    write_pair(folder.path(), "b.test");
    touch(&certificate, 10);
    assert!(files.reload().expect("reads"));
    let second = chain(&files);
    assert_ne!(first, second);

    fs::write(&certificate, "-----BEGIN CERTIFICATE-----\n???").expect("written");
    touch(&certificate, 20);
    assert!(matches!(files.reload(), Err(TlsError::Pem { .. } | TlsError::Unusable { .. })));
    assert_eq!(chain(&files), second);
    assert!(!files.reload().expect("is reported once"));

    fs::remove_file(&certificate).expect("removed");
    assert!(matches!(files.reload(), Err(TlsError::Read { .. })));
    assert_eq!(chain(&files), second);
}

#[test]
fn a_certificate_of_another_domain_is_refused_at_the_start_and_when_the_files_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = write_pair(folder.path(), "*.boxes.test");
    let files = Files::load(&certificate, &key, Some("boxes.test".to_owned())).expect("its own domain");
    let first = chain(&files);
    write_pair(folder.path(), "*.other.test");
    touch(&certificate, 10);
    assert!(matches!(files.reload(), Err(TlsError::OtherDomain { .. })));
    assert_eq!(chain(&files), first, "the one before it stays in use");
    for domain in ["boxes.test", "test", "deeper.other.test"] {
        let refused = Tls::from_files_of(domain, &certificate, &key).map(|_| ());
        assert!(matches!(refused, Err(TlsError::OtherDomain { .. })), "{domain}: {refused:?}");
    }
    let other = Tls::from_files_of("other.test", &certificate, &key).expect("its own domain");
    assert!(other.is_of("other.test") && !other.is_of("boxes.test"));
    assert!(!Tls::from_files(&certificate, &key).expect("any domain").is_of("boxes.test"));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, _) = write_pair(folder.path(), "a.test");
    let kept = fs::read(&certificate).expect("read");
    let (certificate, key) = write_pair(folder.path(), "b.test");
    fs::write(&certificate, kept).expect("written");
    assert!(matches!(Tls::from_files(&certificate, &key), Err(TlsError::Unusable { .. })));
}
