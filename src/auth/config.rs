//! The `[auth]` section.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use auth_hook::{Call, MAX_BATCH};
use reqwest::header::HeaderName;
use serde::Deserialize;
use url::Url;

use super::{CertificateLogin, Credentials, jwt::JwtConfig};
use crate::{
    secret_url::{check_account, without_secrets},
    units::{Checked, at_least_one, at_most, more_than_zero},
};

/// The `[auth]` section: where the hook is, and how it is asked.
///
/// Paths are whole URLs, and may hold secrets (a token in the query, a password before the
/// host); `Debug` does not show those.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Stands for the paths of all checks that are not given: each is this one and the name of the
    /// check, `/user` and so on. Not for that of groups, which few hooks have.
    pub hook: Option<String>,
    /// Answers who a user is. It or `hook` has to be given, unless all users are RabbitMQ's own.
    pub user_path: Option<String>,
    /// Answers whether a user may enter a virtual host.
    pub vhost_path: Option<String>,
    /// Answers whether a user may use an exchange or a queue.
    pub resource_path: Option<String>,
    /// Answers whether a user may use a routing key of an exchange.
    pub topic_path: Option<String>,
    /// Answers many questions in one call: those of all checks whose own path is not given.
    pub batch_path: Option<String>,
    /// So many questions go in one call, at most. Default 50.
    pub batch_size: usize,
    /// Answers which groups a user is in: for presence, and asked only where that is on.
    pub groups_path: Option<String>,
    /// What a check answers whose path is not given. Default `deny`.
    pub unset: Unset,
    /// How questions are sent. Default `get`, as RabbitMQ's; `post` keeps passwords out of the
    /// access logs of the hook and of what stands before it.
    pub http_method: Method,
    /// How long making a connection to the hook may take. Default 3 s.
    #[serde(with = "humantime_serde")]
    pub connection_timeout: Duration,
    /// How long a call may take: connecting, asking and reading; and how long it may wait for its
    /// turn before. Default 5 s.
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    /// Calls under way at a time; more wait for their turn. Default 64.
    pub max_calls: usize,
    /// Of these, calls for one user who is logged in. Default 8.
    pub max_user_calls: usize,
    /// How long a permission is remembered. Refusals and logins never are. Default 15 s; zero
    /// turns the memory off.
    #[serde(with = "humantime_serde")]
    pub cache_ttl: Duration,
    /// Permissions remembered at a time. Default 100,000.
    pub cache_size: u64,
    /// How often the hook is asked again about each session, with the credentials of its login,
    /// which are kept for it. Default zero: never.
    #[serde(with = "humantime_serde")]
    pub recheck: Duration,
    /// Whether clients are told the reason that the hook gives for a refusal; never that of a
    /// refused login. Default no.
    pub disclose_reason: bool,
    /// Whether a client stays connected when something is denied to it.
    pub soft_deny: bool,
    /// Users whose clients stay in any case, however often: programs that speak for many, such as
    /// Spring's relay, whose one connection all of its users share.
    pub soft_deny_users: Vec<String>,
    /// Whether HTTP Basic authentication of the upgrade request is the login, whatever CONNECT
    /// says: RabbitMQ's `web_stomp.use_http_auth`.
    pub http_basic: bool,
    /// Who a client is whose CONNECT names nobody: RabbitMQ's `stomp.default_user`.
    pub default_user: Option<String>,
    /// What the hook is told as its passcode: RabbitMQ's `stomp.default_pass`.
    pub default_passcode: Option<String>,
    /// Headers of the upgrade request that the user call has as parameters: by their names, the
    /// parameters'.
    pub forward_headers: BTreeMap<String, String>,
    /// The same for cookies.
    pub forward_cookies: BTreeMap<String, String>,
    /// The same for parameters of its URL.
    pub forward_query: BTreeMap<String, String>,
    /// The same for what is known of the connection.
    pub forward_connection: BTreeMap<Fact, String>,
    /// The header of the hook's answer to the user call that says who the user is.
    pub username_header: Option<String>,
    /// The header of that answer that says how many seconds the login counts.
    pub lifetime_header: Option<String>,
    /// Whether a client's certificate stands in for its name and password. Default no.
    pub certificate_login: CertificateLogin,
    /// The section `[auth.jwt]`: tokens as logins.
    #[serde(skip)]
    pub jwt: JwtConfig,
}

/// What is known of a connection, and can be told to the hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Where it comes from.
    ClientIp,
    /// The `session` header of its CONNECTED.
    Session,
    /// The node that it is connected to.
    Node,
    /// How: `tcp`, `websocket`, …
    Transport,
}

/// What a check answers whose path is not given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unset {
    /// No, to everybody.
    #[default]
    Deny,
    /// Yes, to everybody.
    Allow,
}

/// How questions are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// GET, with the parameters in the query string.
    #[default]
    Get,
    /// POST, with the parameters as a form.
    Post,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            hook: None,
            user_path: None,
            vhost_path: None,
            resource_path: None,
            topic_path: None,
            batch_path: None,
            batch_size: 50,
            groups_path: None,
            unset: Unset::Deny,
            http_method: Method::Get,
            connection_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(5),
            max_calls: 64,
            max_user_calls: 8,
            cache_ttl: Duration::from_secs(15),
            cache_size: 100_000,
            recheck: Duration::ZERO,
            disclose_reason: false,
            soft_deny: false,
            soft_deny_users: Vec::new(),
            http_basic: false,
            default_user: None,
            default_passcode: None,
            forward_headers: BTreeMap::new(),
            forward_cookies: BTreeMap::new(),
            forward_query: BTreeMap::new(),
            forward_connection: BTreeMap::new(),
            username_header: None,
            lifetime_header: None,
            certificate_login: CertificateLogin::Off,
            jwt: JwtConfig::default(),
        }
    }
}

/// A longer memory would outlive every intention; the cache could not count it either.
const MAX_CACHE_TTL: Duration = Duration::from_secs(24 * 60 * 60);

const MIN_RECHECK: Duration = Duration::from_secs(1);

impl Config {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// A key, and what is wrong with it and what to do.
    pub fn check(&self) -> Checked {
        if let Some(hook) = &self.hook {
            parse(hook).map_err(|problem| ("hook", problem))?;
        }
        if let Some(batches) = &self.batch_path {
            parse(batches).map_err(|problem| ("batch_path", problem))?;
        }
        at_least_one("batch_size", self.batch_size, "no question could be asked")?;
        if self.batch_size > MAX_BATCH {
            let message = format!(
                "is {}, and hooks read at most {MAX_BATCH} questions of a call: give 50, say",
                self.batch_size
            );
            return Err(("batch_size", message));
        }
        for call in Call::ALL {
            let (key, path) = self.path(call);
            if let Some(path) = path {
                parse(&path).map_err(|problem| (key, problem))?;
            }
        }
        for (key, timeout) in [
            ("connection_timeout", self.connection_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            more_than_zero(key, timeout, "every call would fail")?;
        }
        at_least_one("max_calls", self.max_calls, "no call could be made")?;
        let why = "nobody could be asked about who is logged in";
        at_least_one("max_user_calls", self.max_user_calls, why)?;
        let why = "permissions that were taken back would live on";
        at_most("cache_ttl", self.cache_ttl, MAX_CACHE_TTL, why)?;
        if self.cache_size == 0 && !self.cache_ttl.is_zero() {
            let message = "is 0: to remember no permissions, set cache_ttl = \"0s\"";
            return Err(("cache_size", message.into()));
        }
        if !self.recheck.is_zero() && self.recheck < MIN_RECHECK {
            let message = "is less than a second, which would keep the hook busy with nothing \
                           else: give \"30s\", say, or \"0s\" for never";
            return Err(("recheck", message.into()));
        }
        self.check_default()?;
        self.check_forwarded()
    }

    /// True if there is a hook to ask who a user is.
    #[must_use]
    pub fn knows_users(&self) -> bool {
        self.path(Call::User).1.is_some()
    }

    /// The keys of the hook's paths that are set, with their URLs.
    #[must_use]
    pub fn hook_urls(&self) -> Vec<(&'static str, Url)> {
        let paths = Call::ALL.map(|call| self.path(call)).into_iter();
        let urls = paths.filter_map(|(key, path)| Some((key, parse(&path?).ok()?)));
        urls.collect()
    }

    /// The key by which the address of such a path was given: its own, that of batches, or that of all.
    #[must_use]
    pub fn given_by(&self, key: &'static str) -> &'static str {
        let call = Call::ALL.into_iter().find(|call| self.path(*call).0 == key);
        let own = match call {
            Some(Call::User) => &self.user_path,
            Some(Call::Vhost) => &self.vhost_path,
            Some(Call::Resource) => &self.resource_path,
            Some(Call::Topic) => &self.topic_path,
            Some(Call::Groups) | None => return key,
        };
        match (own, &self.batch_path) {
            (Some(_), _) => key,
            (None, Some(_)) => "batch_path",
            (None, None) => "hook",
        }
    }

    /// The keys that name paths of the hook, and are set.
    #[must_use]
    pub fn set_paths(&self) -> Vec<&'static str> {
        let paths = Call::ALL.map(|call| self.path(call)).into_iter();
        let set = paths.filter(|(_, path)| path.is_some());
        set.map(|(key, _)| key).collect()
    }

    /// Whether a browser logs its user in by itself, whatever page asks: it adds cookies and HTTP
    /// Basic authentication to all requests.
    #[must_use]
    pub fn is_ambient(&self) -> bool {
        let is_sent = |header: &String| {
            let mut ambient = ["cookie", "authorization"].into_iter();
            ambient.any(|name| header.eq_ignore_ascii_case(name))
        };
        self.http_basic
            || !self.jwt.cookie.is_empty()
            || !self.forward_cookies.is_empty()
            || self.forward_headers.keys().any(is_sent)
    }

    fn check_default(&self) -> Checked {
        match (&self.default_user, &self.default_passcode) {
            (Some(user), _) if user.is_empty() => Err((
                "default_user",
                "is empty: give a name, or leave it out".into(),
            )),
            (Some(_), None) => {
                let message = "is set, but not default_passcode, which the hook is asked with: \
                               give both (the passcode by the variable \
                               STENTOR__AUTH__DEFAULT_PASSCODE)";
                Err(("default_user", message.into()))
            }
            (None, Some(_)) => Err((
                "default_passcode",
                "is set, but not default_user: give both, or none".into(),
            )),
            _ => Ok(()),
        }
    }

    fn check_forwarded(&self) -> Checked {
        if self.soft_deny_users.iter().any(String::is_empty) {
            let message = "has an empty name; write the users' names, such as [\"relay\"]";
            return Err(("soft_deny_users", message.into()));
        }
        let header = |key, name: &str| match name.parse::<HeaderName>() {
            Ok(_) => Ok(()),
            Err(_) => Err((
                key,
                format!("names the header {name:?}, which cannot be one"),
            )),
        };
        for name in self.forward_headers.keys() {
            header("forward_headers", name)?;
        }
        for (key, name) in [
            ("username_header", &self.username_header),
            ("lifetime_header", &self.lifetime_header),
        ] {
            if let Some(name) = name {
                header(key, name)?;
            }
        }
        let mut taken = BTreeSet::from(["username", "password", "vhost"]);
        let connection = self.forward_connection.values();
        for (key, parameter) in [
            ("forward_headers", &self.forward_headers),
            ("forward_cookies", &self.forward_cookies),
            ("forward_query", &self.forward_query),
        ]
        .into_iter()
        .flat_map(|(key, names)| names.values().map(move |parameter| (key, parameter)))
        .chain(connection.map(|parameter| ("forward_connection", parameter)))
        {
            if parameter.is_empty() {
                return Err((key, "has an empty parameter: give it a name".into()));
            }
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
            if !parameter.bytes().all(is_plain) {
                let message = format!(
                    "uses the parameter {parameter:?}: choose a name of letters, digits and \
                     \"-_.~\", which every hook reads alike"
                );
                return Err((key, message));
            }
            if !taken.insert(parameter) {
                let message = format!(
                    "uses the parameter {parameter:?}, which the user call has already: choose \
                     another name"
                );
                return Err((key, message));
            }
        }
        Ok(())
    }

    /// Who a client is that names nobody.
    pub(crate) fn default_credentials(&self) -> Option<Credentials> {
        Some(Credentials {
            user: self.default_user.as_deref()?.into(),
            passcode: self.default_passcode.as_deref()?.into(),
        })
    }

    /// True if there is a hook to ask anything.
    #[must_use]
    pub fn has_hook(&self) -> bool {
        Call::CHECKS.iter().any(|call| self.path(*call).1.is_some())
    }

    /// The keys of checks without a path: what they check is answered by [`Config::unset`].
    #[must_use]
    pub fn unset_paths(&self) -> Vec<&'static str> {
        let paths = Call::CHECKS.map(|call| self.path(call)).into_iter();
        let unset = paths.filter(|(_, path)| path.is_none());
        unset.map(|(key, _)| key).collect()
    }

    /// The key of a call's path, and what is given for it.
    pub(super) fn path(&self, call: Call) -> (&'static str, Option<Cow<'_, str>>) {
        let (key, path) = match call {
            Call::User => ("user_path", &self.user_path),
            Call::Vhost => ("vhost_path", &self.vhost_path),
            Call::Resource => ("resource_path", &self.resource_path),
            Call::Topic => ("topic_path", &self.topic_path),
            Call::Groups => ("groups_path", &self.groups_path),
        };
        let given = path.as_deref().map(Cow::Borrowed);
        let batches = || self.batch_path.as_deref().map(Cow::Borrowed);
        let batches = self.is_batched(call).then(batches).flatten();
        let path = given.or(batches);
        (key, path.or_else(|| self.below_hook(call).map(Cow::Owned)))
    }

    /// Whether such questions go together with others: a path of their own counts more, and the
    /// hook's less.
    pub(super) fn is_batched(&self, call: Call) -> bool {
        let own = match call {
            Call::User => &self.user_path,
            Call::Vhost => &self.vhost_path,
            Call::Resource => &self.resource_path,
            Call::Topic => &self.topic_path,
            Call::Groups => return false,
        };
        own.is_none() && self.batch_path.is_some()
    }

    /// Whether the hook is asked by TLS.
    pub(super) fn asks_securely(&self) -> bool {
        let paths = Call::ALL.into_iter().filter_map(|call| self.path(call).1);
        let mut urls = paths.filter_map(|path| parse(&path).ok());
        urls.any(|url| url.scheme() == "https")
    }

    fn below_hook(&self, call: Call) -> Option<String> {
        if !Call::CHECKS.contains(&call) {
            return None;
        }
        let mut url = parse(self.hook.as_deref()?).ok()?;
        url.path_segments_mut()
            .ok()?
            .pop_if_empty()
            .push(call.name());
        Some(url.into())
    }
}

/// Reads a path; what is wrong with it. The text itself is not shown: it may hold secrets.
pub(super) fn parse(path: &str) -> Result<Url, String> {
    let wanted = "give a whole URL, such as \"http://127.0.0.1:8000/auth\"";
    let url = Url::parse(path).map_err(|error| format!("is no URL ({error}): {wanted}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!(
            "has the scheme `{}`, not http or https: {wanted}",
            url.scheme()
        ));
    }
    if url.fragment().is_some() {
        return Err("has a fragment (`#…`), which is never sent: leave it out".into());
    }
    check_account(&url)?;
    Ok(url)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shape = f.debug_struct("Config");
        for call in Call::ALL {
            let (key, path) = self.path(call);
            let path =
                path.map(|p| parse(&p).map_or_else(|_| "(no URL)".into(), |u| without_secrets(&u)));
            shape.field(key, &path);
        }
        shape
            .field("batch_size", &self.batch_size)
            .field("unset", &self.unset)
            .field("http_method", &self.http_method)
            .field("connection_timeout", &self.connection_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("max_calls", &self.max_calls)
            .field("max_user_calls", &self.max_user_calls)
            .field("cache_ttl", &self.cache_ttl)
            .field("cache_size", &self.cache_size)
            .field("recheck", &self.recheck)
            .field("disclose_reason", &self.disclose_reason)
            .field("soft_deny", &self.soft_deny)
            .field("soft_deny_users", &self.soft_deny_users)
            .field("http_basic", &self.http_basic)
            .field("default_user", &self.default_user)
            .field(
                "default_passcode",
                &self.default_passcode.as_ref().map(|_| "***"),
            )
            .field("forward_headers", &self.forward_headers)
            .field("forward_cookies", &self.forward_cookies)
            .field("forward_query", &self.forward_query)
            .field("forward_connection", &self.forward_connection)
            .field("username_header", &self.username_header)
            .field("lifetime_header", &self.lifetime_header)
            .field("certificate_login", &self.certificate_login)
            .field("jwt", &self.jwt)
            .finish()
    }
}

#[cfg(test)]
impl Config {
    /// The section of this text; what stands behind a line `[jwt]` is `[auth.jwt]`.
    pub(crate) fn of_text(text: &str) -> Self {
        let (own, tokens) = text.split_once("[jwt]\n").unwrap_or((text, ""));
        let mut config: Self = toml::from_str(own).unwrap();
        config.jwt = toml::from_str(tokens).unwrap();
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    fn wrong(text: &str) -> (&'static str, String) {
        let user = "user_path = \"http://h/u\"\n";
        read(&format!(
            "{}{text}",
            if text.contains("user_path") { "" } else { user }
        ))
        .check()
        .unwrap_err()
    }

    /// An address is mended at the key that has it, so errors name that key.
    #[test]
    fn an_address_is_given_by_its_own_key_or_by_one_for_all() {
        let given = |text| read(text).given_by("vhost_path");
        assert_eq!(given("hook = \"http://h/a\""), "hook");
        let both = "hook = \"http://h/a\"\nbatch_path = \"http://h/b\"";
        assert_eq!(given(both), "batch_path");
        let own = "hook = \"http://h/a\"\nvhost_path = \"http://h/v\"";
        assert_eq!(given(own), "vhost_path");
        assert_eq!(read("").given_by("groups_path"), "groups_path");
    }

    #[test]
    fn all_keys_are_read() {
        assert_eq!(read(""), Config::default());
        let config = read(
            r#"
            hook = "https://h/auth"
            user_path = "https://h/u?token=1"
            vhost_path = "http://h/v"
            resource_path = "http://h/r"
            topic_path = "http://h/t"
            batch_path = "http://h/b"
            batch_size = 9
            groups_path = "http://h/g"
            unset = "allow"
            http_method = "post"
            connection_timeout = "1s"
            request_timeout = "1500ms"
            max_calls = 7
            max_user_calls = 3
            cache_ttl = "0s"
            cache_size = 8
            disclose_reason = true
            soft_deny = true
            http_basic = true
            default_user = "guest"
            default_passcode = "g"
            forward_headers = { X-Token = "token" }
            forward_cookies = { sid = "sid" }
            forward_query = { t = "t" }
            forward_connection = { client_ip = "ip", session = "session", node = "n", transport = "tr" }
            username_header = "X-Username"
            certificate_login = "common_name"
            "#,
        );
        assert_eq!(config.check(), Ok(()));
        assert_eq!(
            (config.unset, config.http_method),
            (Unset::Allow, Method::Post)
        );
        assert_eq!(config.certificate_login, CertificateLogin::CommonName);
        assert_eq!(config.request_timeout, Duration::from_millis(1500));
        assert_eq!(config.topic_path.as_deref(), Some("http://h/t"));
        assert_eq!(config.groups_path.as_deref(), Some("http://h/g"));
        assert_eq!(read("user_path = \"http://h/u\"").check(), Ok(()));
    }

    #[test]
    fn the_hook_stands_for_the_paths_of_checks() {
        let paths = |text: &str| {
            let config = read(text);
            assert_eq!(config.check(), Ok(()), "{text}");
            Call::ALL.map(|call| config.path(call).1.map(Cow::into_owned))
        };
        let some = |path: &str| Some(path.to_owned());
        let all = ["user", "vhost", "resource", "topic"];
        for hook in ["http://h:8000/auth", "http://h:8000/auth/"] {
            let [user, vhost, resource, topic, groups] = paths(&format!("hook = {hook:?}"));
            let expected = all.map(|call| some(&format!("http://h:8000/auth/{call}")));
            assert_eq!([user, vhost, resource, topic], expected);
            assert_eq!(groups, None);
        }
        let [user, vhost, ..] = paths("hook = \"https://h/?token=1\"\nvhost_path = \"http://v/\"");
        assert_eq!(user, some("https://h/user?token=1"));
        assert_eq!(vhost, some("http://v/"));
        assert_eq!(read("hook = \"http://h/a\"").unset_paths(), [""; 0]);
        let unset = ["vhost_path", "resource_path"];
        let config = read("user_path = \"http://h/u\"\ntopic_path = \"http://h/t\"");
        assert_eq!(config.unset_paths(), unset);
    }

    #[test]
    fn batches_stand_for_the_checks_without_a_path_of_their_own() {
        let config =
            read("hook = \"http://h/a\"\nbatch_path = \"https://h/b\"\nuser_path = \"http://h/u\"");
        let paths = Call::ALL.map(|call| config.path(call).1.map(Cow::into_owned));
        let [user, others @ .., groups] = paths;
        assert_eq!((user.as_deref(), groups), (Some("http://h/u"), None));
        assert_eq!(others, ["https://h/b"; 3].map(|path| Some(path.to_owned())));
        let batched = Call::ALL.map(|call| config.is_batched(call));
        assert_eq!(batched, [false, true, true, true, false]);
        assert!(config.asks_securely());
        let config = read("batch_path = \"http://h/b?token=t0ken\"");
        assert_eq!(config.check(), Ok(()));
        assert!(config.knows_users() && config.has_hook() && !config.asks_securely());
        assert_eq!(config.unset_paths(), [""; 0]);
        assert!(!format!("{config:?}").contains("t0ken"));
    }

    #[test]
    fn unknown_keys_and_values_are_refused() {
        for text in [
            "user = 1",
            "unset = \"maybe\"",
            "http_method = \"put\"",
            "certificate_login = true",
            "cache_ttl = 15",
        ] {
            assert!(toml::from_str::<Config>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(Config::default().check(), Ok(()));
        for (text, key) in [
            ("user_path = \"/auth/user\"", "user_path"),
            ("hook = \"/auth\"", "hook"),
            ("topic_path = \"ftp://h/t\"", "topic_path"),
            ("groups_path = \"/auth/groups\"", "groups_path"),
            ("batch_path = \"/auth/batch\"", "batch_path"),
            ("batch_size = 0", "batch_size"),
            ("batch_size = 1001", "batch_size"),
            ("vhost_path = \"http://h/v#x\"", "vhost_path"),
            ("connection_timeout = \"0s\"", "connection_timeout"),
            ("request_timeout = \"0s\"", "request_timeout"),
            ("max_calls = 0", "max_calls"),
            ("max_user_calls = 0", "max_user_calls"),
            ("cache_size = 0", "cache_size"),
            ("cache_ttl = \"2000years\"", "cache_ttl"),
            ("default_user = \"a\"", "default_user"),
            (
                "default_user = \"\"\ndefault_passcode = \"a\"",
                "default_user",
            ),
            ("default_passcode = \"a\"", "default_passcode"),
            ("forward_headers = { \"a b\" = \"a\" }", "forward_headers"),
            ("forward_cookies = { a = \"password\" }", "forward_cookies"),
            ("forward_query = { a = \"\" }", "forward_query"),
            ("forward_query = { t = \"a&b=c\" }", "forward_query"),
            ("forward_cookies = { t = \"ä\" }", "forward_cookies"),
            (
                "forward_connection = { session = \"a b\" }",
                "forward_connection",
            ),
            (
                "forward_query = { a = \"p\" }\nforward_connection = { session = \"p\" }",
                "forward_connection",
            ),
            ("username_header = \"é\"", "username_header"),
        ] {
            assert_eq!(wrong(text).0, key, "{text}");
        }
    }

    /// Else a part of it would be the host, which is shown.
    #[test]
    fn a_password_that_ends_too_early_is_refused() {
        for hook in [
            "http://me:p@s3cret/w@h/auth",
            "http://me:p@s3cret/?w@h/auth",
        ] {
            let (key, message) = wrong(&format!("hook = {hook:?}"));
            assert_eq!(key, "hook");
            assert!(message.contains("%2F and %40"), "{message}");
            assert!(!message.contains("s3cret"), "{message}");
        }
        assert_eq!(read("hook = \"http://h/@auth\"").check(), Ok(()));
    }

    #[test]
    fn debug_shows_no_secrets() {
        let config = read(
            "user_path = \"http://me:s3cret@h/u?token=t0ken\"\ntopic_path = \"s3cret\"\n\
                  hook = \"http://me:s3cret@h/auth?token=t0ken\"\n\
                  default_passcode = \"s3cret\"",
        );
        let shown = format!("{config:?}");
        assert!(shown.contains("\"http://h/u\""), "{shown}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("t0ken"),
            "{shown}"
        );
        let (_, message) = config.check().unwrap_err();
        assert!(!message.contains("s3cret"), "{message}");
    }
}
