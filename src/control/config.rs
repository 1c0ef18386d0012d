//! The `[control]` section.

use serde::Deserialize;

use crate::{broker::destination::check_exchange, units::Checked};

/// How nodes tell each other what to do with sessions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The fanout exchange of commands, in the default virtual host; `off`: no exchange.
    pub exchange: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            exchange: "stentor.control".to_owned(),
        }
    }
}

impl Config {
    /// The exchange; `None` if this node neither sends commands to others nor takes theirs.
    #[must_use]
    pub fn exchange(&self) -> Option<&str> {
        Some(self.exchange.as_str()).filter(|name| *name != "off")
    }

    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        check_exchange("exchange", &self.exchange)?;
        let problem = match self.exchange.as_str() {
            "" => "is empty, and clients use that exchange",
            name if name.starts_with("amq.") => "begins with \"amq.\", and such are RabbitMQ's own",
            name if name.len() > 255 => "is longer than the 255 bytes that AMQP has room for",
            name if name.contains(char::is_control) => "has control characters",
            _ => return Ok(()),
        };
        let message = format!("{problem}; write \"stentor.control\", or \"off\"");
        Err(("exchange", message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_is_one_s_own() {
        let config = |exchange: &str| Config {
            exchange: exchange.to_owned(),
        };
        assert_eq!(Config::default().check(), Ok(()));
        assert_eq!(Config::default().exchange(), Some("stentor.control"));
        assert_eq!(
            (config("off").check(), config("off").exchange()),
            (Ok(()), None)
        );
        for wrong in ["", "amq.fanout", "a\n", &"x".repeat(256)] {
            let (key, message) = config(wrong).check().unwrap_err();
            assert_eq!(key, "exchange", "{wrong:?}");
            assert!(message.contains("\"stentor.control\""), "{message}");
        }
    }
}
