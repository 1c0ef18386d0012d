//! Build, run, drain.

use std::error::Error;

use crate::config::Config;

/// Serves until told to stop.
///
/// # Errors
/// Something that serving needs cannot be had.
#[expect(clippy::unused_async, reason = "a placeholder")]
pub async fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let _ = config;
    Err("serving is not built yet".into())
}
