//! The `[sockjs]` section.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use sockjs_server::{Options, Transport};

use super::super::config::check_path;
use crate::{
    telemetry,
    units::{self, Checked, at_least_one, more_than_zero},
};

/// The service of SockJS.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SockjsConfig {
    /// The path under which all of it is; `None`, written `"off"`: there is no SockJS. `/stomp`
    /// as in RabbitMQ's Web STOMP plug-in, as long as it had SockJS.
    #[serde(deserialize_with = "path_or_off")]
    pub prefix: Option<String>,
    /// The transports that are served.
    pub transports: Vec<Transport>,
    /// How often a client is sent a heart-beat, so that no proxy takes its silence for its end.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// How long a session lives without a request that receives; and for how long, but 5 s at
    /// most, one that is closed says so.
    #[serde(with = "humantime_serde")]
    pub disconnect_delay: Duration,
    /// Bytes after which a streaming answer ends, and the client asks for the next: browsers keep
    /// all of an answer in memory.
    #[serde(deserialize_with = "units::size")]
    pub response_limit: usize,
    /// Bytes that a client has sent and that wait to be read, above which it has to wait.
    #[serde(deserialize_with = "units::size")]
    pub max_waiting: usize,
    /// Sessions at a time from one address, WebSockets not counted; 0: no such limit. 10,000: an
    /// office of 5,000 users, each with two pages that cannot have a WebSocket. Addresses that stand
    /// for many clients have no such limit, see [`ClientAddress`](crate::node::ClientAddress).
    pub max_sessions_per_address: usize,
    /// Where the iframe loads the client's script from.
    pub client_url: String,
    /// Whether answers set the cookie `JSESSIONID`, by which some load balancers find the node.
    pub cookie: bool,
}

impl Default for SockjsConfig {
    fn default() -> Self {
        let usual = Options::at("/stomp");
        Self {
            prefix: Some(usual.prefix),
            transports: usual.transports,
            heartbeat: usual.heartbeat,
            disconnect_delay: usual.disconnect_delay,
            response_limit: usual.response_limit,
            max_waiting: usual.max_waiting,
            max_sessions_per_address: 10_000,
            client_url: usual.client_url,
            cookie: usual.cookie,
        }
    }
}

impl SockjsConfig {
    /// How the service behaves; `None`: there is none.
    #[must_use]
    pub fn options(&self) -> Option<Options> {
        Some(Options {
            prefix: self.prefix.clone()?,
            transports: self.transports.clone(),
            heartbeat: self.heartbeat,
            disconnect_delay: self.disconnect_delay,
            response_limit: self.response_limit,
            max_waiting: self.max_waiting,
            max_sessions_per_address: self.max_sessions_per_address,
            client_url: self.client_url.clone(),
            cookie: self.cookie,
            received: telemetry::bytes_received,
            sent: telemetry::bytes_sent,
            refused: telemetry::sockjs_session_refused,
        })
    }

    /// Whether the values make sense.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        if let Some(prefix) = &self.prefix {
            check_path("prefix", prefix, "/stomp")?;
        }
        let is_receiving = |transport: &Transport| *transport != Transport::Iframe;
        if self.prefix.is_some() && !self.transports.iter().any(is_receiving) {
            let message = "has no transport by which a client could receive; name some, such as \
                           \"websocket\" and \"xhr-streaming\", or write prefix = \"off\"";
            return Err(("transports", message.to_owned()));
        }
        more_than_zero(
            "heartbeat",
            self.heartbeat,
            "clients would be sent nothing else",
        )?;
        more_than_zero(
            "disconnect_delay",
            self.disconnect_delay,
            "a polling client would be gone after each of its requests",
        )?;
        at_least_one(
            "response_limit",
            self.response_limit as u64,
            "each answer would have to end at once",
        )?;
        at_least_one(
            "max_waiting",
            self.max_waiting as u64,
            "clients could send nothing",
        )?;
        self.check_client_url()
    }

    fn check_client_url(&self) -> Checked {
        let url = &self.client_url;
        let is_web = url.starts_with("https://") || url.starts_with("http://");
        let is_absolute = is_web || url.starts_with('/');
        // It stands in an attribute of a page.
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'<>&`\\".contains(&byte);
        if is_absolute && url.bytes().all(is_plain) {
            return Ok(());
        }
        Err((
            "client_url",
            format!(
                "{url:?} is not the URL of a script; write it as in \
                 \"https://app.example.com/js/sockjs.min.js\" or \"/js/sockjs.min.js\""
            ),
        ))
    }
}

fn path_or_off<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok((text != "off").then_some(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> SockjsConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn the_default_is_sound() {
        assert_eq!(SockjsConfig::default().check(), Ok(()));
        assert_eq!(read(""), SockjsConfig::default());
    }

    #[test]
    fn transports_are_called_as_in_the_client() {
        for transport in Transport::ALL {
            let config = read(&format!("transports = [\"{transport}\"]"));
            assert_eq!(config.transports, [transport]);
        }
        let config = read("transports = [\"xhr-polling\"]");
        let options = config.options().unwrap();
        assert!(options.serves(Transport::XhrPolling) && !options.serves(Transport::Websocket));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, key) in [
            ("prefix = \"stomp\"", "prefix"),
            ("transports = []", "transports"),
            ("transports = [\"iframe\"]", "transports"),
            ("heartbeat = \"0s\"", "heartbeat"),
            ("disconnect_delay = \"0s\"", "disconnect_delay"),
            ("response_limit = 0", "response_limit"),
            ("max_waiting = 0", "max_waiting"),
            ("client_url = \"\"", "client_url"),
            ("client_url = \"sockjs.js\"", "client_url"),
            ("client_url = \"/a\\\"><script>\"", "client_url"),
        ] {
            assert_eq!(read(text).check().unwrap_err().0, key, "{text}");
        }
        assert_eq!(read("prefix = \"off\"").prefix, None);
        assert!(read("prefix = \"off\"").options().is_none());
        assert_eq!(read("prefix = \"off\"\ntransports = []").check(), Ok(()));
    }
}
