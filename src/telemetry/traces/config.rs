//! The `[telemetry.otlp]` section.

use std::fmt;

use serde::Deserialize;
use url::Url;

use crate::units::Checked;

/// The `[telemetry.otlp]` section: traces for OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OtlpConfig {
    /// The collector; empty: there are no traces.
    pub endpoint: String,
    /// The share of traces that begin here and are recorded.
    pub ratio: f64,
    /// Headers of the requests to the collector.
    pub headers: Headers,
}

/// `NAME=VALUE,…`, as OpenTelemetry's own variables have headers. Shows nothing of itself: they are
/// credentials.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Headers(String);

impl Default for OtlpConfig {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            ratio: 0.01,
            headers: Headers::default(),
        }
    }
}

impl OtlpConfig {
    /// Checks the values.
    ///
    /// # Errors
    /// The key at fault, the fault, and the remedy.
    pub fn check(&self) -> Checked {
        if !self.endpoint.is_empty() && self.url().is_none() {
            let message = "is no address of a collector; write \"http://127.0.0.1:4318\", or its \
                           https:// address; credentials go into headers";
            return Err(("endpoint", message.to_owned()));
        }
        if !(0.0..=1.0).contains(&self.ratio) {
            let message = format!(
                "is {}; write the share of traces to record, from 0.0 (those only that others \
                 record) to 1.0 (all)",
                self.ratio
            );
            return Err(("ratio", message));
        }
        if self.headers.pairs().is_none() {
            let message = "are not NAME=VALUE, with commas between several, as in \
                           \"authorization=Bearer …\"";
            return Err(("headers", message.to_owned()));
        }
        Ok(())
    }

    /// The address and the headers of a request with spans; `None`: there are no traces.
    pub(crate) fn request(&self) -> Option<(Url, Vec<(&str, &str)>)> {
        Some((self.url()?, self.headers.pairs()?))
    }

    /// Where spans go. OTLP's path is added to an address that has none.
    fn url(&self) -> Option<Url> {
        let mut url: Url = self.endpoint.parse().ok()?;
        // What stands before the host would not be sent: credentials go into `headers`.
        let has_user = !url.username().is_empty() || url.password().is_some();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || has_user {
            return None;
        }
        if url.path() == "/" {
            url.set_path("/v1/traces");
        }
        Some(url)
    }
}

impl Headers {
    /// Names and values; `None`: it is no list of them.
    fn pairs(&self) -> Option<Vec<(&str, &str)>> {
        let pairs = self.0.split(',').filter(|pair| !pair.trim().is_empty());
        let pairs = pairs.map(|pair| {
            let (name, value) = pair.split_once('=')?;
            let (name, value) = (name.trim(), value.trim());
            let is_token =
                |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let is_name = !name.is_empty() && name.bytes().all(is_token);
            let is_value = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            (is_name && is_value).then_some((name, value))
        });
        pairs.collect()
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(endpoint: &str, ratio: f64, headers: &str) -> OtlpConfig {
        OtlpConfig {
            endpoint: endpoint.to_owned(),
            ratio,
            headers: Headers(headers.to_owned()),
        }
    }

    #[test]
    fn each_value_is_checked() {
        assert_eq!(OtlpConfig::default().check(), Ok(()));
        let good = "http://127.0.0.1:4318";
        for (endpoint, ratio, headers, key) in [
            (good, 0.0, "", None),
            (
                "https://otel.example.com/otlp/v1/traces",
                1.0,
                "a=b, c=d e",
                None,
            ),
            ("collector:4318", 0.5, "", Some("endpoint")),
            ("grpc://collector:4317", 0.5, "", Some("endpoint")),
            (good, 1.01, "", Some("ratio")),
            (good, -0.5, "", Some("ratio")),
            (good, f64::NAN, "", Some("ratio")),
            (good, 0.5, "authorization: Bearer x", Some("headers")),
            (good, 0.5, "a b=c", Some("headers")),
            (good, 0.5, "a=b\nc", Some("headers")),
        ] {
            let checked = with(endpoint, ratio, headers).check();
            assert_eq!(
                checked.err().map(|(key, _)| key),
                key,
                "{endpoint} {ratio} {headers}"
            );
        }
    }

    #[test]
    fn an_address_without_a_path_gets_that_of_otlp() {
        let url = |endpoint: &str| with(endpoint, 1.0, "").url().unwrap().to_string();
        assert_eq!(
            url("http://127.0.0.1:4318"),
            "http://127.0.0.1:4318/v1/traces"
        );
        assert_eq!(url("http://a/own/path"), "http://a/own/path");
    }

    #[test]
    fn headers_are_not_shown() {
        let config = with("", 1.0, "authorization=Bearer geheim");
        assert!(!format!("{config:?}").contains("geheim"), "{config:?}");
        let pairs = config.headers.pairs();
        assert_eq!(pairs, Some(vec![("authorization", "Bearer geheim")]));
    }
}
