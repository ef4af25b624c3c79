//! The error of a failed file operation, which all crates share.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// A failed operation on a file or directory. An error enum has one variant for all of them: `File(#[from] FileError)`,
/// with `#[error(transparent)]`.
#[derive(Debug)]
pub struct FileError {
    /// The operation as in "opening" or "writing to disk"; the error's text continues with the path.
    pub step: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    /// Makes the function for `map_err`: `File::open(&path).map_err(FileError::of("opening", &path))?`.
    // Also of errors that convert into `io::Error`, such as a lost task of the runtime and an errno.
    pub fn of<E: Into<io::Error>>(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |source| Self { step, path, source: source.into() }
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.path.display())
    }
}

impl Error for FileError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain;

    #[test]
    fn a_file_error_says_what_was_done_to_which_file_and_why_it_failed() {
        let error = FileError::of("opening", "/nowhere")(io::Error::from(io::ErrorKind::NotFound));
        assert_eq!(error.to_string(), "opening: /nowhere");
        assert_eq!(chain(&error), "opening: /nowhere: entity not found");
    }
}
