//! Errors in one line.

use std::{error::Error, io, path::Path};

/// An error and its causes, from the outermost to the first. A cause that the text before tells
/// already is left out: some errors print their causes themselves.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

/// Why a file cannot be read, and what to do where the system's words do not say it.
pub fn unreadable(path: &Path, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; correct the path",
        io::ErrorKind::PermissionDenied => "; let the user that this program runs as read it",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    };
    format!("{}: {error}{remedy}", path.display())
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("no answer")]
    struct Silence;

    #[derive(Debug, Error)]
    enum Outer {
        #[error("the call failed")]
        Quiet(#[source] Silence),
        #[error("the call failed ({0}), and that is all")]
        Told(#[source] Silence),
    }

    #[test]
    fn each_cause_is_told_once() {
        for (error, text) in [
            (Outer::Quiet(Silence), "the call failed: no answer"),
            (
                Outer::Told(Silence),
                "the call failed (no answer), and that is all",
            ),
        ] {
            assert_eq!(with_causes(&error), text);
        }
        assert_eq!(with_causes(&Silence), "no answer");
    }
}
