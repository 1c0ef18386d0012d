//! One function an event: it logs, and it counts.
//!
//! Names that clients choose (users, destinations) are logged as fields, never as part of a
//! message, and as text (`%` and `?` write a value as it is): text is escaped, so that no name can
//! forge a line. No function takes a secret.
//! Levels: `info` is the life of clients and of this node, their mistakes included; `warn` is what
//! an operator should look at; `error` is what was lost.

mod accounts;
mod bindings;
mod bound;
mod config;
mod delays;
mod detail;
mod event;
mod jwt;
mod lines;
mod links;
mod metrics;
mod panics;
mod presence;
mod refusals;
mod seldom;
mod token;
mod traces;

use std::{
    fs::File,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
    sync::OnceLock,
};

use tracing::Level;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::filter_fn,
    fmt::MakeWriter,
    layer::{Layered, SubscriberExt},
    reload,
    util::{SubscriberInitExt, TryInitError},
};

pub use accounts::*;
pub use bindings::*;
#[cfg(test)]
pub(crate) use bound::times_exceeded;
pub use bound::{Bound, limit_exceeded};
pub use config::{Config, Format};
pub use delays::{Journey, ReadAt, SentAt, delivered};
pub use detail::*;
pub use event::*;
pub use jwt::*;
use lines::Lines;
pub use links::*;
pub use metrics::{
    DedicatedSubscriptionCounted, FeedCounts, Levels, METRICS_TYPE, PublishingCounted,
    SharedSubscriptionCounted, connections, metrics,
};
pub use presence::*;
pub use refusals::{Refusal, recent_refusals};
pub use seldom::{Few, Repeated, Seldom};
pub use token::*;
pub use traces::{Exporting, OtlpConfig, TRACEPARENT, TraceSpan, Traced, are_traced, start_traces};

/// Why the log could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitError {
    /// `level` cannot be read; [`Config::check`] says more.
    #[error("[log] level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    /// There is a log already.
    #[error("the log is set up twice: {0}")]
    Twice(#[from] TryInitError),
    /// The system gives no thread, or no file, for it.
    #[error("the log cannot be written: {0}")]
    System(#[from] io::Error),
}

/// Logs to standard error from now on, times in UTC; panics, too.
///
/// # Errors
/// `level` cannot be read, this process has a log already, or the system refuses a thread.
pub fn init(config: &Config) -> Result<(), InitError> {
    let stderr = io::stderr();
    let colours = stderr.is_terminal();
    // Not by the library's handle: its lock is held while a line is written, and others want it.
    let output = File::from(stderr.as_fd().try_clone_to_owned()?);
    let lines = Lines::start(output)?;
    let written = lines.clone();
    let (subscriber, level) = subscriber(config, colours, move || lines.clone())?;
    subscriber.try_init()?;
    // There is one log, or `try_init` has failed.
    let _ = LEVEL.set(level);
    let _ = LINES.set(written);
    panics::log();
    Ok(())
}

/// Where the log's lines go.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Says why the process ends, behind all lines of the log. It waits for a second at most: the reader
/// of standard error may stand still.
pub fn last_words(text: &str) {
    let text = format!("{text}\n");
    // Standard error may be closed.
    let _ = match LINES.get() {
        Some(lines) => lines.clone().write_all(text.as_bytes()),
        None => io::stderr().write_all(text.as_bytes()),
    };
    flush();
}

/// Waits for the last lines of the log, at the end of the process; a second at most.
pub fn flush() {
    if let Some(lines) = LINES.get() {
        lines.flush();
    }
}

/// Turns the level of the log that counts.
static LEVEL: OnceLock<LevelHandle> = OnceLock::new();

/// Logs from now on as `level` says; the format stays. Without a log there is nothing to turn.
///
/// # Errors
/// `level` cannot be read.
pub fn set_level(config: &Config) -> Result<(), InitError> {
    let filter = config.filter()?;
    if let Some(level) = LEVEL.get() {
        // An error means that the log is gone, as at the end of the process.
        let _ = level.reload(filter);
    }
    Ok(())
}

type LevelHandle = reload::Handle<EnvFilter, Registry>;
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Output = Box<dyn Layer<Filtered> + Send + Sync>;

fn subscriber<W>(
    config: &Config,
    colours: bool,
    writer: W,
) -> Result<(Layered<Output, Filtered>, LevelHandle), tracing_subscriber::filter::ParseError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(colours);
    // Libraries write frames and requests into their logs, passwords among them. And lapin calls
    // every refusal of the broker an error; this crate's own events report those that matter.
    let fit_for_print = filter_fn(|metadata| {
        let target = metadata.target();
        let is_ours = target.starts_with("stentor") || target.starts_with("auth_hook");
        is_ours || (*metadata.level() <= Level::WARN && !target.starts_with("lapin"))
    });
    let output: Output = match config.format {
        Format::Text => lines.with_filter(fit_for_print).boxed(),
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_filter(fit_for_print)
            .boxed(),
    };
    let (filter, level) = reload::Layer::new(config.filter()?);
    let subscriber = tracing_subscriber::registry().with(filter).with(output);
    Ok((subscriber, level))
}

#[cfg(test)]
pub(crate) mod capture;
#[cfg(test)]
mod tests;
