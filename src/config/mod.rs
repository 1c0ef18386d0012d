//! The configuration: the sections of all parts, from a file and the environment.
//!
//! Every key has its default in its section's `Config`; `config/stentor.toml` writes them all
//! down, commented, and is compiled in as [`DEFAULT`]. A key `[section] key` of the file is
//! overridden by the variable `STENTOR__SECTION__KEY`. All problems are found in one go, and each
//! is said with its place and with what to do.

mod check;
mod classes;
mod error;
mod keys;
mod read;
mod reload;
mod shown;
mod source;
mod text;

use std::fmt;

use crate::{
    api, auth, broker, control, hub, listen, messaging, node, presence, shutdown, tap, telemetry,
    units::Checked, webhooks,
};

pub use error::{ConfigErrors, Problem, ValueSource, Warning};
pub use reload::{Change, InForce, Loaded, Plan};
pub use source::{Source, environment};

use keys::Name;
use read::{Reader, SetValue};

/// The commented default, as `stentor config --default` prints it.
pub const DEFAULT: &str = include_str!("../../config/stentor.toml");

/// The prefix of all variables of this program's configuration. Two underscores: with one,
/// Kubernetes itself sets variables for a service named `stentor`.
pub const VARIABLE_PREFIX: &str = "STENTOR__";

/// A configuration file that was read.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name in errors.
    pub name: &'a str,
    /// Its content.
    pub text: &'a str,
}

/// The configuration of the whole gateway. `Default` is [`DEFAULT`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `[listen]`
    pub listen: listen::Config,
    /// `[sockjs]`
    pub sockjs: listen::sockjs::SockjsConfig,
    /// `[tls]`
    pub tls: listen::tls::TlsConfig,
    /// `[broker]`
    pub broker: broker::Config,
    /// `[auth]`
    pub auth: auth::Config,
    /// `[auth.rabbitmq]`
    pub auth_rabbitmq: auth::rabbitmq::RabbitMqConfig,
    /// `[presence]`
    pub presence: presence::Config,
    /// `[redis]`
    pub redis: presence::RedisConfig,
    /// `[webhooks]`
    pub webhooks: webhooks::Config,
    /// `[sequences]`
    pub sequences: messaging::Config,
    /// `[sessions]`
    pub sessions: node::LoginPolicy,
    /// `[control]`
    pub control: control::Config,
    /// `[stomp]`
    pub stomp: node::Stomp,
    /// `[limits]`
    pub limits: node::Limits,
    /// `[feed]`
    pub feed: broker::FeedConfig,
    /// `[journal]`
    pub journal: broker::JournalConfig,
    /// `[offline]`
    pub offline: broker::OfflineConfig,
    /// `[mailbox]`
    pub mailbox: hub::MailboxConfig,
    /// `[memory]`
    pub memory: node::MemoryConfig,
    /// `[api]`
    pub api: api::Config,
    /// `[tail]`
    pub tail: tap::Config,
    /// `[health]`
    pub health: api::Health,
    /// `[shutdown]`
    pub shutdown: shutdown::Config,
    /// `[log]`
    pub log: telemetry::Config,
    /// `[telemetry.otlp]`
    pub otlp: telemetry::OtlpConfig,
}

impl Config {
    /// The configuration to serve with: the file's, overridden by those of the variables that
    /// begin with [`VARIABLE_PREFIX`].
    ///
    /// # Errors
    /// All problems that were found, including keys without a default that are not set.
    pub fn load(
        file: Option<File<'_>>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigErrors> {
        Self::read(file, environment, Check::Whole)
    }

    /// As [`Config::load`]; but the files that it names (certificates, keys of tokens) are not looked
    /// at.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_unopened(
        file: Option<File<'_>>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigErrors> {
        Self::read(file, environment, Check::Values)
    }

    /// A file by itself, wherever it is to be used: keys without a default may stay unset, and
    /// the files that it names are not looked at.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn load_draft(file: File<'_>) -> Result<Self, ConfigErrors> {
        Self::read(Some(file), [], Check::Draft).map(|loaded| loaded.config)
    }

    fn read(
        file: Option<File<'_>>,
        environment: impl IntoIterator<Item = (String, String)>,
        check: Check,
    ) -> Result<Loaded, ConfigErrors> {
        let sections = sections();
        let mut reader = Reader::new(&sections, file);
        reader.environment(environment);
        Self::checked(reader, check)
    }

    /// A configuration of what was read, if all of it is sound.
    fn checked(mut reader: Reader<'_>, check: Check) -> Result<Loaded, ConfigErrors> {
        let mut config = Self::from_sections(&mut reader);
        config.broker.adopt_vhost();
        if check != Check::Draft {
            check::required(&config, &mut reader);
        }
        if check == Check::Whole {
            check::files(&config, &mut reader);
        }
        check::across_sections(&config, &mut reader);
        let name = reader.name().to_owned();
        let (mut sources, values) = reader.finish()?;
        sources.warnings = check::warnings(&config);
        Ok(Loaded {
            config,
            sources,
            name,
            values,
        })
    }
}

/// The checks beyond the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// All that it takes to serve.
    Whole,
    /// The same without the named files.
    Values,
    /// Neither the keys without a default nor the named files are checked.
    Draft,
}

/// The sources of the keys that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// How many are the file's.
    pub file: usize,
    /// The variables that set others.
    pub variables: Vec<String>,
    /// Settings that are no error, and hardly meant; by section and key.
    pub warnings: Vec<Warning>,
}

impl fmt::Display for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = |count: usize| if count == 1 { "key" } else { "keys" };
        write!(f, "{} {} of the file", self.file, keys(self.file))?;
        if !self.variables.is_empty() {
            write!(
                f,
                ", {} of the environment ({})",
                self.variables.len(),
                self.variables.join(", ")
            )?;
        }
        f.write_str("; all others are defaults")
    }
}

/// A section, as this module needs it.
trait Section: serde::de::DeserializeOwned + Default {
    /// Its name, without brackets; with a point if it stands below another.
    const NAME: &'static str;

    /// Checks its values.
    fn check(&self) -> Checked;
}

/// A section's name and keys.
type Keys = (&'static str, &'static [&'static str]);

macro_rules! sections {
    (
        $($field:ident $name:literal: $type:ty,)*
        // A part of another section's struct.
        ; $($outer:ident.$inner:ident $part:literal: $part_type:ty,)*
    ) => {
        $(sections!(impl $type, $name);)*
        $(sections!(impl $part_type, $part);)*

        fn sections() -> Vec<Keys> {
            vec![
                $(($name, keys::keys::<$type>()),)*
                $(($part, keys::keys::<$part_type>()),)*
            ]
        }

        /// Whether both come to the same value.
        fn is_same((section, key): Name, old: Option<&SetValue>, new: Option<&SetValue>) -> bool {
            match section {
                $($name => read::is_same::<$type>(key, old, new),)*
                $($part => read::is_same::<$part_type>(key, old, new),)*
                _ => false,
            }
        }

        impl Config {
            fn from_sections(reader: &mut Reader<'_>) -> Self {
                let mut config = Self { $($field: reader.section()),* };
                $(config.$outer.$inner = reader.section();)*
                config
            }
        }
    };
    (impl $type:ty, $name:literal) => {
        impl Section for $type {
            const NAME: &'static str = $name;

            fn check(&self) -> Checked {
                <$type>::check(self)
            }
        }
    };
}

sections! {
    listen "listen": listen::Config,
    sockjs "sockjs": listen::sockjs::SockjsConfig,
    tls "tls": listen::tls::TlsConfig,
    broker "broker": broker::Config,
    auth "auth": auth::Config,
    auth_rabbitmq "auth.rabbitmq": auth::rabbitmq::RabbitMqConfig,
    presence "presence": presence::Config,
    redis "redis": presence::RedisConfig,
    webhooks "webhooks": webhooks::Config,
    sequences "sequences": messaging::Config,
    sessions "sessions": node::LoginPolicy,
    control "control": control::Config,
    stomp "stomp": node::Stomp,
    limits "limits": node::Limits,
    feed "feed": broker::FeedConfig,
    journal "journal": broker::JournalConfig,
    offline "offline": broker::OfflineConfig,
    mailbox "mailbox": hub::MailboxConfig,
    memory "memory": node::MemoryConfig,
    api "api": api::Config,
    tail "tail": tap::Config,
    health "health": api::Health,
    shutdown "shutdown": shutdown::Config,
    log "log": telemetry::Config,
    otlp "telemetry.otlp": telemetry::OtlpConfig,
    ;
    auth.jwt "auth.jwt": auth::jwt::JwtConfig,
}

#[cfg(test)]
mod tests;
