//! Errors of a configuration.

use std::{error::Error, fmt};

use crate::codes::Code;

/// All that is wrong with a configuration, in the order of the file; one line each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<Problem>);

impl Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong. Never shows a secret: parts keep them out of their messages, and what a
/// message quotes of a value is shown only if all of that value may be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: ValueSource,
    /// The fault and the remedy, with the section and key.
    pub message: String,
    /// The name of the fault.
    pub code: Code,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.code, self.message)
    }
}

/// A setting that is no error, and hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Its name.
    pub code: Code,
    /// What follows, and the remedy, with the section and key.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ValueSource {
    /// A line of the file, counted from 1.
    Line(String, usize),
    /// The environment: a variable's name.
    Variable(String),
    /// No source: it is a default, or missing. The name of the configuration.
    Unset(String),
}

impl fmt::Display for ValueSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(file, line) => write!(f, "{file}:{line}"),
            Self::Variable(name) | Self::Unset(name) => f.write_str(name),
        }
    }
}
