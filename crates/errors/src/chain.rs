//! Prints an error together with its causes.

use std::error::Error;
use std::iter::successors;

/// An error and its causes on one line, from the outermost to the innermost: `opening the archives: opening: /x: no
/// such file`. In a log line, write `error = %chain(&error)`.
pub fn chain(error: &dyn Error) -> String {
    // By rule no error's text repeats its source, so nothing is said twice here.
    let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.join(": ")
}

/// An error, its source, the source's source, and so on.
pub fn causes<'e>(error: &'e (dyn Error + 'e)) -> impl Iterator<Item = &'e (dyn Error + 'e)> {
    successors(Some(error), |&error| error.source().map(|source| source as _))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt;
    use std::io;

    #[derive(Debug)]
    struct Step(&'static str, Option<Box<dyn Error + Send + Sync>>);

    impl fmt::Display for Step {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Step {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|source| source as _)
        }
    }

    #[test]
    fn a_chain_names_every_cause_from_the_outermost_to_the_innermost() {
        let innermost = io::Error::from(io::ErrorKind::NotFound);
        let error = Step("starting", Some(Box::new(Step("opening", Some(Box::new(innermost))))));
        assert_eq!(chain(&error), "starting: opening: entity not found");
    }

    #[test]
    fn the_chain_of_an_error_without_a_cause_is_its_text() {
        assert_eq!(chain(&Step("alone", None)), "alone");
    }

    #[test]
    fn an_error_inside_an_io_error_is_told_once() {
        let error = io::Error::other(Step("outer", Some(Box::new(Step("inner", None)))));
        assert_eq!(chain(&error), "outer: inner");
    }
}
