//! Checks requests about files. Paths are not resolved here: a relative one is below the image's working directory, and
//! links are the guest's, so only the agent can do it.

use crate::fields::Fields;
use leapbox_api_types::ApiError;
use leapbox_api_types::filesystem::EXCLUDE_MAX;
use leapbox_guest_protocol::{Delete, List, Mkdir, ReadFile};
use serde_json::{Map, Value};

/// The parameters of write-file, whose body is the content.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WriteQuery {
    pub path: String,
    /// Mode bits that the file has afterwards.
    pub permissions: Option<u32>,
}

/// Checks the body of stat and exists, which is a path alone.
pub(crate) fn path(body: &Map<String, Value>) -> Result<String, ApiError> {
    let mut fields = Fields::new(body);
    let path = fields.path("path");
    fields.done(path)
}

pub(crate) fn list(body: &Map<String, Value>) -> Result<List, ApiError> {
    let mut fields = Fields::new(body);
    let list = List {
        path: fields.path("path"),
        recursive: fields.flag("recursive"),
        exclude: fields.texts("exclude", EXCLUDE_MAX),
    };
    fields.done(list)
}

pub(crate) fn mkdir(body: &Map<String, Value>) -> Result<Mkdir, ApiError> {
    let mut fields = Fields::new(body);
    let mkdir = Mkdir {
        path: fields.path("path"),
        recursive: fields.flag("recursive"),
        permissions: fields.permissions("permissions"),
    };
    fields.done(mkdir)
}

pub(crate) fn delete(body: &Map<String, Value>) -> Result<Delete, ApiError> {
    let mut fields = Fields::new(body);
    let delete = Delete { path: fields.path("path"), recursive: fields.flag("recursive") };
    fields.done(delete)
}

pub(crate) fn read_file(body: &Map<String, Value>) -> Result<ReadFile, ApiError> {
    let mut fields = Fields::new(body);
    let u32_field = |fields: &mut Fields<'_>, field: &str| {
        fields.integer(field, 0..=u32::MAX.into()).and_then(|number| u32::try_from(number).ok())
    };
    let read = ReadFile {
        path: fields.path("path"),
        offset: fields.integer("offset", 0..=u64::MAX),
        limit: u32_field(&mut fields, "limit"),
        head: u32_field(&mut fields, "head"),
        tail: u32_field(&mut fields, "tail"),
    };
    if read.head.is_some() && read.tail.is_some() {
        fields.refuse("tail", "must not be given together with head");
    }
    fields.done(read)
}

/// Checks the query of write-file.
pub(crate) fn write_file(query: &Map<String, Value>) -> Result<WriteQuery, ApiError> {
    let mut fields = Fields::new(query);
    let write = WriteQuery { path: fields.path("path"), permissions: fields.permissions("permissions") };
    fields.done(write)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fmt::Debug;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    fn refused<T: Debug>(result: Result<T, ApiError>) -> Vec<String> {
        match result {
            Err(ApiError::Validation(notes)) => {
                notes.into_iter().map(|note| format!("{}: {}", note.field, note.error)).collect()
            }
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn every_operation_needs_a_path() {
        let empty = Map::new();
        for notes in [
            refused(path(&empty)),
            refused(list(&empty)),
            refused(mkdir(&empty)),
            refused(delete(&empty)),
            refused(read_file(&empty)),
            refused(write_file(&empty)),
        ] {
            assert_eq!(notes, ["path: is required"]);
        }
    }

    #[test]
    fn a_path_is_at_most_as_long_as_the_kernel_takes() {
        assert!(path(&object(json!({ "path": "x".repeat(4095) }))).is_ok());
        assert_eq!(
            refused(path(&object(json!({ "path": "x".repeat(4096) })))),
            ["path: must be at most 4095 bytes long"]
        );
        assert_eq!(refused(path(&object(json!({ "path": "a\0" })))), ["path: must not contain a NUL byte"]);
    }

    #[test]
    fn a_listing_takes_recursive_and_exclude() {
        let body = json!({ "path": "/", "recursive": true, "exclude": [".git", "*.pyc"] });
        let expected =
            List { path: "/".to_owned(), recursive: true, exclude: vec![".git".to_owned(), "*.pyc".to_owned()] };
        assert_eq!(list(&object(body)), Ok(expected));
        assert_eq!(
            refused(list(&object(json!({ "path": 1, "recursive": 1, "exclude": [1] })))),
            [
                "path: must be a string",
                "recursive: must be true or false",
                "exclude: every entry must be a string without NUL bytes",
            ]
        );
    }

    #[test]
    fn mkdir_takes_octal_permissions_and_null() {
        let body = json!({ "path": "/d", "recursive": true, "permissions": "0700" });
        let expected = Mkdir { path: "/d".to_owned(), recursive: true, permissions: Some(0o700) };
        assert_eq!(mkdir(&object(body)), Ok(expected));
        let plain = Mkdir { path: "/d".to_owned(), recursive: false, permissions: None };
        assert_eq!(mkdir(&object(json!({ "path": "/d", "permissions": null }))), Ok(plain));
    }

    #[test]
    fn a_read_takes_a_range_and_head_or_tail_but_not_both() {
        let body = json!({ "path": "/f", "offset": u64::MAX, "limit": u32::MAX, "head": 0 });
        let expected = ReadFile {
            path: "/f".to_owned(),
            offset: Some(u64::MAX),
            limit: Some(u32::MAX),
            head: Some(0),
            tail: None,
        };
        assert_eq!(read_file(&object(body)), Ok(expected));
        let body = json!({ "path": "", "offset": -1, "limit": 1_u64 << 32, "head": 1, "tail": 1 });
        assert_eq!(
            refused(read_file(&object(body))),
            [
                "path: must not be empty",
                "offset: must be an integer of at least 0",
                "limit: must be an integer between 0 and 4294967295",
                "tail: must not be given together with head",
            ]
        );
    }

    #[test]
    fn a_write_takes_its_path_and_permissions_from_the_query() {
        let query = json!({ "path": "/bin/tool", "permissions": "0755" });
        let expected = WriteQuery { path: "/bin/tool".to_owned(), permissions: Some(0o755) };
        assert_eq!(write_file(&object(query)), Ok(expected));
        assert_eq!(
            refused(write_file(&object(json!({ "path": "", "permissions": "rwx" })))),
            ["path: must not be empty", "permissions: must be octal permissions from 0 to 7777, for example \"0644\"",]
        );
    }
}
