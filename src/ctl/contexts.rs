//! Named gateways, so that nobody types their addresses: a file of the user's.
//!
//! ```toml
//! [contexts.production]
//! url = "https://push-admin.example.com"
//! token_file = "/home/me/.config/stentor/production.token"
//! ```
//!
//! `stentor ctl context use` writes the name of the current one into a file beside it.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::Error;

/// The variable that names another file.
const FILE: &str = "STENTOR_CONTEXTS";

/// A named gateway.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub(super) struct Context {
    /// The URL of its `[listen] admin`.
    pub(super) url: String,
    /// A file with a token; without one, the command line names it.
    pub(super) token_file: Option<PathBuf>,
}

/// All that the user has named.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contexts {
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
    #[serde(skip)]
    file: PathBuf,
    /// The current one, if there is one.
    #[serde(skip)]
    current: Option<String>,
}

impl Contexts {
    /// Reads the user's file; one that is not there names nothing.
    ///
    /// # Errors
    /// It is there, and cannot be used.
    pub(super) fn read() -> Result<Self, Error> {
        match file(|name| env::var_os(name).map(PathBuf::from)) {
            Some(file) => Self::of(file),
            None => Ok(Self::default()),
        }
    }

    fn of(file: PathBuf) -> Result<Self, Error> {
        let wrong =
            |why: &dyn std::fmt::Display| Error::Arguments(format!("{}: {why}", file.display()));
        let mut contexts = match fs::read_to_string(&file) {
            Ok(text) => toml::from_str(&text).map_err(|error| wrong(&error.message()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::default(),
            Err(error) => return Err(wrong(&error)),
        };
        let current = fs::read_to_string(current(&file)).ok();
        contexts.current = current.map(|name| name.trim().to_owned());
        contexts.file = file;
        Ok(contexts)
    }

    /// The one of that name, or the current one, if there is any.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn find(&self, name: Option<&str>) -> Result<Option<&Context>, Error> {
        let Some(name) = name.or(self.current.as_deref()) else {
            return Ok(None);
        };
        self.named(name).map(Some)
    }

    fn named(&self, name: &str) -> Result<&Context, Error> {
        self.contexts.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known = match &*known {
                [] => format!("there is none in {}", self.file.display()),
                known => format!("there are {}", known.join(", ")),
            };
            Error::Arguments(format!("no context is named {name:?}: {known}"))
        })
    }

    /// Makes one the current one.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be written down.
    pub(super) fn select(&self, name: &str) -> Result<String, Error> {
        let context = self.named(name)?;
        let file = current(&self.file);
        fs::write(&file, format!("{name}\n"))
            .map_err(|error| Error::Arguments(format!("{}: {error}", file.display())))?;
        Ok(format!("{name}: {}\n", context.url))
    }

    /// Each with its address; a star stands before the current one.
    pub(super) fn list(&self) -> String {
        let mut text = String::new();
        for (name, context) in &self.contexts {
            let mark = match self.current.as_deref() == Some(name) {
                true => "*",
                false => " ",
            };
            text.push_str(&format!("{mark} {name}  {}\n", context.url));
        }
        if text.is_empty() {
            text = format!("No contexts: write them into {}\n", self.file.display());
        }
        text
    }
}

/// The file with the contexts.
fn file(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let below = |name, path| variable(name).map(|folder| folder.join(path));
    variable(FILE)
        .or_else(|| below("XDG_CONFIG_HOME", "stentor/contexts.toml"))
        .or_else(|| below("HOME", ".config/stentor/contexts.toml"))
}

/// The file with the name of the current one.
fn current(file: &Path) -> PathBuf {
    file.with_extension("current")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_named_or_the_current_one() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("contexts.toml");
        let none = Contexts::of(file.clone()).unwrap();
        assert!(none.find(None).unwrap().is_none());
        assert!(none.list().contains("contexts.toml"), "{}", none.list());
        fs::write(
            &file,
            "[contexts.a]\nurl = \"http://a\"\n[contexts.b]\nurl = \"http://b\"\n",
        )
        .unwrap();
        let contexts = Contexts::of(file.clone()).unwrap();
        assert!(contexts.find(None).unwrap().is_none());
        assert_eq!(contexts.find(Some("a")).unwrap().unwrap().url, "http://a");
        let wrong = contexts.find(Some("c")).unwrap_err().to_string();
        assert!(wrong.contains("\"c\"") && wrong.contains("a, b"), "{wrong}");
        assert!(contexts.select("c").is_err());
        contexts.select("b").unwrap();
        let contexts = Contexts::of(file.clone()).unwrap();
        assert_eq!(contexts.find(None).unwrap().unwrap().url, "http://b");
        assert_eq!(contexts.list(), "  a  http://a\n* b  http://b\n");
        fs::write(&file, "[contexts.a]\ntoken = \"s3cret\"\n").unwrap();
        let wrong = Contexts::of(file).unwrap_err().to_string();
        assert!(
            wrong.contains("contexts.toml") && !wrong.contains("s3cret"),
            "{wrong}"
        );
    }

    #[test]
    fn the_file_is_the_user_s() {
        let of = |set: &'static str| {
            file(move |name| {
                set.split(' ').find_map(|one| {
                    let (own, value) = one.split_once('=')?;
                    (own == name).then(|| value.into())
                })
            })
        };
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(of("HOME=/h"), path("/h/.config/stentor/contexts.toml"));
        assert_eq!(
            of("HOME=/h XDG_CONFIG_HOME=/x"),
            path("/x/stentor/contexts.toml")
        );
        assert_eq!(of("HOME=/h STENTOR_CONTEXTS=/c"), path("/c"));
        assert_eq!(of(""), None);
    }
}
