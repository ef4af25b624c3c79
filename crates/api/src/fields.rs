//! Reads a JSON object field by field and collects everything that is wrong with it.
//!
//! A field that is `null` counts as absent. A method that finds its field bad notes the reason and returns what it
//! returns for an absent one; [`Fields::done`] then refuses the request with all notes at once. serde would stop at the
//! first bad field. The modules of `validate/` use it.

use leapbox_api_types::filesystem::PATH_BYTES_MAX;
use leapbox_api_types::process::{ENV_BYTES_MAX, ENV_COUNT_MAX};
use leapbox_api_types::{ApiError, FieldError};
use serde_json::{Map, Number, Value};
use std::ops::RangeInclusive;

/// Notes on bad fields that one answer has at most.
// A body of 10 MiB can hold a bad variable every few bytes, and the answer must not grow with it.
const NOTES_MAX: usize = 100;
/// Characters of a client's own text that a note repeats at most.
const QUOTED_MAX: usize = 64;

/// The fields of one request, and the notes on those that are bad.
pub(crate) struct Fields<'b> {
    body: &'b Map<String, Value>,
    notes: Vec<FieldError>,
}

impl<'b> Fields<'b> {
    pub(crate) fn new(body: &'b Map<String, Value>) -> Self {
        Self { body, notes: Vec::new() }
    }

    /// Notes that `field` is bad. `error` completes the sentence "the field …".
    pub(crate) fn refuse(&mut self, field: &str, error: impl Into<String>) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(FieldError::new(field, error));
        }
    }

    /// The checked request, if no field was bad. Otherwise `value` was made from stand-ins and is dropped.
    pub(crate) fn done<T>(self, value: T) -> Result<T, ApiError> {
        if self.notes.is_empty() { Ok(value) } else { Err(ApiError::Validation(self.notes)) }
    }

    /// The field's JSON value, or `None` if it is absent or `null`.
    pub(crate) fn value(&self, field: &str) -> Option<&'b Value> {
        self.body.get(field).filter(|value| !value.is_null())
    }

    /// An integer in `range`.
    pub(crate) fn integer(&mut self, field: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.value(field)?;
        let number = value.as_number().and_then(whole);
        match number.and_then(|number| u64::try_from(number).ok()).filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                self.refuse(field, format!("must be an integer {}", bounds(&range)));
                None
            }
        }
    }

    /// A boolean; an absent one is `false`.
    pub(crate) fn flag(&mut self, field: &str) -> bool {
        match self.value(field) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.refuse(field, "must be true or false");
                false
            }
        }
    }

    /// A string without NUL bytes.
    pub(crate) fn text(&mut self, field: &str) -> Option<&'b str> {
        match self.value(field)? {
            Value::String(text) if !text.contains('\0') => Some(text),
            // Paths, arguments and environment variables end at a NUL in the kernel's interface.
            Value::String(_) => {
                self.refuse(field, "must not contain a NUL byte");
                None
            }
            _ => {
                self.refuse(field, "must be a string");
                None
            }
        }
    }

    /// A name, trimmed: 1 to `max` characters, none of them a control character.
    pub(crate) fn name(&mut self, field: &str, max: usize) -> Option<&'b str> {
        let name = self.text(field)?.trim();
        if name.is_empty() {
            self.refuse(field, "must not be empty");
        } else if name.chars().count() > max {
            self.refuse(field, format!("must be at most {max} characters long"));
        } else if name.chars().any(char::is_control) {
            self.refuse(field, "must not contain control characters");
        }
        Some(name)
    }

    /// A required string of 1 to `max` bytes.
    pub(crate) fn required_text(&mut self, field: &str, max: usize) -> String {
        if self.value(field).is_none() {
            self.refuse(field, "is required");
        }
        let text = self.text(field);
        match text {
            Some("") => self.refuse(field, "must not be empty"),
            Some(text) if text.len() > max => self.refuse(field, format!("must be at most {max} bytes long")),
            _ => {}
        }
        text.unwrap_or_default().to_owned()
    }

    /// A required path in the sandbox. A relative one is below the image's working directory.
    pub(crate) fn path(&mut self, field: &str) -> String {
        self.required_text(field, PATH_BYTES_MAX)
    }

    /// Octal permissions as a string: `755`, `0644`.
    pub(crate) fn permissions(&mut self, field: &str) -> Option<u32> {
        let text = self.text(field)?;
        // `from_str_radix` alone would also take a sign.
        let octal = (1..=5).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| octal && *mode <= 0o7777);
        if mode.is_none() {
            self.refuse(field, "must be octal permissions from 0 to 7777, for example \"0644\"");
        }
        mode
    }

    /// A list of at most `max` strings without NUL bytes.
    pub(crate) fn texts(&mut self, field: &str, max: usize) -> Vec<String> {
        let Some(value) = self.value(field) else { return Vec::new() };
        let Value::Array(items) = value else {
            self.refuse(field, "must be an array of strings");
            return Vec::new();
        };
        if items.len() > max {
            self.refuse(field, format!("must have at most {max} entries"));
            return Vec::new();
        }
        let texts: Vec<String> =
            items.iter().filter_map(Value::as_str).filter(|text| !text.contains('\0')).map(str::to_owned).collect();
        if texts.len() < items.len() {
            self.refuse(field, "every entry must be a string without NUL bytes");
        }
        texts
    }

    /// Environment variables, sorted by name.
    pub(crate) fn environment(&mut self, field: &str) -> Vec<(String, String)> {
        let Some(value) = self.value(field) else { return Vec::new() };
        let Value::Object(variables) = value else {
            self.refuse(field, "must be an object of strings");
            return Vec::new();
        };
        if variables.len() > ENV_COUNT_MAX {
            self.refuse(field, format!("must have at most {ENV_COUNT_MAX} variables"));
            return Vec::new();
        }
        let mut pairs = Vec::with_capacity(variables.len());
        for (name, value) in variables {
            match variable(name, value) {
                Ok(value) => pairs.push((name.clone(), value.to_owned())),
                Err(bad) => self.refuse(field, bad.to_string()),
            }
        }
        // Counted as the kernel counts an environment: `NAME=value` and a NUL each.
        let bytes: usize = pairs.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if bytes > ENV_BYTES_MAX {
            self.refuse(field, format!("must be at most {ENV_BYTES_MAX} bytes in all; these are {bytes}"));
        }
        pairs.sort();
        pairs
    }
}

/// Checks one environment variable, and returns its value.
fn variable<'b>(name: &str, value: &'b Value) -> Result<&'b str, BadVariable> {
    if name.is_empty() {
        return Err(BadVariable::NoName);
    }
    if name.contains(['=', '\0']) {
        return Err(BadVariable::Name { quoted: quote(name) });
    }
    match value {
        Value::String(text) if !text.contains('\0') => Ok(text),
        Value::String(_) => Err(BadVariable::Nul { quoted: quote(name) }),
        _ => Err(BadVariable::NotText { quoted: quote(name) }),
    }
}

/// A bad environment variable. `quoted` is its name, as [`quote`] shows it.
#[derive(Debug, thiserror::Error)]
enum BadVariable {
    #[error("a variable's name must not be empty")]
    NoName,
    #[error("the name {quoted} must not contain `=` or a NUL byte")]
    Name { quoted: String },
    #[error("the value of {quoted} must not contain a NUL byte")]
    Nul { quoted: String },
    #[error("the value of {quoted} must be a string")]
    NotText { quoted: String },
}

/// A client's text as a note shows it: in quotes, escaped, and cut after [`QUOTED_MAX`] characters.
fn quote(text: &str) -> String {
    let short: String = text.chars().take(QUOTED_MAX).collect();
    let dots = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{dots}")
}

/// A JSON number as an integer, if it has no fraction: JSON Schema counts 2.0 as an integer, too.
fn whole(number: &Number) -> Option<i128> {
    // 2^53: beyond it neighbouring integers share one f64, so the client's number may have been another.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = number.as_i64() {
        return Some(number.into());
    }
    if let Some(number) = number.as_u64() {
        return Some(number.into());
    }
    // The cast is exact: the value is whole and below 2^53.
    number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= EXACT).map(|value| value as i128)
}

/// The bounds of a range in words: `between 1 and 8`, or `of at least 1` if there is no upper one.
fn bounds(range: &RangeInclusive<u64>) -> String {
    match range.end() {
        &u64::MAX => format!("of at least {}", range.start()),
        end => format!("between {} and {end}", range.start()),
    }
}

#[cfg(test)]
mod tests;
