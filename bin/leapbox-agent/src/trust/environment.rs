//! The environment variables that name the certificate's files, for the many programs that bring certificates of their
//! own and do not ask the system. Pure. Called by `guest` and `disk`.

use super::{BUNDLE, CERTIFICATE};

/// The variables and their values. All but Node's name the whole bundle, because these programs read it instead of
/// their own; Node reads the file besides its own.
const VARIABLES: [(&str, &str); 10] = [
    ("SSL_CERT_FILE", BUNDLE),
    ("REQUESTS_CA_BUNDLE", BUNDLE),
    ("CURL_CA_BUNDLE", BUNDLE),
    ("GIT_SSL_CAINFO", BUNDLE),
    ("PIP_CERT", BUNDLE),
    ("AWS_CA_BUNDLE", BUNDLE),
    ("CARGO_HTTP_CAINFO", BUNDLE),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", BUNDLE),
    ("DENO_CERT", BUNDLE),
    ("NODE_EXTRA_CA_CERTS", CERTIFICATE),
];

/// The variables for commands. The sandbox's and the call's own variables win over them.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    VARIABLES.into_iter().map(|(name, path)| (name.to_owned(), path.to_owned()))
}

/// The text of a file of `/etc/profile.d`, which sets the variables that are not set already.
pub(super) fn profile() -> String {
    // For logins (`su -`), which start from an empty environment. The certificate is in memory and this file is on the
    // disk: it may be read where there is no certificate.
    let line = |(name, path)| format!("    export {name}=\"${{{name}-{path}}}\"\n");
    let lines: String = VARIABLES.into_iter().map(line).collect();
    format!(
        "# Some of this sandbox's TLS connections are signed by an authority of its own.\nif [ -r {CERTIFICATE} ]; then\n{lines}fi\n"
    )
}

/// The text of a file of `/etc/sudoers.d`: sudo removes every variable that it is not told to keep (sudoers(5)).
pub(super) fn sudoers() -> String {
    let names: Vec<&str> = VARIABLES.into_iter().map(|(name, _)| name).collect();
    format!("Defaults env_keep += \"{}\"\n", names.join(" "))
}
