//! Transforms, from a guest's TLS client through the real proxy to real HTTPS servers.

mod bodies;
mod headers;
mod server;
mod support;
mod trust;
