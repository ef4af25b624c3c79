//! A file operation that failed.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// What was done to which file, and why that failed. An enum of errors has one variant for it: `File(#[from] FileError)`,
/// transparent.
#[derive(Debug)]
pub struct FileError {
    /// `opening`, `writing to disk`: the text goes on with the path.
    pub step: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: `File::open(&path).map_err(FileError::of("opening", &path))?`.
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
