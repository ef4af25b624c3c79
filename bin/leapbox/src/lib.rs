//! What `leapbox` consists of, as a library: `main.rs` makes the product's one program of it, and `leapbox-bench` takes
//! from it what a measured server needs to start (settings, state folder, local CA, first key) and the choice of driver.

pub mod config;
pub mod program;
pub mod state;
pub mod verbs;
