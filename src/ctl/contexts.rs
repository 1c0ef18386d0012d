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

use super::{Error, Server, args::Given};

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

/// The gateway that is asked, and the token for it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Choice<'a> {
    /// Its URL; `None`: the gateway of this machine.
    pub(super) url: Option<&'a str>,
    pub(super) token: Option<Token<'a>>,
}

/// A token, or the file that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Text(&'a str),
    File(&'a Path),
}

impl Token<'_> {
    pub(super) fn read(self) -> Result<String, Error> {
        let token = match self {
            Self::Text(token) => token.to_owned(),
            Self::File(file) => fs::read_to_string(file)
                .map_err(|error| Error::Arguments(format!("{}: {error}", file.display())))?,
        };
        Ok(token.trim().to_owned())
    }
}

impl Given {
    fn token(&self) -> Option<Token<'_>> {
        let text = self.token.as_deref().map(Token::Text);
        text.or(self.token_file.as_deref().map(Token::File))
    }
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

    /// The gateway to ask, and the token for it. The command line counts before variables, and those
    /// before the current context. A context that the command line names is all of it: variables are
    /// for another gateway then. No context's token goes to another URL than its own.
    ///
    /// # Errors
    /// There is no such context, or the command line names two gateways.
    pub(super) fn choose<'a>(&'a self, server: &'a Server) -> Result<Choice<'a>, Error> {
        let Server { typed, set } = server;
        let (typed_url, set_url) = (typed.url.as_deref(), set.url.as_deref());
        let context = match (&typed.context, &set.context) {
            (Some(name), _) => self.find(Some(name))?,
            (None, _) if typed_url.is_some() => None,
            (None, None) if set_url.is_some() => None,
            (None, name) => self.find(name.as_deref())?,
        };
        let is_named = typed.context.is_some();
        let own_url = context.map(|context| &*context.url);
        let url = if is_named {
            if typed_url.is_some_and(|url| Some(url) != own_url) {
                let error = "--url and --context name two gateways: give one of them";
                return Err(Error::Arguments(error.to_owned()));
            }
            own_url
        } else {
            typed_url.or(set_url).or(own_url)
        };
        let own = context.filter(|context| Some(&*context.url) == url);
        let own = own.and_then(|context| context.token_file.as_deref());
        let own = own.map(Token::File);
        let token = match is_named {
            true => typed.token().or(own).or(set.token()),
            false => typed.token().or(set.token()).or(own),
        };
        Ok(Choice { url, token })
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

    /// A token that goes to another gateway than its own is known there.
    #[test]
    fn what_is_typed_counts_and_no_token_goes_to_another_gateway() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("contexts.toml");
        let text = "[contexts.p]\nurl = \"http://p\"\ntoken_file = \"p.token\"\n\
                    [contexts.bare]\nurl = \"http://bare\"\n";
        fs::write(&file, text).unwrap();
        let contexts = Contexts::of(file).unwrap();
        let given = |words: &str| {
            let mut given = Given::default();
            for word in words.split_whitespace() {
                let (name, value) = word.split_once('=').unwrap();
                match name {
                    "url" => given.url = Some(value.into()),
                    "token" => given.token = Some(value.into()),
                    "file" => given.token_file = Some(value.into()),
                    _ => given.context = Some(value.into()),
                }
            }
            given
        };
        let text = |token| Some(Token::Text(token));
        let file = |file: &'static str| Some(Token::File(Path::new(file)));
        for (typed, set, url, token) in [
            ("", "", None, None),
            ("", "token=t file=f", None, text("t")),
            ("file=f", "token=t", None, file("f")),
            ("token=t", "file=f", None, text("t")),
            ("context=p", "", Some("http://p"), file("p.token")),
            (
                "context=p",
                "file=f token=t",
                Some("http://p"),
                file("p.token"),
            ),
            (
                "context=p",
                "url=http://l",
                Some("http://p"),
                file("p.token"),
            ),
            ("context=p token=t", "file=f", Some("http://p"), text("t")),
            (
                "context=p url=http://p",
                "",
                Some("http://p"),
                file("p.token"),
            ),
            // It has none of its own.
            ("context=bare", "token=t", Some("http://bare"), text("t")),
            ("", "context=p", Some("http://p"), file("p.token")),
            ("", "context=p url=http://l", Some("http://l"), None),
            (
                "",
                "context=p url=http://p",
                Some("http://p"),
                file("p.token"),
            ),
            ("", "context=p token=t", Some("http://p"), text("t")),
            ("url=http://l", "context=p", Some("http://l"), None),
            (
                "url=http://l",
                "url=http://m token=t",
                Some("http://l"),
                text("t"),
            ),
        ] {
            let server = Server {
                typed: given(typed),
                set: given(set),
            };
            let chosen = contexts.choose(&server).unwrap();
            assert_eq!(chosen, Choice { url, token }, "{typed:?}, {set:?}");
        }
        let two = Server {
            typed: given("context=p url=http://l"),
            set: Given::default(),
        };
        let error = contexts.choose(&two).unwrap_err().to_string();
        assert!(error.contains("two gateways"), "{error}");
        // The current one counts last.
        contexts.select("p").unwrap();
        let contexts = Contexts::of(contexts.file.clone()).unwrap();
        let server = |set| Server {
            typed: Given::default(),
            set: given(set),
        };
        let (none, elsewhere) = (server(""), server("url=http://l"));
        assert_eq!(contexts.choose(&none).unwrap().token, file("p.token"));
        assert_eq!(contexts.choose(&elsewhere).unwrap().token, None);
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
