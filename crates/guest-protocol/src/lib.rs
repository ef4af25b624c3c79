//! Skeleton; the wire types follow.

mod image;

pub use image::ImageConfig;
