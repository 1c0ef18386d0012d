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

    /// Reads a file that was read before, and may have changed. What is no file is refused: a pipe is
    /// at its end, and would be read as a file without a key, or nobody writes to it, and it would be
    /// waited for.
    ///
    /// # Errors
    /// As [`Source::read`]; or it cannot be read again.
    pub fn read_again(path: &Path) -> Result<Self, String> {
        let name = match path.to_str() {
            Some("-") => "standard input".to_owned(),
            // Links are followed: Kubernetes makes them. One that leads nowhere fails to be read.
            _ if fs::metadata(path).is_ok_and(|found| !found.is_file()) => {
                format!("{}, which is no regular file,", path.display())
            }
            _ => return Self::read(path),
        };
        Err(format!("it came from {name} and cannot be read again"))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Read again, a pipe would have every key be its default.
    #[test]
    fn only_files_are_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        let missing = Source::read_again(&file).unwrap_err();
        assert!(missing.contains("No such file"), "{missing}");
        fs::write(&file, "[log]\n").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(Source::read_again(&link).unwrap().text, "[log]\n");
        for other in [Path::new("-"), Path::new("/dev/null"), folder.path()] {
            let refused = Source::read_again(other).unwrap_err();
            assert!(refused.contains("cannot be read again"), "{refused}");
        }
    }
}
