//! Builds the arguments and the environment of a process in the form of execve(2). Called by `exec`.

use super::variables::check_env;
use crate::fault;
use crate::guest::Guest;
use leapbox_guest_protocol::GuestFault;
use std::ffi::{CString, NulError, c_char};

/// The `PATH` of commands unless the image, the sandbox or the call sets one: Debian's for root.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Strings, and the null-terminated list of pointers to them that execve(2) takes.
pub(crate) struct CStrings {
    pointers: Vec<*const c_char>,
    /// Owns the memory that `pointers` points to.
    _strings: Vec<CString>,
}

impl CStrings {
    pub(crate) fn new<'a>(strings: impl IntoIterator<Item = &'a str>) -> Result<Self, GuestFault> {
        Ok(Self::from_strings(strings.into_iter().map(c_string).collect::<Result<_, _>>()?))
    }

    fn from_strings(strings: Vec<CString>) -> Self {
        // A CString's bytes are on the heap: moving the vector doesn't move them.
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]);
        Self { pointers: pointers.collect(), _strings: strings }
    }

    /// The pointers, with a null pointer at the end. They are valid as long as `self`.
    pub(crate) fn pointers(&self) -> &[*const c_char] {
        &self.pointers
    }
}

/// Makes a C string, refusing text with a NUL byte in it, which the kernel would take for its end.
pub(crate) fn c_string(text: &str) -> Result<CString, GuestFault> {
    CString::new(text).map_err(|_: NulError| fault::invalid("commands, paths and variables cannot contain a NUL byte"))
}

/// Joins the variables of a login, the image, the sandbox and the call; of two with one name the later wins.
pub(crate) fn process_environment(
    guest: &Guest,
    sandbox: &[(String, String)],
    call: &[(String, String)],
) -> Result<CStrings, GuestFault> {
    check_env(call)?;
    let image = &guest.image;
    let login = [
        ("HOME", &*image.home),
        ("USER", &*image.user),
        ("LOGNAME", &*image.user),
        ("SHELL", &*guest.shell),
        ("PATH", DEFAULT_PATH),
    ];
    let given = [&image.env[..], sandbox, call];
    let given = given.into_iter().flatten().map(|(name, value)| (&**name, &**value));
    let mut variables: Vec<(&str, &str)> = Vec::with_capacity(16);
    for (name, value) in login.into_iter().chain(given) {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => variables.push((name, value)),
        }
    }
    let strings: Result<Vec<_>, _> =
        variables.into_iter().map(|(name, value)| c_string(&format!("{name}={value}"))).collect();
    Ok(CStrings::from_strings(strings?))
}
