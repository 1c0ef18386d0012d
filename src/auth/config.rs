//! The `[auth]` section.

/// The `[auth]` section.
#[derive(Debug)]
pub struct Config {}
