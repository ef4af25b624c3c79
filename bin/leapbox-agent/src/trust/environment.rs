//! Where programs are told to look for certificates: many bring their own and do not ask the system. Pure.

use super::{BUNDLE, CERTIFICATE};

/// Variables and what they say. All but Node's name the whole bundle: these programs read it instead of theirs. Node
/// reads its certificate on top of its own.
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

/// What processes are given, below what the sandbox and the call say.
pub(crate) fn variables() -> impl Iterator<Item = (String, String)> {
    VARIABLES.into_iter().map(|(name, path)| (name.to_owned(), path.to_owned()))
}

/// A file of `/etc/profile.d`: a login (`su -`) starts from an empty environment. What is set already stays.
pub(super) fn profile() -> String {
    let line = |(name, path)| format!("    export {name}=\"${{{name}-{path}}}\"\n");
    let lines: String = VARIABLES.into_iter().map(line).collect();
    format!(
        "# Some of this sandbox's TLS connections are signed by an authority of its own.\nif [ -r {CERTIFICATE} ]; then\n{lines}fi\n"
    )
}

/// A file of `/etc/sudoers.d`: sudo takes away what it does not know.
pub(super) fn sudoers() -> String {
    let names: Vec<&str> = VARIABLES.into_iter().map(|(name, _)| name).collect();
    format!("Defaults env_keep += \"{}\"\n", names.join(" "))
}
