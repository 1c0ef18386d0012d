//! A gateway to try out.

use std::error::Error;

use crate::broker;

/// What `stentor demo` can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// The port on the loopback interface.
    pub port: u16,
    /// The broker; `None`: the embedded one.
    pub broker: Option<broker::Url>,
}

/// Runs the demo until told to stop.
///
/// # Errors
/// Something that it needs cannot be had.
#[expect(clippy::unused_async, reason = "a placeholder")]
pub async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let _ = options;
    Err("the demo is not built yet".into())
}
