//! From the settings of `rabbitmq.conf` to entries of Stentor's configuration, and notes on the
//! rest.

use std::{collections::BTreeMap, time::Duration};

use url::Url;

use super::{
    conf::{self, Setting, address, only},
    keys::{EQUIVALENTS, Kind, PREFIXES, WITHOUT, matches},
};
use crate::units::show_size;

/// A line of Stentor's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    /// In TOML.
    pub(super) value: String,
    /// The lines and keys that it comes from.
    pub(super) from: Vec<(usize, String)>,
    /// An explanation of it.
    pub(super) comment: Option<String>,
    /// The operator has to fill something in: then it is written in a comment.
    pub(super) is_example: bool,
}

/// The fate of a line that is no [`Entry`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    pub(super) line: usize,
    /// Empty for a line without a key.
    pub(super) key: String,
    pub(super) fate: Fate,
}

/// Why a line is no entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fate {
    /// Stentor does the same without being told; where.
    Same(String),
    /// Stentor has nothing for it; why, and what to do.
    Without(String),
    /// It cannot be read, or is no key of RabbitMQ; why.
    Wrong(String),
    /// It is not about what Stentor does, and stays where it is.
    RabbitMq,
}

/// The translation so far.
pub(super) struct Draft<'a> {
    /// Not looked at yet.
    settings: BTreeMap<&'a str, Setting<'a>>,
    pub(super) entries: Vec<Entry>,
    pub(super) notes: Vec<Note>,
    /// RabbitMQ's AMQP port, as far as it is said.
    pub(super) amqp: Option<String>,
    /// That one has TLS.
    pub(super) amqp_is_tls: bool,
    /// RabbitMQ has users of its own: true, unless it is told to ask other backends only.
    pub(super) has_own_users: bool,
}

impl<'a> Draft<'a> {
    /// Goes through all lines.
    pub(super) fn of(text: &'a str) -> Self {
        let mut draft = Draft {
            settings: BTreeMap::new(),
            entries: Vec::new(),
            notes: Vec::new(),
            amqp: None,
            amqp_is_tls: false,
            has_own_users: false,
        };
        for read in conf::parse(text) {
            match read {
                Ok(setting) => {
                    // As RabbitMQ does: the last one counts.
                    if let Some(former) = draft.settings.insert(setting.key, setting) {
                        let again = format!("is set again in line {}, which counts", setting.line);
                        draft.note(&former, Fate::Same(again));
                    }
                }
                Err(broken) => draft.notes.push(Note {
                    line: broken.line,
                    key: String::new(),
                    fate: Fate::Wrong(broken.why.to_owned()),
                }),
            }
        }
        draft.listeners();
        draft.tls();
        draft.virtual_host();
        draft.default_user();
        draft.max_connections();
        draft.origins();
        draft.hook();
        draft.equivalents();
        draft.timeouts();
        draft.sizes();
        draft.look_for_amqp();
        draft.rest();
        draft.notes.sort();
        draft
    }

    pub(super) fn take(&mut self, key: &str) -> Option<Setting<'a>> {
        self.settings.remove(key)
    }

    /// All settings whose keys fit, by line.
    pub(super) fn take_all(&mut self, pattern: &str) -> Vec<Setting<'a>> {
        let keys: Vec<&str> = self
            .settings
            .keys()
            .filter(|key| matches(pattern, key))
            .copied()
            .collect();
        let mut settings: Vec<_> = keys.into_iter().filter_map(|key| self.take(key)).collect();
        settings.sort_by_key(|setting| setting.line);
        settings
    }

    pub(super) fn note(&mut self, setting: &Setting<'_>, fate: Fate) {
        self.notes.push(Note {
            line: setting.line,
            key: setting.key.to_owned(),
            fate,
        });
    }

    pub(super) fn without(&mut self, setting: &Setting<'_>, why: impl Into<String>) {
        self.note(setting, Fate::Without(why.into()));
    }

    pub(super) fn same(&mut self, setting: &Setting<'_>, why: impl Into<String>) {
        self.note(setting, Fate::Same(why.into()));
    }

    /// The value of a setting, or a note that it is wrong.
    pub(super) fn read<T>(
        &mut self,
        setting: &Setting<'_>,
        read: Result<T, &'static str>,
    ) -> Option<T> {
        // RabbitMQ 4 puts in what the environment or a file says.
        let read = match setting.value.contains("$(") {
            true => Err(
                "is filled in by RabbitMQ, from the environment or a file: write what it \
                         is, or set Stentor's variable (STENTOR__SECTION__KEY)",
            ),
            false => read,
        };
        match read {
            Ok(value) => Some(value),
            Err(why) => {
                self.note(setting, Fate::Wrong(why.to_owned()));
                None
            }
        }
    }

    pub(super) fn enter(
        &mut self,
        (section, key): (&'static str, &'static str),
        value: String,
        from: &[Setting<'_>],
        comment: Option<&str>,
    ) {
        let from = from
            .iter()
            .map(|setting| (setting.line, setting.key.to_owned()));
        self.entries.push(Entry {
            section,
            key,
            value,
            from: from.collect(),
            comment: comment.map(str::to_owned),
            is_example: false,
        });
    }

    /// An entry that the operator has to complete, with the reason.
    fn enter_example(
        &mut self,
        target: (&'static str, &'static str),
        value: String,
        from: &Setting<'_>,
        why: &str,
    ) {
        self.enter(target, value, &[*from], None);
        if let Some(entry) = self.entries.last_mut() {
            entry.is_example = true;
        }
        self.without(from, why);
    }

    /// The plug-ins let clients into every virtual host that the hook allows.
    fn virtual_host(&mut self) {
        if let Some(setting) = self.take("stomp.default_vhost")
            && let Some(vhost) = self.read(&setting, Ok(quote(setting.value)))
        {
            self.enter(("broker", "default_vhost"), vhost, &[setting], None);
        }
        let comment =
            "As with the plug-ins: whichever the hook allows. Or name those that are used.";
        let all = "[\"*\"]".to_owned();
        self.enter(("broker", "vhosts"), all, &[], Some(comment));
    }

    /// The user of a client that names nobody. The passcode is a secret and is not written; the
    /// rest is useless without it.
    fn default_user(&mut self) {
        const LATER: &str = "is written in a comment, for it takes a passcode, and that is never \
                             written: set STENTOR__AUTH__DEFAULT_USER and \
                             STENTOR__AUTH__DEFAULT_PASSCODE";
        const IMPLICIT: &str = "is written in a comment, for it takes [auth] default_user and \
                                default_passcode: set them, and \
                                STENTOR__STOMP__IMPLICIT_CONNECT=true";
        if let Some(user) = self.take("stomp.default_user")
            && let Some(name) = self.read(&user, Ok(quote(user.value)))
        {
            self.enter_example(("auth", "default_user"), name, &user, LATER);
        }
        if let Some(passcode) = self.take("stomp.default_pass") {
            let target = ("auth", "default_passcode");
            self.enter_example(target, quote("PASSCODE"), &passcode, LATER);
        }
        if let Some(implicit) = self.take("stomp.implicit_connect") {
            let target = ("stomp", "implicit_connect");
            match self.read(&implicit, switch(implicit.value)) {
                Some(true) => self.enter_example(target, "true".to_owned(), &implicit, IMPLICIT),
                Some(false) => self.enter(target, "false".to_owned(), &[implicit], None),
                None => {}
            }
        }
    }

    /// Stentor counts the clients of all transports together, so they are bounded where those of both
    /// plug-ins are.
    fn max_connections(&mut self) {
        const ALONE: &str = "bounds the clients of one plug-in, and those of the other are not bounded: \
                             [listen] max_connections is for the clients of all transports together, \
                             so set it to what this machine is to hold";
        const UNUSED: &str = "is not used: the plug-in has no listener";
        let (mut total, mut from, mut are_bounded) = (0_u64, Vec::new(), true);
        for (key, ports) in [
            ("stomp.max_connections", ["stomp", "stomps"]),
            ("web_stomp.max_connections", ["http", "https"]),
        ] {
            let is_used = ports.iter().any(|port| self.listens(port));
            let mut limit = None;
            if let Some(setting) = self.take(key) {
                if setting.value == "infinity" {
                    let why = "connections are always bounded: see [listen] max_connections";
                    self.without(&setting, why);
                } else if let Some(count) = self.read(&setting, number::<u32>(setting.value)) {
                    limit = Some((setting, count));
                }
            }
            match limit {
                Some((setting, _)) if !is_used => self.same(&setting, UNUSED),
                Some((setting, count)) => {
                    total = total.saturating_add(count.into());
                    from.push(setting);
                }
                None => are_bounded &= !is_used,
            }
        }
        if !are_bounded {
            for setting in &from {
                self.without(setting, ALONE);
            }
        } else if !from.is_empty() {
            let comment = "Of all transports together.";
            let target = ("listen", "max_connections");
            self.enter(target, total.to_string(), &from, Some(comment));
        }
    }

    fn origins(&mut self) {
        if let Some(none) = self.take("web_stomp.allow_origins")
            && self.read(&none, only("none", none.value)).is_some()
        {
            self.same(&none, "[listen] origins is empty: pages of the same host");
        }
        let from = self.take_all("web_stomp.allow_origins.$");
        let mut origins = Vec::new();
        for setting in &from {
            origins.extend(self.read(setting, Ok(quote(setting.value))));
        }
        if !origins.is_empty() {
            let list = format!("[{}]", origins.join(", "));
            self.enter(("listen", "origins"), list, &from, None);
        }
    }

    /// The hook, if one is asked: the plug-in has a default for a path that is not set, Stentor has
    /// no default.
    fn hook(&mut self) {
        const PATHS: [(&str, &str, &str); 4] = [
            (
                "auth_http.user_path",
                "user_path",
                "http://localhost:8000/auth/user",
            ),
            (
                "auth_http.vhost_path",
                "vhost_path",
                "http://localhost:8000/auth/vhost",
            ),
            (
                "auth_http.resource_path",
                "resource_path",
                "http://localhost:8000/auth/resource",
            ),
            (
                "auth_http.topic_path",
                "topic_path",
                "http://localhost:8000/auth/topic",
            ),
        ];
        let backends = self.backends();
        let set = PATHS.map(|(key, ..)| self.take(key));
        let has_paths = set.iter().any(Option::is_some);
        // RabbitMQ's default; but paths that are set are meant to be asked.
        let is_internal = match backends.are_set {
            true => backends.internal,
            false => !has_paths,
        };
        if is_internal {
            self.own_users(backends.http);
        }
        self.tokens(&backends.tokens, backends.hook_for_tokens);
        if !backends.http && !has_paths {
            return;
        }
        for ((_, key, default), setting) in PATHS.into_iter().zip(set) {
            let target = ("auth", key);
            let Some(setting) = setting else {
                let comment = "Not in rabbitmq.conf: the plug-in's default.";
                self.enter(target, quote(default), &[], Some(comment));
                continue;
            };
            if !has_secret(setting.value) {
                if let Some(path) = self.read(&setting, Ok(quote(setting.value))) {
                    self.enter(target, path, &[setting], None);
                }
                continue;
            }
            let why = format!(
                "holds a password or a token, which is not shown: set the variable \
                 STENTOR__AUTH__{}",
                key.to_uppercase()
            );
            self.without(&setting, why);
        }
    }

    /// The backends that decide about logins.
    fn backends(&mut self) -> Backends<'a> {
        const OTHERS: &str = "Stentor knows RabbitMQ's own users ([auth.rabbitmq]) and asks the \
                              hook ([auth] user_path), which has to answer for these users, too";
        const APART: &str = "Stentor has one backend for a user's login and permissions: RabbitMQ's \
                             own users ([auth.rabbitmq]) or the hook ([auth] user_path); choose one, \
                             and let it know both";
        const HTTP: [&str; 2] = ["http", "rabbit_auth_backend_http"];
        const INTERNAL: &str = "RabbitMQ's own users log in: see [auth.rabbitmq]";
        let mut settings = Vec::new();
        for pattern in [
            "auth_backends.$",
            "auth_backends.$.$",
            "auth_cache.cached_backend",
        ] {
            settings.extend(self.take_all(pattern));
        }
        settings.extend(self.take_all("auth_cache.cached_backend.$"));
        let mut backends = Backends {
            are_set: !settings.is_empty(),
            ..Backends::default()
        };
        self.has_own_users = settings.is_empty();
        let of = |key: &str, names: [&str; 2]| {
            let mut all = settings.iter();
            all.any(|setting| setting.key == key && names.contains(&setting.value))
        };
        for setting in settings.iter().copied() {
            let is_apart = [".authn", ".authz"]
                .iter()
                .any(|end| setting.key.ends_with(end));
            match setting.value {
                "internal" | "rabbit_auth_backend_internal" => {
                    self.has_own_users = true;
                    if is_apart {
                        self.without(&setting, APART);
                    } else {
                        backends.internal = true;
                        self.same(&setting, INTERNAL);
                    }
                }
                "http" | "rabbit_auth_backend_http" => {
                    backends.http = true;
                    self.same(&setting, "the hook is asked: see [auth]");
                }
                "oauth2" | "rabbit_auth_backend_oauth2" => {
                    if let Some(number) = setting.key.strip_suffix(".authn") {
                        let rights = format!("{number}.authz");
                        backends.hook_for_tokens = of(&rights, HTTP);
                    }
                    backends.tokens.push(setting);
                }
                "cache" | "rabbit_auth_backend_cache" => {
                    self.same(&setting, "permissions are remembered: see [auth] cache_ttl");
                }
                _ => self.without(&setting, OTHERS),
            }
        }
        backends
    }

    /// RabbitMQ's own users, by its export.
    fn own_users(&mut self, asks_hook: bool) {
        const EXPORT: &str = "RabbitMQ's own users. Make the file on RabbitMQ's machine, bring it \
                              here, and let nobody\n\
                              # but Stentor read it:\n\
                              #   rabbitmqctl export_definitions definitions.json\n\
                              # Or have RabbitMQ's management plug-in asked: see management in \
                              `stentor config --default`.";
        const ORDER: &str = "\n# Whom RabbitMQ knows is logged in by it, everybody else by the hook; \
                             RabbitMQ asks one after the other.";
        let comment = format!("{EXPORT}{}", if asks_hook { ORDER } else { "" });
        let file = quote("/etc/stentor/definitions.json");
        self.enter(("auth.rabbitmq", "definitions"), file, &[], Some(&comment));
        let none = self.take("loopback_users");
        let from = self.take_all("loopback_users.$");
        let from: Vec<_> = none.into_iter().chain(from).collect();
        if from.is_empty() {
            return;
        }
        let mut users = Vec::new();
        for setting in &from {
            if none.is_some_and(|none| none.line == setting.line) {
                let is_none = setting.value == "none";
                let why = "can only be \"none\" here: a user's name follows this key";
                self.read(setting, is_none.then_some(()).ok_or(why));
            } else if self.read(setting, switch(setting.value)) == Some(true) {
                users.extend(setting.key.strip_prefix("loopback_users.").map(quote));
            }
        }
        if none.is_some() {
            users.clear();
        }
        let list = format!("[{}]", users.join(", "));
        self.enter(("auth.rabbitmq", "loopback_users"), list, &from, None);
    }

    fn equivalents(&mut self) {
        for (from, section, key, kind) in EQUIVALENTS {
            let Some(setting) = self.take(from) else {
                continue;
            };
            if let Some(value) = self.read(&setting, written(*kind, setting.value)) {
                self.enter((section, key), value, &[setting], None);
            }
        }
    }

    /// A login includes calls of the hook, so it has to be allowed longer than one of them.
    fn timeouts(&mut self) {
        const LOGIN: (&str, &str) = ("limits", "login_timeout");
        const CALL: (&str, &str) = ("auth", "request_timeout");
        let set_login = self.duration(LOGIN);
        let set_call = self.duration(CALL);
        let login = set_login.unwrap_or(Duration::from_secs(10));
        let call = set_call.unwrap_or(Duration::from_secs(5));
        // Zero is refused by the reader.
        if call < login || login.is_zero() {
            return;
        }
        let (target, value, comment) = if set_call.is_some() {
            let longer = call.saturating_add(Duration::from_secs(5));
            let comment = "Longer than [auth] request_timeout, for a login waits for the hook.";
            (LOGIN, longer, comment)
        } else {
            let comment = "Shorter than [limits] login_timeout, for a login waits for the hook.";
            (CALL, login.checked_div(2).unwrap_or(login), comment)
        };
        self.replace(
            target,
            quote(&humantime::format_duration(value).to_string()),
            comment,
        );
    }

    /// Another value for a key, for the reason that the comment gives. The lines that it comes from
    /// stay named.
    fn replace(&mut self, target: (&'static str, &'static str), value: String, comment: &str) {
        let former = self
            .entries
            .iter()
            .position(|entry| (entry.section, entry.key) == target);
        let from = former.map(|place| self.entries.remove(place).from);
        self.enter(target, value, &[], Some(comment));
        if let (Some(entry), Some(from)) = (self.entries.last_mut(), from) {
            entry.from = from;
        }
    }

    /// RabbitMQ refuses longer messages, so clients and backends may not send them here either.
    fn largest_message(&mut self) {
        let target = ("broker", "max_message_size");
        let Some(setting) = self.take("max_message_size") else {
            return;
        };
        let Some(limit) = self.read(&setting, number::<u32>(setting.value)) else {
            return;
        };
        let text = quote(&size_text(limit.into()));
        self.enter(target, text.clone(), &[setting], None);
        for (section, key, default) in [
            ("limits", "max_frame_size", 4_u64 << 20),
            ("api", "max_body", 8_u64 << 20),
        ] {
            if self.size((section, key)).unwrap_or(default) > limit.into() {
                let comment = "No more than RabbitMQ takes: see [broker] max_message_size.";
                self.replace((section, key), text.clone(), comment);
            }
        }
    }

    /// The largest message must fit into a client's queue.
    fn sizes(&mut self) {
        self.largest_message();
        let Some(size) = self.size(("limits", "max_frame_size")) else {
            return;
        };
        for (section, key, default) in [
            ("mailbox", "max_bytes", 8_u64 << 20),
            ("broker", "max_message_size", 16_u64 << 20),
            ("feed", "max_length_bytes", 256_u64 << 20),
            ("limits", "max_transaction_bytes", 16_u64 << 20),
            ("limits", "max_publishing_bytes", 20_u64 << 20),
            ("limits", "max_user_publishing_bytes", 40_u64 << 20),
            ("limits", "max_total_publishing_bytes", 160_u64 << 20),
        ] {
            if size > default && self.entry((section, key)).is_none() {
                let comment = "Room for the largest message: see [limits] max_frame_size.";
                let value = quote(&size_text(size));
                self.enter((section, key), value, &[], Some(comment));
            }
        }
    }

    /// RabbitMQ's AMQP listener: a hint for `[broker] url`. The settings are RabbitMQ's own.
    fn look_for_amqp(&mut self) {
        let first = |pattern| {
            let mut fitting = self
                .settings
                .iter()
                .filter(|(key, _)| matches(pattern, key));
            fitting.find_map(|(_, setting)| address(setting.value).ok())
        };
        let is_tls = self
            .settings
            .get("listeners.tcp")
            .map(|setting| setting.value)
            == Some("none");
        self.amqp = match is_tls {
            // A certificate is for a name.
            true => first("listeners.ssl.$").map(|address| format!("localhost:{}", address.port())),
            false => first("listeners.tcp.$").map(|address| match address.ip().is_unspecified() {
                true => format!("127.0.0.1:{}", address.port()),
                false => address.to_string(),
            }),
        };
        self.amqp_is_tls = is_tls;
    }

    fn rest(&mut self) {
        for (key, setting) in std::mem::take(&mut self.settings) {
            let row = WITHOUT.iter().find(|row| matches(row.pattern, key));
            match row {
                Some(row) if row.same == Some(setting.value) => self.same(&setting, row.why),
                Some(row) => self.without(&setting, row.why),
                None if PREFIXES.iter().any(|prefix| key.starts_with(prefix)) => {
                    self.unknown(&setting);
                }
                None => self.note(&setting, Fate::RabbitMq),
            }
        }
    }

    pub(super) fn unknown(&mut self, setting: &Setting<'_>) {
        let why = "is no key of RabbitMQ's plug-ins that is known here: mistyped?";
        self.note(setting, Fate::Wrong(why.to_owned()));
    }

    pub(super) fn entry(&self, target: (&str, &str)) -> Option<&Entry> {
        let mut entries = self.entries.iter();
        entries.find(|entry| (entry.section, entry.key) == target)
    }

    pub(super) fn entry_mut(&mut self, target: (&str, &str)) -> Option<&mut Entry> {
        let mut entries = self.entries.iter_mut();
        entries.find(|entry| (entry.section, entry.key) == target)
    }

    fn size(&self, target: (&str, &str)) -> Option<u64> {
        let size: bytesize::ByteSize = unquote(&self.entry(target)?.value).parse().ok()?;
        Some(size.as_u64())
    }

    fn duration(&self, target: (&str, &str)) -> Option<Duration> {
        let entry = self.entry(target)?;
        humantime::parse_duration(unquote(&entry.value)).ok()
    }
}

/// What `auth_backends` says.
#[derive(Clone, Debug, Default)]
struct Backends<'a> {
    /// It says something.
    are_set: bool,
    /// RabbitMQ's own users log in.
    internal: bool,
    /// The hook is asked.
    http: bool,
    /// Lines by which tokens log in.
    tokens: Vec<Setting<'a>>,
    /// And the hook says what their users may do.
    hook_for_tokens: bool,
}

/// A value in TOML.
fn written(kind: Kind, value: &str) -> Result<String, &'static str> {
    match kind {
        Kind::Text => Ok(quote(value)),
        Kind::Switch => switch(value).map(|value| value.to_string()),
        Kind::Contrary => switch(value).map(|value| (!value).to_string()),
        Kind::Milliseconds => number::<u32>(value).map(|milliseconds| {
            let duration = Duration::from_millis(milliseconds.into());
            quote(&humantime::format_duration(duration).to_string())
        }),
        Kind::Bytes => number::<u32>(value).map(|bytes| quote(&size_text(bytes.into()))),
    }
}

/// As in `config/stentor.toml`: `4MiB`, or a plain number.
fn size_text(bytes: u64) -> String {
    let shown = usize::try_from(bytes).map_or_else(|_| bytes.to_string(), show_size);
    shown.trim_end_matches(" bytes").replace(' ', "")
}

pub(super) fn switch(value: &str) -> Result<bool, &'static str> {
    value.parse().map_err(|_| "is neither true nor false")
}

pub(super) fn number<N: std::str::FromStr>(value: &str) -> Result<N, &'static str> {
    value
        .parse()
        .map_err(|_| "is no whole number, or one that is too large")
}

/// True if a URL has secret parts: a user, a password, parameters.
pub(super) fn has_secret(value: &str) -> bool {
    match Url::parse(value) {
        Ok(url) => !url.username().is_empty() || url.password().is_some() || url.query().is_some(),
        Err(_) => value.contains(['@', '?']),
    }
}

/// A text in TOML.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            _ if character.is_control() => {
                quoted.push_str(&format!("\\u{:04X}", u32::from(character)));
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

fn unquote(value: &str) -> &str {
    value.trim_matches('"')
}
