//! A file per verb.

pub mod doctor;
pub mod driver;
pub mod env;
pub mod keys;
pub mod serve;
pub mod setup;
