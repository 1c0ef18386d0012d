//! The `[log]` section.

use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use crate::units::Checked;

/// The `[log]` section: level and format; always to standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How a line looks.
    pub format: Format,
    /// A level, or directives of levels for parts of the program, as the crate
    /// `tracing-subscriber` has them.
    pub level: String,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            format: Format::Text,
            level: "info".to_owned(),
        }
    }
}

impl Config {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        let wrong = |what: &str| {
            Err((
                "level",
                format!(
                    "{what:?} is not a level; write \"error\", \"warn\", \"info\", \"debug\", \
                     \"trace\" or \"off\", or directives such as \"info,stentor::hub=debug\""
                ),
            ))
        };
        // The library takes a lone word for a part's name and logs all of that part, so that
        // "inof" would log nothing and say nothing.
        for directive in self.level.split(',') {
            let is_word = !directive.contains('=');
            if directive.is_empty() || is_word && LevelFilter::from_str(directive).is_err() {
                return wrong(directive);
            }
        }
        match self.filter() {
            Ok(_) => Ok(()),
            Err(_) => wrong(&self.level),
        }
    }

    /// The filter that `level` says.
    pub(super) fn filter(&self) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
        EnvFilter::builder().parse(&self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(level: &str) -> Checked {
        Config {
            level: level.to_owned(),
            ..Config::default()
        }
        .check()
    }

    #[test]
    fn levels_are_words_or_directives() {
        for level in [
            "info",
            "WARN",
            "off",
            "info,stentor::hub=debug",
            "warn,lapin=off",
        ] {
            assert_eq!(check(level), Ok(()), "{level}");
        }
        for level in ["", "inof", "info,", "info,stentor=loud", "lapin"] {
            assert_eq!(check(level).unwrap_err().0, "level", "{level}");
        }
    }
}
