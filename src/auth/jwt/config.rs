//! The `[auth.jwt]` section.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use reqwest::header::HeaderName;
use serde::Deserialize;
use url::{Host, Url};

use super::templates::Template;
use crate::{
    secret_url::check_account,
    units::{Checked, at_least, at_most, more_than_zero},
};

/// A shared secret that is shorter can be guessed by anybody who has seen one token, in bytes
/// (RFC 7518, 3.2).
const SHORTEST_SECRET: usize = 32;

/// A reload waits for the keys of a new issuer, and all other reloads wait for that one.
const MAX_TIMEOUT: Duration = Duration::from_secs(60);

/// Clocks that differ by more should be set.
const MAX_LEEWAY: Duration = Duration::from_secs(5 * 60);

/// How tokens are checked, and what they grant. Without keys there are no tokens.
///
/// Texts and lists that are empty are not set.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JwtConfig {
    /// Where the issuer publishes its keys (JWKS).
    pub jwks_url: String,
    /// How often they are fetched, besides for a key that is not known.
    #[serde(with = "humantime_serde")]
    pub jwks_interval: Duration,
    /// For keys that are not known they are fetched once in so long, however many come.
    #[serde(with = "humantime_serde")]
    pub jwks_cooldown: Duration,
    /// How long a fetch may take: a minute at most.
    #[serde(with = "humantime_serde")]
    pub jwks_timeout: Duration,
    /// Whether keys may come over a connection that others can read and change.
    pub jwks_insecure_http: bool,
    /// Files with public keys or certificates, as PEM.
    pub public_keys: Vec<PathBuf>,
    /// The secret that the issuer shares with the gateway.
    pub secret: Secret,
    /// A file with it.
    pub secret_file: PathBuf,
    /// The algorithms that tokens may be signed by; empty: all that the keys are for.
    pub algorithms: Vec<Algorithm>,
    /// Issuers whose tokens count (`iss`); empty: everybody who has a key.
    pub issuers: Vec<String>,
    /// One of them must be meant by the token (`aud`).
    pub audiences: Vec<String>,
    /// Tokens that are meant for others count, too.
    pub any_audience: bool,
    /// By how much the issuer's clock may differ.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// Whether each token must say when it ends (`exp`).
    pub require_expiry: bool,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that lists the virtual hosts.
    pub vhosts_claim: String,
    /// The virtual hosts where there is no such claim; empty: the default one.
    pub vhosts: Vec<String>,
    /// The claim that lists the user's groups, for presence.
    pub groups_claim: String,
    /// The claim that names the user's device.
    pub device_claim: String,
    /// The judge of what the user may do.
    pub rights: Rights,
    /// Destinations that users may subscribe to.
    pub subscribe: Vec<String>,
    /// Destinations that users may send to.
    pub send: Vec<String>,
    /// The claim that lists more of them.
    pub subscribe_claim: String,
    /// The same for sending.
    pub send_claim: String,
    /// The name by which RabbitMQ's scopes begin.
    pub resource_server_id: String,
    /// The claim that has them.
    pub scope_claim: String,
    /// A header of the upgrade request that may carry the token.
    pub header: String,
    /// The same for a cookie.
    pub cookie: String,
    /// The same for a parameter of its URL.
    pub query: String,
    /// Whether a subprotocol `bearer.<token>` may carry it.
    pub subprotocol: bool,
}

/// The judge of what a user may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rights {
    /// The token and `[auth.jwt]`; nobody is asked.
    #[default]
    Token,
    /// The hook.
    Hook,
}

/// A secret, which is never shown.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub(super) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "***" })
    }
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            jwks_url: String::new(),
            jwks_interval: Duration::from_secs(5 * 60),
            jwks_cooldown: Duration::from_secs(10),
            jwks_timeout: Duration::from_secs(5),
            jwks_insecure_http: false,
            public_keys: Vec::new(),
            secret: Secret::default(),
            secret_file: PathBuf::new(),
            algorithms: Vec::new(),
            issuers: Vec::new(),
            audiences: Vec::new(),
            any_audience: false,
            leeway: Duration::from_secs(10),
            require_expiry: true,
            user_claim: "sub".into(),
            vhosts_claim: String::new(),
            vhosts: Vec::new(),
            groups_claim: String::new(),
            device_claim: String::new(),
            rights: Rights::Token,
            subscribe: Vec::new(),
            send: Vec::new(),
            subscribe_claim: String::new(),
            send_claim: String::new(),
            resource_server_id: String::new(),
            scope_claim: "scope".into(),
            header: String::new(),
            cookie: String::new(),
            query: String::new(),
            subprotocol: false,
        }
    }
}

impl JwtConfig {
    /// Whether there are keys, and so tokens.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.has_public_keys() || self.has_secret()
    }

    fn has_public_keys(&self) -> bool {
        !self.jwks_url.is_empty() || !self.public_keys.is_empty()
    }

    fn has_secret(&self) -> bool {
        !self.secret.0.is_empty() || !self.secret_file.as_os_str().is_empty()
    }

    /// The algorithms that tokens may be signed by: never one that no key is for.
    #[must_use]
    pub fn allowed(&self) -> Vec<Algorithm> {
        use AlgorithmFamily::{Ec, Ed, Hmac, Rsa};
        let families = [
            (Rsa, self.has_public_keys()),
            (Ec, self.has_public_keys()),
            (Ed, self.has_public_keys()),
            (Hmac, self.has_secret()),
        ];
        let families = families.iter().filter(|(_, has_key)| *has_key);
        let possible = families.flat_map(|(family, _)| family.algorithms().iter().copied());
        possible
            .filter(|algorithm| self.algorithms.is_empty() || self.algorithms.contains(algorithm))
            .collect()
    }

    /// Whether it makes sense. Files are not looked at.
    ///
    /// # Errors
    /// The key at fault, and what is wrong and what to do.
    pub fn check(&self) -> Checked {
        if !self.is_on() {
            return match *self == Self::default() {
                true => Ok(()),
                false => wrong(
                    "jwks_url",
                    "is not set, nor public_keys, secret_file or secret, so there are no keys to \
                     check tokens by; set one, or take the section out",
                ),
            };
        }
        self.check_keys()?;
        let why = "ended tokens would live on";
        at_most("leeway", self.leeway, MAX_LEEWAY, why)?;
        match (self.audiences.is_empty(), self.any_audience) {
            (true, false) => {
                return wrong(
                    "audiences",
                    "is empty, so tokens that were made for other programs would count: name the \
                     audience (`aud`) of this one, or write any_audience = true",
                );
            }
            (false, true) => {
                return wrong(
                    "any_audience",
                    "is on, but audiences are named: leave out one of them",
                );
            }
            (true, true) | (false, false) => {}
        }
        if self.user_claim.is_empty() {
            return wrong(
                "user_claim",
                "is empty, so nobody had a name: write \"sub\"",
            );
        }
        for (key, templates) in [("subscribe", &self.subscribe), ("send", &self.send)] {
            for template in templates {
                // The name of the topic exchange does not matter here.
                Template::parse(template, "")
                    .map_err(|why| (key, format!("{template:?} {why}")))?;
            }
        }
        if self.rights == Rights::Hook && self.has_rights() {
            return wrong(
                "rights",
                "is \"hook\", so subscribe, send, their claims and resource_server_id mean \
                 nothing: take them out, or write \"token\"",
            );
        }
        if !self.header.is_empty() && self.header.parse::<HeaderName>().is_err() {
            return Err(("header", format!("{:?} cannot be one", self.header)));
        }
        Ok(())
    }

    fn has_rights(&self) -> bool {
        !self.subscribe.is_empty()
            || !self.send.is_empty()
            || !self.subscribe_claim.is_empty()
            || !self.send_claim.is_empty()
            || !self.resource_server_id.is_empty()
    }

    fn check_keys(&self) -> Checked {
        if !self.jwks_url.is_empty() {
            jwks_url(self).map_err(|why| ("jwks_url", why))?;
            let second = Duration::from_secs(1);
            let why = "the issuer would be asked without end";
            at_least("jwks_interval", self.jwks_interval, second, why)?;
            at_least("jwks_cooldown", self.jwks_cooldown, second, why)?;
            let why = "no fetch could succeed";
            more_than_zero("jwks_timeout", self.jwks_timeout, why)?;
            let why = "an issuer that hangs would hold up reloads";
            at_most("jwks_timeout", self.jwks_timeout, MAX_TIMEOUT, why)?;
        }
        if !self.secret.0.is_empty() {
            if !self.secret_file.as_os_str().is_empty() {
                return wrong(
                    "secret",
                    "is set, and secret_file, too: leave out one of them",
                );
            }
            secret(self.secret.0.as_bytes()).map_err(|why| ("secret", why))?;
        }
        let allowed = self.allowed();
        let useless = self.algorithms.iter().find(|name| !allowed.contains(name));
        if let Some(algorithm) = useless {
            let needed = match algorithm.family() {
                AlgorithmFamily::Hmac => "a secret: HS256 and its kind never go by a public key",
                _ => "a public key: set jwks_url or public_keys",
            };
            let message = format!("{algorithm:?} needs {needed}, or take it out");
            return Err(("algorithms", message));
        }
        Ok(())
    }
}

fn wrong(key: &'static str, message: &str) -> Checked {
    Err((key, message.to_owned()))
}

/// The issuer's address, if it may be asked there.
pub(super) fn jwks_url(config: &JwtConfig) -> Result<Url, String> {
    let wanted = "write a whole URL, such as \"https://login.example.com/jwks.json\"";
    let url =
        Url::parse(&config.jwks_url).map_err(|error| format!("is no URL ({error}): {wanted}"))?;
    check_account(&url)?;
    let is_loopback = match url.host() {
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback || config.jwks_insecure_http => Ok(url),
        "http" => Err(
            "is not https, so anybody on the way could give the gateway keys: use \
                       https, or write jwks_insecure_http = true"
                .into(),
        ),
        other => Err(format!("has the scheme `{other}`: {wanted}")),
    }
}

/// A shared secret that cannot be guessed.
pub(super) fn secret(secret: &[u8]) -> Result<(), String> {
    if secret.len() < SHORTEST_SECRET {
        return Err(format!(
            "is shorter than {SHORTEST_SECRET} bytes, so it can be guessed by whoever has a token: \
             `openssl rand -hex 32` makes one"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> JwtConfig {
        toml::from_str(text).unwrap()
    }

    fn said(config: &JwtConfig) -> String {
        let (key, message) = config.check().unwrap_err();
        format!("{key} {message}")
    }

    fn wrong(text: &str) -> String {
        said(&read(&format!("audiences = [\"a\"]\n{text}")))
    }

    const SECRET: &str = "secret = \"0123456789abcdef0123456789abcdef\"\n";

    #[test]
    fn it_is_off_by_default_and_never_half_on() {
        let config = read("");
        assert_eq!(config, JwtConfig::default());
        assert!(!config.is_on() && config.check() == Ok(()));
        assert!(said(&read("leeway = \"5s\"")).contains("no keys"));
        assert!(toml::from_str::<JwtConfig>("jwks = \"x\"").is_err());
    }

    #[test]
    fn an_algorithm_needs_a_key_of_its_kind() {
        use Algorithm::*;
        assert_eq!(read(SECRET).allowed(), [HS256, HS384, HS512]);
        let public = read("jwks_url = \"https://i/jwks\"").allowed();
        assert!(public.contains(&ES256) && public.contains(&EdDSA));
        assert!(!public.contains(&HS256), "{public:?}");
        let listed = read(&format!("{SECRET}algorithms = [\"HS256\"]"));
        assert_eq!(listed.allowed(), [HS256]);
        let text = "jwks_url = \"https://i/jwks\"\nalgorithms = [\"RS256\", \"HS256\"]";
        assert!(
            wrong(text).contains("HS256 needs a secret"),
            "{}",
            wrong(text)
        );
        let text = format!("{SECRET}algorithms = [\"RS256\"]");
        assert!(wrong(&text).contains("RS256 needs a public key"));
        assert!(toml::from_str::<JwtConfig>("algorithms = [\"none\"]").is_err());
    }

    #[test]
    fn what_is_not_safe_is_refused() {
        for (text, expected) in [
            ("secret = \"short\"", "shorter than 32 bytes"),
            (
                "jwks_url = \"http://login.example.com/jwks\"",
                "is not https",
            ),
            ("jwks_url = \"file:///etc/keys\"", "scheme `file`"),
            (
                "jwks_url = \"https://i/\"\njwks_cooldown = \"0s\"",
                "without end",
            ),
            (
                "jwks_url = \"https://i/\"\njwks_timeout = \"61s\"",
                "is longer than 1m, so an issuer that hangs would hold up reloads",
            ),
            ("jwks_url = \"https://i/\"\nleeway = \"1h\"", "live on"),
            (
                "jwks_url = \"https://i/\"\nany_audience = true",
                "leave out one",
            ),
            ("jwks_url = \"https://i/\"\nuser_claim = \"\"", "user_claim"),
            ("jwks_url = \"https://i/\"\nheader = \"a b\"", "header"),
            (
                "jwks_url = \"https://i/\"\nrights = \"hook\"\nsend = [\"/queue/a\"]",
                "mean nothing",
            ),
            (
                "jwks_url = \"https://i/\"\nsend = [\"/nowhere/a\"]",
                "/nowhere/a",
            ),
            (
                "jwks_url = \"https://i/\"\nsubscribe = [\"/queue/{a\"]",
                "brace",
            ),
        ] {
            let said = wrong(text);
            assert!(said.contains(expected), "{text}: {said}");
        }
        let (key, _) = read("jwks_url = \"https://i/\"").check().unwrap_err();
        assert_eq!(key, "audiences");
        for text in [
            "jwks_url = \"http://127.0.0.1:8080/jwks\"",
            "jwks_url = \"https://i/\"\njwks_timeout = \"1m\"",
            "jwks_url = \"http://[::1]/jwks\"",
            "jwks_url = \"http://localhost/jwks\"",
            "jwks_url = \"http://login.example.com/jwks\"\njwks_insecure_http = true",
        ] {
            let text = format!("audiences = [\"a\"]\n{text}");
            assert_eq!(read(&text).check(), Ok(()), "{text}");
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", read(SECRET));
        assert!(
            shown.contains("***") && !shown.contains("0123456789"),
            "{shown}"
        );
    }
}
