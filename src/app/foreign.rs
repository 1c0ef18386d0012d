//! Bindings of others at exchanges that are read whole.
//!
//! Where such an exchange has no bridges (`feed.bridge = false`), a key that anybody binds there no
//! longer comes to its alternate exchange: no client hears its messages, and no journal keeps them.
//! AMQP has no question for bindings, so RabbitMQ's management plug-in is asked; where it cannot be,
//! the log says so, with the command that asks.

use std::{collections::BTreeMap, sync::Weak, time::Duration};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval};
use url::Url as AnyUrl;

use crate::{
    auth::rabbitmq::{Management, SourceError},
    broker::{Binding, Url},
    config::Config,
    secret_url::SecretUrl,
    telemetry,
};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);

/// Bindings that a text names; beyond, they are counted.
const MAX_NAMED: usize = 5;

/// Ports of the management plug-in, without and with TLS.
const PORTS: (u16, u16) = (15672, 15671);

/// A binding at an exchange.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Bound {
    /// The queue or exchange that messages go to.
    destination: String,
    /// For which key.
    routing_key: String,
    /// `queue` or `exchange`.
    destination_type: String,
}

/// The bindings of others at `exchange`, in order; nothing if there is no such exchange.
///
/// # Errors
/// The plug-in gives no answer, or one that cannot be read.
pub async fn bound_at(
    management: &Management,
    vhost: &str,
    exchange: &str,
) -> Result<Option<Vec<Bound>>, SourceError> {
    let encoded = |name| utf8_percent_encode(name, NON_ALPHANUMERIC);
    let (vhost, name) = (encoded(vhost), encoded(exchange));
    let columns = "columns=destination,destination_type,routing_key";
    let path = format!("exchanges/{vhost}/{name}/bindings/source?{columns}");
    let answer = match management.get(&path).await {
        Err(SourceError::Status(_, status)) if status.as_u16() == 404 => return Ok(None),
        answer => answer?,
    };
    let bound = serde_json::from_slice(&answer).map_err(|error| {
        // The parser's words tell a place, and no content.
        SourceError::Connection(management.to_string().into(), error.to_string())
    })?;
    Ok(Some(of_others(exchange, bound)))
}

/// Without the bridges, which lead where the alternate exchange leads.
fn of_others(exchange: &str, mut bound: Vec<Bound>) -> Vec<Bound> {
    let all = format!("{exchange}.all");
    bound.retain(|bound| bound.destination != all || bound.destination_type != "exchange");
    bound.sort();
    bound
}

/// The first of them, for a text: `user_alice → audit; …`.
#[must_use]
pub fn named(bound: &[Bound]) -> String {
    let named = bound.iter().take(MAX_NAMED);
    let named = named.map(|bound| format!("{} → {}", bound.routing_key, bound.destination));
    named.collect::<Vec<_>>().join("; ")
}

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
    Bound(Vec<Bound>),
}

/// Looks after the exchanges, as long as there is `alive`, and says what changes.
pub(super) fn watch<T: Send + Sync + 'static>(config: &Config, alive: Weak<T>) {
    let exchanges = endangered(config).to_vec();
    if exchanges.is_empty() || config.broker.all_urls().is_empty() {
        return;
    }
    let vhosts = config.broker.named_vhosts();
    let url = config.auth_rabbitmq.management();
    let url = url.or_else(|| beside_broker(config));
    let management = url.and_then(|url| Management::new(url).ok());
    let mut said = BTreeMap::new();
    let mut failed = 0_u32;
    tokio::spawn(async move {
        let mut rounds = interval(EVERY);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            if alive.strong_count() == 0 {
                return;
            }
            for vhost in &vhosts {
                for exchange in &exchanges {
                    let now = look(management.as_ref(), vhost, exchange).await;
                    let key = (vhost.clone(), exchange.clone());
                    failed = if now.is_ok() {
                        0
                    } else {
                        failed.saturating_add(1)
                    };
                    if failed == PATIENCE && said.get(&key) != Some(&Said::Unknown) {
                        said.remove(&key);
                    }
                    let before = said.get(&key);
                    if let Some(now) = say(vhost, exchange, before, now) {
                        said.insert(key, now);
                    }
                }
            }
        }
    });
}

async fn look(
    management: Option<&Management>,
    vhost: &str,
    exchange: &str,
) -> Result<Vec<Bound>, String> {
    let Some(management) = management else {
        return Err("there is no account for RabbitMQ's management plug-in".to_owned());
    };
    let bound = bound_at(management, vhost, exchange).await;
    let bound = bound.map_err(|error| error.to_string())?;
    Ok(bound.unwrap_or_default())
}

/// Says what is news, and gives it back.
fn say(
    vhost: &str,
    exchange: &str,
    before: Option<&Said>,
    now: Result<Vec<Bound>, String>,
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
    match (before, &**bound) {
        (Some(before), _) if *before == now => return None,
        (None | Some(Said::Unknown), []) => {}
        (_, []) => telemetry::bindings_of_others_gone(vhost, exchange),
        _ => {
            let command = listing(vhost, exchange);
            telemetry::bindings_of_others(vhost, exchange, bound.len(), &named(bound), &command);
        }
    }
    Some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(all: &[(&str, &str)]) -> Vec<Bound> {
        let all = all.iter().map(|(key, destination)| Bound {
            destination: (*destination).to_owned(),
            routing_key: (*key).to_owned(),
            destination_type: if destination.ends_with(".all") {
                "exchange"
            } else {
                "queue"
            }
            .to_owned(),
        });
        all.collect()
    }

    #[test]
    fn bridges_are_none_of_others() {
        let both = bound(&[("user_bob", "feed.all"), ("user_alice", "audit")]);
        let others = of_others("feed", both);
        assert_eq!(others, bound(&[("user_alice", "audit")]));
        assert_eq!(named(&others), "user_alice → audit");
    }

    #[test]
    fn what_is_said_is_news() {
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
            (Ok(Vec::new()), Some(Said::Bound(Vec::new()))),
            (Ok(Vec::new()), None),
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
