//! Bindings of others at exchanges that are read whole.
//!
//! Where such an exchange has no bridges (`feed.bridge = false`), a key that anybody binds there no
//! longer comes to its alternate exchange: no client hears its messages, and no journal keeps them.
//! AMQP has no question for bindings, so RabbitMQ's management plug-in is asked; where it cannot be,
//! the log says so, with the command that asks.

use std::{
    collections::BTreeSet,
    hash::{BuildHasher, RandomState},
    sync::Weak,
    time::Duration,
};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use url::Url as AnyUrl;

use crate::{
    auth::rabbitmq::{Management, SourceError, Tag},
    background,
    broker::{Binding, Url},
    config::Config,
    deadline::after,
    secret_url::SecretUrl,
    telemetry,
};

/// Between two looks at a short list: for each MiB of it, as RabbitMQ makes a list in its memory.
const EVERY: Duration = Duration::from_secs(60);
const SHORT: usize = 1 << 20;
/// The longest time between two looks, and the one where the account is refused: RabbitMQ logs that
/// each time.
const SELDOM: Duration = Duration::from_secs(60 * 60);

/// Bindings that a text names; beyond, they are counted.
const MAX_NAMED: usize = 5;

/// Ports of the management plug-in, without and with TLS.
const PORTS: (u16, u16) = (15672, 15671);

/// The bindings of others at an exchange. There may be very many, so few of them are kept.
#[derive(Clone, Debug, Default)]
pub struct Foreign {
    count: usize,
    /// The first in order.
    first: BTreeSet<Bound>,
    /// The sum of their hashes: whether they are others than before.
    sum: u64,
    hasher: RandomState,
}

/// A binding at an exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
struct Bound {
    /// The queue or exchange that messages go to.
    destination: String,
    /// For which key.
    routing_key: String,
    /// `queue` or `exchange`.
    destination_type: String,
}

/// The bindings of others at `exchange`, and how long the list of all is, in bytes; nothing if there is
/// no such exchange.
///
/// # Errors
/// The plug-in gives no answer, or one that cannot be read.
pub async fn bound_at(
    management: &Management,
    vhost: &str,
    exchange: &str,
    hasher: &RandomState,
) -> Result<Option<(Foreign, usize)>, SourceError> {
    let encoded = |name| utf8_percent_encode(name, NON_ALPHANUMERIC);
    let (vhost, name) = (encoded(vhost), encoded(exchange));
    let columns = "columns=destination,destination_type,routing_key";
    let path = format!("exchanges/{vhost}/{name}/bindings/source?{columns}");
    let mut foreign = Foreign {
        hasher: hasher.clone(),
        ..Foreign::default()
    };
    let listing = management.list(&path, |bound| {
        // The parser's words tell a place, and no content.
        let bound = serde_json::from_slice(bound).map_err(|error| error.to_string())?;
        foreign.add(exchange, bound);
        Ok(())
    });
    match listing.await {
        Err(SourceError::Status(_, status)) if status.as_u16() == 404 => Ok(None),
        length => Ok(Some((foreign, length?))),
    }
}

impl Foreign {
    /// Counts a binding, unless it is a bridge, which leads where the alternate exchange leads.
    fn add(&mut self, exchange: &str, bound: Bound) {
        let is_bridge = bound.destination_type == "exchange"
            && bound.destination.strip_suffix(".all") == Some(exchange);
        if is_bridge {
            return;
        }
        self.count = self.count.saturating_add(1);
        self.sum = self.sum.wrapping_add(self.hasher.hash_one(&bound));
        self.first.insert(bound);
        if self.first.len() > MAX_NAMED {
            self.first.pop_last();
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The first of them, for a text: `user_alice → audit; …`.
    #[must_use]
    pub fn named(&self) -> String {
        let named = self.first.iter();
        let named = named.map(|bound| format!("{} → {}", bound.routing_key, bound.destination));
        named.collect::<Vec<_>>().join("; ")
    }

    /// Those of a test.
    #[cfg(test)]
    pub(crate) fn of(all: &[(&str, &str)], hasher: &RandomState) -> Self {
        let mut foreign = Self {
            hasher: hasher.clone(),
            ..Self::default()
        };
        for (key, destination) in all {
            let kind = match destination.ends_with(".all") {
                true => "exchange",
                false => "queue",
            };
            let bound = Bound {
                destination: (*destination).to_owned(),
                routing_key: (*key).to_owned(),
                destination_type: kind.to_owned(),
            };
            foreign.add("feed", bound);
        }
        foreign
    }
}

/// With the same hasher: the same ones.
impl PartialEq for Foreign {
    fn eq(&self, other: &Self) -> bool {
        (self.count, self.sum, &self.first) == (other.count, other.sum, &other.first)
    }
}

impl Eq for Foreign {}

/// The command that lists them.
#[must_use]
pub fn listing(vhost: &str, exchange: &str) -> String {
    let quoted = |name: &str| format!("'{}'", name.replace('\'', r"'\''"));
    let plain = |name: &str| {
        name.chars()
            .all(|char| char.is_alphanumeric() || "/._-".contains(char))
    };
    let vhost = if plain(vhost) {
        vhost.to_owned()
    } else {
        quoted(vhost)
    };
    let pattern = quoted(&format!("^{exchange}[[:space:]]"));
    format!(
        "rabbitmqctl list_bindings -p {vhost} source_name destination_name destination_kind \
         routing_key | grep {pattern}"
    )
}

/// Where the management plug-in of the broker's host is by default, for the gateway's account; over
/// TLS if the broker is.
#[must_use]
pub fn beside_broker(config: &Config) -> Option<SecretUrl> {
    let Some(Url::Amqp(url)) = config.broker.all_urls().first() else {
        return None;
    };
    let url = AnyUrl::parse(url.reveal()).ok()?;
    let (scheme, port) = match url.scheme() {
        "amqps" => ("https", PORTS.1),
        _ => ("http", PORTS.0),
    };
    let (user, password) = (url.username(), url.password()?);
    let host = url.host_str()?;
    let url = AnyUrl::parse(&format!("{scheme}://{user}:{password}@{host}:{port}"));
    url.ok().map(SecretUrl::from)
}

/// The exchanges at which bindings of others do harm.
#[must_use]
pub fn endangered(config: &Config) -> &[String] {
    match config.feed.binding == Binding::All && !config.feed.bridge {
        true => &config.feed.whole,
        false => &[],
    }
}

/// After so many looks without an answer, what was said before is no longer taken for true.
const PATIENCE: u32 = 10;

/// What was said last of an exchange.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// That nobody knows.
    Unknown,
    /// These, or nothing if there is none.
    Bound(Foreign),
}

/// An exchange that is looked after.
struct Watched {
    vhost: String,
    exchange: String,
    said: Option<Said>,
    /// Looks without an answer since the last one with one.
    failed: u32,
    /// When the next look is.
    due: Instant,
}

/// The outcome of a look.
struct Look {
    /// What is bound; or why that is not known.
    found: Result<Foreign, String>,
    /// How long it is until the next one.
    pause: Duration,
    /// It is no fault of a moment.
    is_final: bool,
}

/// Looks after the exchanges, as long as there is `alive`, and says what changes.
pub(super) fn watch<T: Send + Sync + 'static>(config: &Config, alive: Weak<T>) {
    let exchanges = endangered(config);
    if exchanges.is_empty() || config.broker.all_urls().is_empty() {
        return;
    }
    let url = config.auth_rabbitmq.management();
    let url = url.or_else(|| beside_broker(config));
    let management = url.and_then(|url| Management::new(url, Tag::Monitoring).ok());
    let vhosts = config.broker.named_vhosts();
    let all = vhosts.iter().flat_map(|vhost| {
        exchanges.iter().map(move |exchange| Watched {
            vhost: vhost.clone(),
            exchange: exchange.clone(),
            said: None,
            failed: 0,
            due: Instant::now(),
        })
    });
    let mut all: Vec<_> = all.collect();
    let hasher = RandomState::new();
    background::spawn(async move {
        while let Some(next) = all.iter_mut().min_by_key(|watched| watched.due) {
            sleep_until(next.due).await;
            if alive.strong_count() == 0 {
                return;
            }
            let look = look(management.as_ref(), &next.vhost, &next.exchange, &hasher).await;
            next.note(look);
        }
    });
}

async fn look(
    management: Option<&Management>,
    vhost: &str,
    exchange: &str,
    hasher: &RandomState,
) -> Look {
    let Some(management) = management else {
        return Look {
            found: Err("there is no account for RabbitMQ's management plug-in".to_owned()),
            pause: SELDOM,
            is_final: true,
        };
    };
    match bound_at(management, vhost, exchange, hasher).await {
        Ok(found) => {
            let (bound, length) = found.unwrap_or_default();
            Look {
                found: Ok(bound),
                pause: pause_after(length),
                is_final: false,
            }
        }
        Err(error) => {
            let is_final = matches!(error, SourceError::Refused(..) | SourceError::TooLarge(..));
            Look {
                found: Err(error.to_string()),
                pause: if is_final { SELDOM } else { EVERY },
                is_final,
            }
        }
    }
}

/// How long it is until the next look after a list of so many bytes.
fn pause_after(length: usize) -> Duration {
    let times = u32::try_from(length.div_ceil(SHORT)).unwrap_or(u32::MAX);
    EVERY.saturating_mul(times.max(1)).min(SELDOM)
}

impl Watched {
    fn note(&mut self, look: Look) {
        self.due = after(look.pause);
        self.failed = match look.found {
            Ok(_) => 0,
            Err(_) if look.is_final => PATIENCE,
            Err(_) => self.failed.saturating_add(1),
        };
        if self.failed == PATIENCE && self.said != Some(Said::Unknown) {
            self.said = None;
        }
        let news = say(&self.vhost, &self.exchange, self.said.as_ref(), look.found);
        self.said = news.or(self.said.take());
    }
}

/// Says what is news, and gives it back.
fn say(
    vhost: &str,
    exchange: &str,
    before: Option<&Said>,
    now: Result<Foreign, String>,
) -> Option<Said> {
    let now = match now {
        Ok(bound) => Said::Bound(bound),
        // The plug-in is away for a moment: what it said before is the best that is known.
        Err(_) if before.is_some() => return None,
        Err(reason) => {
            let command = listing(vhost, exchange);
            telemetry::bindings_unseen(vhost, exchange, &reason, &command);
            return Some(Said::Unknown);
        }
    };
    let Said::Bound(bound) = &now else {
        return None;
    };
    match (before, bound.count) {
        (Some(before), _) if *before == now => return None,
        (None | Some(Said::Unknown), 0) => {}
        (_, 0) => telemetry::bindings_of_others_gone(vhost, exchange),
        _ => {
            let command = listing(vhost, exchange);
            telemetry::bindings_of_others(vhost, exchange, bound.count, &bound.named(), &command);
        }
    }
    Some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridges_are_none_of_others() {
        let hasher = RandomState::new();
        let all = [("user_bob", "feed.all"), ("user_alice", "audit")];
        let others = Foreign::of(&all, &hasher);
        assert_eq!(others, Foreign::of(&all[1..], &hasher));
        assert_eq!(others.named(), "user_alice → audit");
    }

    /// Of very many, few are kept, and one that changes is noticed all the same.
    #[test]
    fn very_many_are_known_by_their_sum() {
        let hasher = RandomState::new();
        let keys: Vec<String> = (0..1_000).map(|n| format!("key_{n:04}")).collect();
        let mut all: Vec<_> = keys.iter().map(|key| (&**key, "audit")).collect();
        let before = Foreign::of(&all, &hasher);
        assert_eq!((before.count(), before.first.len()), (1_000, MAX_NAMED));
        assert!(before.named().starts_with("key_0000 → audit; key_0001 →"));
        all.reverse();
        assert_eq!(Foreign::of(&all, &hasher), before);
        all[3].1 = "log";
        assert_ne!(Foreign::of(&all, &hasher), before);
    }

    /// A list is asked for the less often, the longer it is; a refusal is said once, and seldom tried.
    #[tokio::test]
    async fn what_is_dear_is_asked_for_seldom() {
        for (length, minutes) in [
            (0, 1),
            (SHORT, 1),
            (SHORT + 1, 2),
            (36 << 20, 36),
            (1 << 30, 60),
        ] {
            assert_eq!(pause_after(length).as_secs(), minutes * 60, "{length}");
        }
        let management = answering("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        let (hasher, now) = (RandomState::new(), Instant::now());
        let mut watched = Watched {
            vhost: "/".to_owned(),
            exchange: "feed".to_owned(),
            said: Some(Said::Bound(Foreign::default())),
            failed: 0,
            due: now,
        };
        let look = look(Some(&management), "/", "feed", &hasher).await;
        assert!(
            look.found.as_ref().is_err_and(|why| why.contains("401")),
            "{:?}",
            look.found
        );
        watched.note(look);
        assert_eq!(watched.said, Some(Said::Unknown));
        assert!(watched.due.duration_since(now) >= SELDOM);
    }

    /// Of an answer in pieces, nothing is kept but what is told.
    #[tokio::test]
    async fn a_long_list_is_read_as_it_comes() {
        let bindings = (0..20_000).map(|n| {
            let destination = if n % 2 == 0 { "feed.all" } else { "audit" };
            let kind = if n % 2 == 0 { "exchange" } else { "queue" };
            format!(
                r#"{{"destination":"{destination}","destination_type":"{kind}","routing_key":"k{n:05}"}}"#
            )
        });
        let body = format!("[{}]", bindings.collect::<Vec<_>>().join(","));
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        let management = answering(&format!("{head}{body}"));
        let found = bound_at(&management, "/", "feed", &RandomState::new()).await;
        let (bound, length) = found.unwrap().unwrap();
        assert_eq!((bound.count(), length), (10_000, body.len()));
        assert!(
            bound.named().starts_with("k00001 → audit; k00003 →"),
            "{}",
            bound.named()
        );
    }

    /// A plug-in that has this answer, once.
    fn answering(answer: &str) -> Management {
        use std::io::{Read as _, Write as _};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answer = answer.to_owned();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend_from_slice(&byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let url = AnyUrl::parse(&format!("http://guest:guest@127.0.0.1:{port}")).unwrap();
        Management::new(SecretUrl::from(url), Tag::Monitoring).unwrap()
    }

    /// Only the hashes of passwords take an administrator.
    #[tokio::test]
    async fn who_only_looks_is_asked_for_the_tag_that_is_enough() {
        let management = answering("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n");
        let error = management.get("whoami").await.unwrap_err().to_string();
        assert!(error.contains("set_user_tags USER monitoring"), "{error}");
        assert!(!error.contains("administrator"), "{error}");
    }

    #[test]
    fn what_is_said_is_news() {
        let hasher = RandomState::new();
        let bound = |all: &[_]| Foreign::of(all, &hasher);
        let some = bound(&[("user_alice", "audit")]);
        let more = bound(&[("user_alice", "audit"), ("user_bob", "audit")]);
        let away = || Err("away".to_owned());
        let mut said = None;
        for (now, news) in [
            (away(), Some(Said::Unknown)),
            (away(), None),
            (Ok(some.clone()), Some(Said::Bound(some.clone()))),
            (Ok(some.clone()), None),
            (away(), None),
            (Ok(more.clone()), Some(Said::Bound(more))),
            (Ok(bound(&[])), Some(Said::Bound(bound(&[])))),
            (Ok(bound(&[])), None),
        ] {
            let told = say("/", "feed", said.as_ref(), now);
            assert_eq!(told, news);
            said = told.or(said);
        }
    }

    #[test]
    fn the_guess_is_the_broker_s_host() {
        for (url, expected) in [
            ("amqp://u:p%40@host:5673/app", "http://u:p%40@host:15672/"),
            ("amqps://u:p@[::1]", "https://u:p@[::1]:15671/"),
        ] {
            let mut config = Config::default();
            config.broker.url = Some(url.parse().unwrap());
            assert_eq!(beside_broker(&config).unwrap().reveal(), expected);
        }
    }
}
