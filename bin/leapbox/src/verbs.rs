//! The verbs of `leapbox`, a file for each; `driver` is the choice of VMM driver, which three of them ask for.

pub mod doctor;
pub mod driver;
pub mod env;
pub mod gc;
pub mod keys;
pub mod serve;
pub mod setup;
