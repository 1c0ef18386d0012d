//! Policies that touch the queues of feeds (pure).
//!
//! RabbitMQ applies one policy to a queue, that of the highest priority, and one operator policy. Of
//! a limit that both a queue and a policy have, the smaller counts; of everything else, the queue's
//! own.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::finding::Finding;
use crate::{
    auth::rabbitmq::pattern::Pattern,
    broker::{FEED_QUEUES, FeedConfig, OfflineConfig, offline_of, policy_for},
};

/// A policy, as the management plug-in lists it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Policy {
    name: String,
    pattern: String,
    #[serde(rename = "apply-to", default)]
    apply_to: String,
    #[serde(default)]
    priority: i64,
    #[serde(default)]
    definition: BTreeMap<String, Value>,
}

impl Policy {
    /// Whether it may apply to a queue of that name, and of the kind by which policies call it.
    fn touches(&self, kind: &str, queue: &str) -> bool {
        self.applies(&["", "all", "queues", kind], queue)
    }

    fn applies(&self, kinds: &[&str], name: &str) -> bool {
        kinds.contains(&&*self.apply_to)
            && Pattern::new(&self.pattern).is_ok_and(|pattern| pattern.matches(name))
    }
}

/// Judges the policies of a virtual host.
pub(super) fn judge(
    vhost: &str,
    user: &[Policy],
    operator: &[Policy],
    feed: &FeedConfig,
) -> Vec<Finding> {
    // A name of the form that feeds' queues have.
    let queue = format!("{FEED_QUEUES}host.0123abcd.1");
    let kind = match feed.replicated {
        true => "quorum_queues",
        false => "classic_queues",
    };
    let mut findings = Vec::new();
    for (policies, set, clear) in [
        (user, "set_policy", "clear_policy"),
        (operator, "set_operator_policy", "clear_operator_policy"),
    ] {
        let touching = policies
            .iter()
            .filter(|policy| policy.touches(kind, &queue));
        let Some(policy) = touching.max_by_key(|policy| policy.priority) else {
            continue;
        };
        let harms = harms(policy, feed);
        if harms.is_empty() {
            continue;
        }
        let is_loss = harms.iter().any(|harm| harm.is_loss);
        let harms: Vec<_> = harms.into_iter().map(|harm| harm.text).collect();
        let text = format!(
            "policy {:?} of virtual host {vhost} applies to Stentor's own queues: {}",
            policy.name,
            harms.join("; ")
        );
        let found = match is_loss {
            true => Finding::wrong("management.policies", text),
            false => Finding::doubtful("management.policies", text),
        };
        let definition = serde_json::to_string(&policy.definition).unwrap_or_default();
        let name = &policy.name;
        let pattern = but_not_feeds(&policy.pattern);
        // For what else it applied to before.
        let apply_to = match &*policy.apply_to {
            "" => "all",
            apply_to => apply_to,
        };
        let set = format!(
            "rabbitmqctl {set} -p '{vhost}' --priority {} --apply-to {apply_to} '{name}' \
             '{pattern}' '{definition}'",
            policy.priority
        );
        findings.push(found.cure(set).cure(format!(
            "or, if nobody needs it: rabbitmqctl {clear} -p '{vhost}' '{name}'"
        )));
    }
    if findings.is_empty() {
        let text = format!("no policy of virtual host {vhost} harms the queues of feeds");
        findings.push(Finding::right("management.policies", text));
    }
    findings
}

/// Whether what nobody is subscribed to comes to Stentor. `exchanges` are those of the virtual host,
/// with their arguments, which count more than a policy.
pub(super) fn offline(
    vhost: &str,
    user: &[Policy],
    exchanges: &[Value],
    offline: &OfflineConfig,
) -> Vec<Finding> {
    const KEY: &str = "alternate-exchange";
    let sources = offline.sources.iter().map(|source| {
        let question = "management.offline";
        let applying = user
            .iter()
            .filter(|policy| policy.applies(&["", "all", "exchanges"], source));
        let policy = applying.max_by_key(|policy| policy.priority);
        let mut named = exchanges.iter();
        let exchange =
            named.find(|one| one.get("name").and_then(Value::as_str) == Some(source.as_str()));
        let own = exchange.and_then(|one| one.get("arguments")?.get(KEY)?.as_str());
        let of_policy = policy.and_then(|policy| policy.definition.get(KEY)?.as_str());
        let wanted = offline_of(source);
        match own.or(of_policy) {
            Some(there) if there == wanted => {
                let text =
                    format!("exchange {source} leads to {wanted} where nobody is subscribed");
                Finding::right(question, text)
            }
            Some(there) => {
                let text = format!(
                    "the alternate exchange of {source} is {there}, and [offline] needs {wanted}: \
                     nothing is handed on for those who are away"
                );
                Finding::wrong(question, text).cure(policy_for(vhost, source))
            }
            None => {
                let text = format!(
                    "exchange {source} has no alternate one, so what nobody is subscribed to is \
                     dropped, and [offline] has nothing to hand on"
                );
                let found = Finding::wrong(question, text).cure(policy_for(vhost, source));
                match policy {
                    None => found,
                    Some(Policy { name, .. }) => found.cure(format!(
                        "or add \"{KEY}\":\"{wanted}\" to the policy {name:?}: one policy applies \
                         to an exchange"
                    )),
                }
            }
        }
    });
    sources.collect()
}

/// The same pattern without Stentor's queues.
fn but_not_feeds(pattern: &str) -> String {
    format!("^(?!stentor\\.feed\\.)(?=.*(?:{pattern}))")
}

/// What a key of a policy does to a feed's queue.
struct Harm {
    /// Messages are lost, and nobody is told.
    is_loss: bool,
    text: String,
}

fn harms(policy: &Policy, feed: &FeedConfig) -> Vec<Harm> {
    let mut harms = Vec::new();
    let mut add = |is_loss, text: String| harms.push(Harm { is_loss, text });
    for (key, value) in &policy.definition {
        let number = value.as_u64().unwrap_or(u64::MAX);
        match key.as_str() {
            "message-ttl" => add(
                true,
                format!(
                    "message-ttl drops messages that wait for {number} ms (while a node is away, \
                     say), and clients are not always told"
                ),
            ),
            "expires" if u128::from(number) < feed.expires.as_millis() => add(
                false,
                format!(
                    "expires ends them {number} ms after a node is gone, sooner than [feed] \
                     expires ({} ms)",
                    feed.expires.as_millis()
                ),
            ),
            "max-length" => add(
                false,
                format!(
                    "max-length interrupts feeds from {number} waiting messages on ([feed] \
                     max_length_bytes is the bound that is meant)"
                ),
            ),
            "max-length-bytes"
                if number < u64::try_from(feed.max_length_bytes).unwrap_or(u64::MAX) =>
            {
                add(
                    false,
                    format!(
                        "max-length-bytes interrupts feeds from {number} waiting bytes on, fewer \
                         than [feed] max_length_bytes ({})",
                        feed.max_length_bytes
                    ),
                );
            }
            "ha-mode" => add(
                false,
                "ha-mode copies every message of every feed to other nodes".to_owned(),
            ),
            _ => {}
        }
    }
    harms
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::finding::Mark;

    fn policy(pattern: &str, apply_to: &str, priority: i64, definition: &Value) -> Policy {
        let policy = json!({
            "vhost": "/",
            "name": "all",
            "pattern": pattern,
            "apply-to": apply_to,
            "priority": priority,
            "definition": definition,
        });
        serde_json::from_value(policy).unwrap()
    }

    fn marks(user: &[Policy], operator: &[Policy]) -> Vec<Mark> {
        let found = judge("/", user, operator, &FeedConfig::default());
        found.iter().map(|found| found.mark).collect()
    }

    #[test]
    fn policies_that_harm_are_found() {
        let of = |definition: &Value| marks(&[policy(".*", "queues", 0, definition)], &[]);
        for (definition, mark) in [
            (json!({"message-ttl": 60_000}), Mark::Wrong),
            (json!({"max-length": 1000}), Mark::Doubtful),
            (json!({"max-length-bytes": 1000}), Mark::Doubtful),
            (json!({"max-length-bytes": 1_u64 << 40}), Mark::Right),
            (json!({"expires": 1000}), Mark::Doubtful),
            (json!({"expires": 1_800_000}), Mark::Right),
            (json!({"ha-mode": "all"}), Mark::Doubtful),
            (json!({"queue-master-locator": "min-masters"}), Mark::Right),
        ] {
            assert_eq!(of(&definition), [mark], "{definition}");
        }
    }

    #[test]
    fn only_the_policy_that_applies_counts() {
        let ttl = json!({"message-ttl": 1});
        let none = json!({"queue-mode": "lazy"});
        for (user, mark) in [
            (vec![policy("^orders", "queues", 0, &ttl)], Mark::Right),
            (vec![policy(".*", "exchanges", 0, &ttl)], Mark::Right),
            (vec![policy("^stentor", "all", 0, &ttl)], Mark::Wrong),
            (
                vec![
                    policy(".*", "queues", 1, &ttl),
                    policy("^stentor", "queues", 2, &none),
                ],
                Mark::Right,
            ),
        ] {
            assert_eq!(marks(&user, &[]), [mark], "{user:?}");
            assert_eq!(marks(&[], &user), [mark], "{user:?}");
        }
    }

    /// A policy for queues of another kind neither harms feeds nor keeps another one from them.
    #[test]
    fn only_policies_for_queues_of_the_feeds_kind_count() {
        let (ttl, none) = (json!({"message-ttl": 60_000}), json!({}));
        let other = |kind| {
            vec![
                policy(".*", kind, 10, &none),
                policy(".*", "queues", 0, &ttl),
            ]
        };
        let harmful = |kind| vec![policy(".*", kind, 0, &ttl)];
        for (user, classic, quorum) in [
            (other("quorum_queues"), Mark::Wrong, Mark::Right),
            (other("classic_queues"), Mark::Right, Mark::Wrong),
            (other("streams"), Mark::Wrong, Mark::Wrong),
            (harmful("quorum_queues"), Mark::Right, Mark::Wrong),
            (harmful("classic_queues"), Mark::Wrong, Mark::Right),
            (harmful("streams"), Mark::Right, Mark::Right),
        ] {
            for (replicated, mark) in [(false, classic), (true, quorum)] {
                let feed = FeedConfig {
                    replicated,
                    ..FeedConfig::default()
                };
                for found in [judge("/", &user, &[], &feed), judge("/", &[], &user, &feed)] {
                    assert_eq!(found[0].mark, mark, "{user:?} {replicated}");
                }
            }
        }
    }

    /// A policy for exchanges too, or for classic queues alone, stays one.
    #[test]
    fn the_cure_keeps_what_a_policy_applies_to() {
        for apply_to in ["all", "queues", "classic_queues"] {
            let user = [policy(".*", apply_to, 0, &json!({"message-ttl": 1}))];
            let found = judge("/", &user, &[], &FeedConfig::default());
            let cure = &found[0].cure[0];
            assert!(
                cure.contains(&format!(" --apply-to {apply_to} 'all' ")),
                "{cure}"
            );
        }
    }

    #[test]
    fn a_source_has_to_lead_to_stentor() {
        let right = json!({"alternate-exchange": "stentor.feed.offline.feed"});
        let wrong = json!({"alternate-exchange": "unrouted"});
        let other = json!({"message-ttl": 1});
        let config = OfflineConfig {
            sources: ["feed".to_owned()].into(),
            ..OfflineConfig::default()
        };
        let of = |user: &[Policy], exchanges: &[Value]| {
            let found = offline("/", user, exchanges, &config);
            assert_eq!(found.len(), 1);
            found[0].mark
        };
        for (user, mark) in [
            (vec![], Mark::Wrong),
            (vec![policy("^feed$", "exchanges", 0, &right)], Mark::Right),
            (vec![policy(".*", "all", 0, &right)], Mark::Right),
            (vec![policy("^feed$", "queues", 0, &right)], Mark::Wrong),
            (vec![policy("^feed$", "exchanges", 0, &wrong)], Mark::Wrong),
            (
                vec![
                    policy("^feed$", "exchanges", 0, &right),
                    policy(".*", "all", 1, &other),
                ],
                Mark::Wrong,
            ),
        ] {
            assert_eq!(of(&user, &[]), mark, "{user:?}");
        }
        // What an exchange was declared with counts more.
        let declared = json!({"name": "feed", "type": "direct", "arguments": wrong});
        let user = [policy("^feed$", "exchanges", 0, &right)];
        assert_eq!(of(&user, &[declared]), Mark::Wrong);
        assert!(offline("/", &user, &[], &OfflineConfig::default()).is_empty());
    }

    /// The cure keeps the policy for all other queues.
    #[test]
    fn the_cure_leaves_out_stentor_s_queues_alone() {
        for pattern in [".*", "^", "^stentor|orders$"] {
            let cured = Pattern::new(&but_not_feeds(pattern)).unwrap();
            let before = Pattern::new(pattern).unwrap();
            assert!(!cured.matches("stentor.feed.host.0123abcd.1"));
            for other in ["orders", "stentor", "my.stentor.feed.1"] {
                assert_eq!(
                    cured.matches(other),
                    before.matches(other),
                    "{pattern} {other}"
                );
            }
        }
    }
}
