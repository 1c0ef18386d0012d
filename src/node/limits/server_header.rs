//! The `server` header of CONNECTED: shown, hidden, or another text.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// Bytes of such a text, at most.
const MAX_LENGTH: usize = 255;

/// How CONNECTED names the server: `true`, `false` or a text in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerHeader {
    /// Not at all.
    Hidden,
    /// By this program's name and version.
    #[default]
    Own,
    /// By this text: some libraries look there for `RabbitMQ/` before they use what RabbitMQ has
    /// and others have not.
    Text(Box<str>),
}

impl ServerHeader {
    /// The header's value; `None`: there is none.
    #[must_use]
    pub fn value(&self) -> Option<Box<str>> {
        match self {
            Self::Hidden => None,
            Self::Own => Some(concat!("stentor/", env!("CARGO_PKG_VERSION")).into()),
            Self::Text(text) => Some(text.clone()),
        }
    }

    /// Checks that CONNECTED, which knows no escapes, can carry it.
    ///
    /// # Errors
    /// It cannot; what is wrong and what to do.
    pub(super) fn check(&self) -> Result<(), String> {
        let Self::Text(text) = self else {
            return Ok(());
        };
        if text.is_empty() {
            return Err("is empty; write false to leave the header out".to_owned());
        }
        if text.len() > MAX_LENGTH || text.chars().any(char::is_control) {
            return Err(format!(
                "is one line of at most {MAX_LENGTH} bytes, without control characters; write e.g. \
                 \"RabbitMQ/4.0\""
            ));
        }
        Ok(())
    }
}

impl From<bool> for ServerHeader {
    fn from(is_shown: bool) -> Self {
        if is_shown { Self::Own } else { Self::Hidden }
    }
}

impl<'de> Deserialize<'de> for ServerHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = ServerHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, or a text such as \"RabbitMQ/4.0\"")
            }

            fn visit_bool<E: de::Error>(self, is_shown: bool) -> Result<ServerHeader, E> {
                Ok(is_shown.into())
            }

            /// A variable of the environment is a text in any case.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ServerHeader, E> {
                Ok(match text {
                    "true" => ServerHeader::Own,
                    "false" => ServerHeader::Hidden,
                    text => ServerHeader::Text(text.into()),
                })
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Section {
        header: ServerHeader,
    }

    fn read(value: &str) -> Result<ServerHeader, String> {
        let section: Result<Section, _> = toml::from_str(&format!("header = {value}"));
        section
            .map(|section| section.header)
            .map_err(|error| error.message().to_owned())
    }

    #[test]
    fn it_is_shown_hidden_or_another_text() {
        for (value, header) in [
            ("true", Some(concat!("stentor/", env!("CARGO_PKG_VERSION")))),
            ("false", None),
            ("\"false\"", None),
            ("\"RabbitMQ/3.13.7\"", Some("RabbitMQ/3.13.7")),
        ] {
            let read = read(value).unwrap();
            assert_eq!(read.value().as_deref(), header, "{value}");
            assert_eq!(read.check(), Ok(()));
        }
        assert!(read("7").unwrap_err().contains("true, false, or a text"));
    }

    #[test]
    fn a_text_that_would_break_the_frame_is_refused() {
        for text in ["", "a\nb", "a\rb", "a\0b", "a\u{7f}"] {
            assert!(ServerHeader::Text(text.into()).check().is_err(), "{text:?}");
        }
        let long = "x".repeat(MAX_LENGTH + 1);
        assert!(ServerHeader::Text(long.into()).check().is_err());
    }
}
