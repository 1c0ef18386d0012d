//! The codes of what the program says when it starts, in one table. Errors show them as
//! `error[port-taken]`, the log as the field `code`.
//!
//! An entry is all that a new condition takes. `BLESS=1 cargo test -p stentor codes` then writes its
//! row into `docs/errors.md`. A code is never changed once it was released.

use std::fmt;

/// Makes of the table the enum [`Code`], and what is said of each.
macro_rules! codes {
    ($($kind:ident { $(
        $(#[$doc:meta])+
        $variant:ident => $code:literal, cause: $cause:literal, cure: $cure:literal,
    )+ })+) => {
        /// What an operator is told when the program starts, by a name that stays.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Code {$($(
            $(#[$doc])+
            $variant,
        )+)+}

        impl Code {
            /// All of them, in the table's order.
            pub const ALL: &[Self] = &[$($(Self::$variant),+),+];

            /// What the table says of it.
            fn row(self) -> Row {
                match self {$($(
                    Self::$variant => Row {
                        name: $code,
                        kind: Kind::$kind,
                        #[cfg(test)]
                        variant: stringify!($variant),
                        #[cfg(test)]
                        cause: $cause,
                        #[cfg(test)]
                        cure: $cure,
                    },
                )+)+}
            }
        }
    };
}

/// What becomes of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It ends with exit code 2: what it was told is wrong.
    Told,
    /// It ends with exit code 1: the system refuses something.
    Refused,
    /// It serves, and its log warns.
    Logged,
}

/// What the table says of a code.
struct Row {
    name: &'static str,
    kind: Kind,
    /// As this program's source names it.
    #[cfg(test)]
    variant: &'static str,
    /// What happened.
    #[cfg(test)]
    cause: &'static str,
    /// What to do.
    #[cfg(test)]
    cure: &'static str,
}

codes! {
    Told {
        /// The file cannot be read.
        ConfigUnreadable => "config-unreadable",
            cause: "The configuration file is not there, is no text in UTF-8, or this program's user may not read it",
            cure: "Name the right file (`--config`, `STENTOR_CONFIG`), or let the user read it. `stentor config --default > stentor.toml` begins one",
        /// A line is not TOML.
        ConfigSyntax => "config-syntax",
            cause: "A line is not TOML: a text without quotes, say, or a bracket that is not closed",
            cure: "Mend the line. Other errors show when the whole file can be read",
        /// There is no such section, or it is not written as one.
        UnknownSection => "unknown-section",
            cause: "There is no section of this name, or it is written as a key",
            cure: "Write the name that the message suggests, in brackets, on a line of its own",
        /// There is no such key.
        UnknownKey => "unknown-key",
            cause: "The section has no key of this name",
            cure: "Write the key that the message suggests, or move it to its section. [configuration](configuration.md) lists all keys",
        /// There is no such variable.
        UnknownVariable => "unknown-variable",
            cause: "A variable of the environment begins like one of Stentor's, and names no key",
            cure: "Two underscores stand before the section and before the key: `STENTOR__BROKER__URL`. Correct it, or unset it",
        /// A key cannot have this value.
        WrongValue => "wrong-value",
            cause: "The key cannot have this value",
            cure: "Write what the message asks for. [configuration](configuration.md) has each key's values",
        /// A key that is needed is not set.
        MissingKey => "missing-key",
            cause: "A key that has no default is not set: RabbitMQ's address, a way to log in, or the secret of webhooks",
            cure: "Set it in the file or by the variable that the message names. `stentor demo` needs none",
        /// Keys do not go together.
        Contradiction => "contradiction",
            cause: "Two keys do not go together. The message names both",
            cure: "Change one of them",
        /// A file that the configuration names cannot be used.
        FileUnusable => "file-unusable",
            cause: "A file with keys of tokens, RabbitMQ's users, or Stentor's account cannot be read, or has not the content that is wanted",
            cure: "Correct the path or the file; let this program's user read it",
        /// A certificate, or what belongs to it, cannot be used.
        CertificateUnusable => "certificate-unusable",
            cause: "A file of `[tls]` cannot be read, is not PEM, or key and certificate do not belong together",
            cure: "Correct the path or the file; let this program's user read it. `stentor doctor` examines the certificate. [TLS](tls.md)",
        /// An argument cannot be used.
        WrongArgument => "wrong-argument",
            cause: "An argument of the command line cannot be used",
            cure: "Write what the message asks for; `stentor COMMAND --help` has examples",
    }
    Refused {
        /// Another program has the port.
        PortTaken => "port-taken",
            cause: "Another program listens at this address: a Stentor that still runs, or RabbitMQ's plug-in, which has the same ports",
            cure: "`ss -ltnp` names it. End it, or write another port (`[listen]`; of the demo: `--port`)",
        /// The address is not of this machine.
        AddressUnknown => "address-unknown",
            cause: "The IP address in `[listen]` is none of this machine",
            cure: "Write one that `ip address` shows, or `0.0.0.0` (`[::]`) for all",
        /// The process may not open the port.
        PortForbidden => "port-forbidden",
            cause: "This program's user may not open the port: it is below 1024",
            cure: "Write a port above 1023, or give the capability `CAP_NET_BIND_SERVICE` (the unit has a line for it)",
        /// The address cannot be opened for another reason.
        ListenFailed => "listen-failed",
            cause: "The system does not open the address. The message has its words",
            cure: "Without IPv6 on the machine, write an IPv4 address; too many open files: raise the limit (`ulimit -Hn`, `LimitNOFILE`)",
        /// A part cannot be set up.
        SetupFailed => "setup-failed",
            cause: "A part of the program cannot be set up: the system has no certificate authorities, say, or a file has changed since it was checked",
            cure: "The message names the part. Install the package `ca-certificates`, or set `SSL_CERT_FILE`; then `stentor config --check`",
        /// The system refuses what every program needs.
        SystemRefused => "system-refused",
            cause: "The system refuses threads, signals, or a file",
            cure: "The message has its words. Raise the limits of the service (`TasksMax`, `LimitNOFILE`, memory)",
    }
    Logged {
        /// A path of the hook is not set.
        HookUnset => "hook-unset",
            cause: "A path of the hook is not set: what it checks is denied to everybody, or allowed (`auth.unset`). `stentor config --check` says it, too",
            cure: "Set the key that is named, or `[auth] hook` for all",
        /// The hook cannot be asked.
        HookFault => "hook-fault",
            cause: "The hook does not answer, or not as it should. Stentor asks it at the first login, not at the start",
            cure: "Start it, or correct `[auth]`. `stentor doctor` asks each path. [The hook](auth.md)",
        /// RabbitMQ is away, or does not let the gateway in.
        BrokerDown => "broker-down",
            cause: "RabbitMQ cannot be reached (`cause` has the system's words), or does not let Stentor in (`ACCESS_REFUSED`, `NOT_ALLOWED`). It is tried again, and `/readyz` says 503 meanwhile",
            cure: "Start RabbitMQ; correct the host, account or virtual host in `[broker] url`. `stentor doctor` names the command",
        /// RabbitMQ takes no messages.
        BrokerBlocked => "broker-blocked",
            cause: "RabbitMQ is short of memory or disk, and takes no messages; `cause` says which",
            cure: "`rabbitmqctl status` shows the alarm. Free memory or disk there",
        /// There is no token for the broker, or no newer one.
        BrokerTokenOld => "broker-token-old",
            cause: "Stentor's own token at RabbitMQ could not be read or renewed",
            cure: "`cause` names the file or program. [Stentor's account](broker-account.md)",
        /// The broker keeps no messages that outlive the process.
        BrokerEmbedded => "broker-embedded",
            cause: "`[broker] url` is `embedded:`: messages are in this process' memory alone",
            cure: "Write RabbitMQ's address there. For a trial it is right",
        /// A feed's queue is refused.
        FeedRefused => "feed-refused",
            cause: "RabbitMQ does not let Stentor have the queue of a feed, so its subscribers wait. It is asked again and again",
            cure: "`cause` has RabbitMQ's words. Mostly a permission: `stentor doctor` prints the command",
        /// An exchange's type is not known.
        ExchangeTypeUnknown => "exchange-type-unknown",
            cause: "RabbitMQ does not tell Stentor's account the type of an exchange, so each of its subscriptions gets a queue of its own",
            cure: "Name it in `[broker] exchanges`",
        /// An exchange that is to be read whole is not led to its alternate exchange.
        ExchangeNotWhole => "exchange-not-whole",
            cause: "An exchange of `[feed] whole` does not lead to its alternate exchange, so its subscribers are refused",
            cure: "Set the policy that `command` has. [Bindings](bindings.md)",
        /// Others bind keys at an exchange that is read whole.
        ForeignBindings => "foreign-bindings",
            cause: "Somebody else has bound keys at an exchange of `[feed] whole`, with `feed.bridge = false`: no client hears messages of these keys, and no journal keeps them",
            cure: "Bind them at the exchange with `.keys` behind its name, or set `feed.bridge = true`. [Bindings of others](bindings.md#bindings-of-others)",
        /// Bindings of others cannot be seen.
        BindingsUnseen => "bindings-unseen",
            cause: "An exchange of `[feed] whole` has no bridges, and RabbitMQ's management plug-in does not say who else binds keys there",
            cure: "Run the `command` that the line has. `[auth.rabbitmq] management` names the plug-in; without it, it is looked for at the broker's host, for Stentor's own account",
        /// An exchange's messages are not kept.
        JournalStopped => "journal-stopped",
            cause: "The messages of an exchange of `[journal] exchanges` are not kept, and its subscribers are refused: RabbitMQ refuses something, or the exchange is of a type that can have no journal",
            cure: "`cause` says which, and `stentor doctor` how to mend it. Of [direct exchanges](catching-up.md#direct-exchanges) a journal needs more",
        /// Messages may not name their user.
        ImpersonationRefused => "impersonation-refused",
            cause: "`[broker] impersonate` is on, and Stentor's account may not speak for others",
            cure: "`rabbitmqctl set_user_tags stentor impersonator`, or turn it off",
        /// Transient queues are refused.
        TransientRefused => "transient-refused",
            cause: "RabbitMQ refuses queues that are neither durable nor exclusive; Stentor makes durable ones that expire",
            cure: "Set `feed.durable = true`, and the line goes",
        /// Commands are not heard.
        ControlDown => "control-down",
            cause: "Commands of other nodes and of backends do not come: RabbitMQ is away, or the account may not use `stentor.control`",
            cure: "As `broker-down`; for a permission see [operating](operating.md)",
        /// Redis is away, or fails.
        PresenceDown => "presence-down",
            cause: "Redis cannot be reached, refuses the account, or a right is missing: presence of this node is not seen by others. Push goes on",
            cure: "Start Redis, or correct `[presence] url` and `[redis]`. `stentor doctor` tries each command. [Presence](presence.md)",
        /// Nodes keep presence apart.
        PresenceApart => "presence-apart",
            cause: "Two nodes at one RabbitMQ keep presence in their own memory, so neither knows the other's users",
            cure: "Give both the same Redis (`[presence] url`)",
        /// Presence events are not published.
        EventsDown => "events-down",
            cause: "Presence events do not reach RabbitMQ; the newest of each user waits",
            cure: "As `broker-down`; Stentor's account needs the right to write to `[presence] exchange`",
        /// RabbitMQ's users could not be read.
        AccountsMissing => "accounts-missing",
            cause: "RabbitMQ's users could not be read, so none of them can log in",
            cure: "`cause` says why: the management plug-in is away, or refuses the account (tag `administrator`). [RabbitMQ's users](rabbitmq-accounts.md)",
        /// RabbitMQ's users could not be read again.
        AccountsOld => "accounts-old",
            cause: "RabbitMQ's users could not be read again; those of before stay",
            cure: "As `accounts-missing`",
        /// Passwords are hashed by MD5.
        AccountsWeak => "accounts-weak",
            cause: "Passwords of RabbitMQ's users are hashed by MD5, which is broken",
            cure: "Set them anew: `rabbitmqctl change_password`",
        /// Everybody can read the hashes.
        AccountsReadable => "accounts-readable",
            cause: "Every user of the machine can read the file with the hashes of passwords",
            cure: "`chmod o-r` the file",
        /// The keys of tokens cannot be fetched.
        KeysUnavailable => "keys-unavailable",
            cause: "The keys of the tokens' issuer (`[auth.jwt] jwks_url`) cannot be fetched. Without any, nobody logs in by a token",
            cure: "The message has the reason. `stentor doctor` asks the issuer",
        /// The certificate ends soon.
        CertificateEndsSoon => "certificate-ends-soon",
            cause: "The gateway's certificate ends within 14 days",
            cure: "Renew it, then `systemctl reload stentor`; nobody is disconnected",
        /// The certificate is not valid now.
        CertificateInvalid => "certificate-invalid",
            cause: "The gateway's certificate has ended, or is not yet valid: clients refuse it",
            cure: "Renew it, or correct this machine's clock",
        /// There are too few files.
        FewFiles => "few-files",
            cause: "The system allows fewer open files than `[listen] max_connections` and `max_unauthenticated` need, so fewer clients are let in",
            cure: "Raise the hard limit (`LimitNOFILE` in the unit, `ulimit -Hn` in a shell), or lower the keys that the message names",
        /// Any site could log its visitors in.
        HostNamesUnset => "host-names-unset",
            cause: "Browsers log in by themselves (a cookie, a certificate, a default user), and `[listen] host_names` is not set: a site could lead its own name to this address",
            cure: "Write the names of this server there",
        /// Every address is believed about clients' addresses.
        AnyProxyTrusted => "any-proxy-trusted",
            cause: "`[listen] proxy_protocol` is on without `trusted_proxies`: everybody can give any address",
            cure: "Write the networks of your proxies there",
        /// systemd could not be told.
        NotNotified => "not-notified",
            cause: "The service manager's socket (`NOTIFY_SOCKET`) takes no message, so systemd counts the service as not started",
            cure: "Unset the variable outside of systemd; in a container, do not pass it on",
    }
}

impl Code {
    /// The name, in small letters and hyphens.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// What becomes of the program.
    #[must_use]
    pub fn kind(self) -> Kind {
        self.row().kind
    }
}

/// As it begins a message: `error[port-taken]`.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.kind() {
            Kind::Told | Kind::Refused => "error",
            Kind::Logged => "warning",
        };
        write!(f, "{word}[{}]", self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    const PAGE: &str = "docs/errors.md";
    const TITLE: &str = "\n## When Stentor starts\n";
    const HEAD: &str = "| Code | What happened | What to do |\n|---|---|---|\n";

    fn house(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
    }

    /// `docs/errors.md` ends with a row for each code, and has none besides.
    #[test]
    fn the_page_of_errors_has_each_code() {
        let page = fs::read_to_string(house(PAGE)).unwrap();
        let (_, part) = page.split_once(TITLE).expect(TITLE);
        let (prose, tables) = part.split_once("\n### ").unwrap();
        let mut current = String::new();
        for (kind, title) in [
            (
                Kind::Told,
                "It does not start: what it was told is wrong (exit code 2)",
            ),
            (
                Kind::Refused,
                "It does not start: the system refuses (exit code 1)",
            ),
            (Kind::Logged, "It serves, and the log warns"),
        ] {
            current.push_str(&format!("\n### {title}\n\n{HEAD}"));
            for code in Code::ALL.iter().filter(|code| code.kind() == kind) {
                let Row {
                    name, cause, cure, ..
                } = code.row();
                current.push_str(&format!("| `{name}` | {cause} | {cure} |\n"));
            }
        }
        let tables = format!("\n### {tables}");
        if std::env::var_os("BLESS").is_some() && tables != current {
            let text = page.replace(&format!("{prose}{tables}"), &format!("{prose}{current}"));
            fs::write(house(PAGE), text).unwrap();
            return;
        }
        for (is, wanted) in tables.lines().zip(current.lines()) {
            assert_eq!(is, wanted, "not as in {PAGE}");
        }
        assert_eq!(tables.len(), current.len(), "{PAGE}");
    }

    #[test]
    fn codes_are_names_and_each_has_one_meaning() {
        let mut names = BTreeSet::new();
        for code in Code::ALL {
            let name = code.name();
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            assert!(name.bytes().all(is_name), "{name}");
            assert!(names.insert(name), "{name} twice");
            let Row { cause, cure, .. } = code.row();
            assert!(cause.len() > 17 && cure.len() > 14, "no advice: {name}");
            assert!(!cause.contains('|') && !cure.contains('|'), "{name}");
        }
    }

    /// A row that nothing says would send a reader astray.
    #[test]
    fn each_code_is_said_somewhere() {
        let mut said = String::new();
        collect(&house("src"), &mut said);
        for code in Code::ALL {
            let name = format!("Code::{}", code.row().variant);
            let is_said = said.match_indices(&name).any(|(at, _)| {
                let next = said[at + name.len()..].chars().next();
                next.is_none_or(|next| !next.is_alphanumeric())
            });
            assert!(is_said, "{name} is said nowhere");
        }
    }

    fn collect(folder: &Path, said: &mut String) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, said);
            } else if !path.ends_with("src/codes.rs")
                && path.extension().is_some_and(|extension| extension == "rs")
            {
                said.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
}
