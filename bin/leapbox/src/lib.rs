//! The parts of `leapbox` as a library: `main.rs` is the product's one program, and `leapbox-bench` takes from here
//! what a measured server needs to start (settings, state directory, local CA, first key) and the choice of driver.

pub mod config;
pub mod program;
pub mod state;
pub mod verbs;
