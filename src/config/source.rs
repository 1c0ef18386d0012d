//! Where a configuration comes from: a file, and the variables of this process.

use std::{env, ffi::OsStr, fs, io, path::Path};

use super::File;
use crate::{causes::unreadable, codes::Code};

/// A file that was read, or standard input.
#[derive(Debug)]
pub struct Source {
    /// Its name in errors.
    pub name: String,
    /// Its content.
    pub text: String,
}

impl Source {
    /// Reads a file; `-` is standard input.
    ///
    /// # Errors
    /// It cannot be read; the text names it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let (name, text) = if path == Path::new("-") {
            ("stdin".to_owned(), io::read_to_string(io::stdin()))
        } else {
            (path.display().to_string(), fs::read_to_string(path))
        };
        match text {
            Ok(text) => Ok(Self { name, text }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(format!(
                "{}: {name}: is no text, or not in UTF-8; name a file in TOML",
                Code::ConfigUnreadable
            )),
            Err(error) => Err(format!(
                "{}: {}",
                Code::ConfigUnreadable,
                unreadable(Path::new(&name), &error)
            )),
        }
    }

    /// As this module reads it.
    #[must_use]
    pub fn file(&self) -> File<'_> {
        File {
            name: &self.name,
            text: &self.text,
        }
    }
}

/// The variables of this process. Those of other programs need not be UTF-8; in ours, other bytes
/// show as U+FFFD.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    env::vars_os().map(|(name, value)| {
        let text = |text: &OsStr| text.to_string_lossy().into_owned();
        (text(&name), text(&value))
    })
}
