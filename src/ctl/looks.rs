//! What all nodes say of themselves, as tables.

use super::show::{Show, facts, rows};
use crate::{
    api::{
        Caller, Destinations, Details, FeedOverview, NodeOverview, Overview, Refusals,
        RefusedClient, Subscription, Webhooks,
    },
    units::show_size,
};

impl Show for Caller {
    fn show(&self) -> String {
        facts(&[
            ("token", self.name.clone()),
            ("scopes", self.scopes.join(", ")),
        ])
    }
}

impl Show for Webhooks {
    fn show(&self) -> String {
        if self.receivers.is_empty() {
            return "there are none ([webhooks] urls)\n".to_owned();
        }
        let receivers = self.receivers.iter().map(|receiver| {
            let failing = receiver.failing.as_deref();
            vec![
                receiver.url.clone(),
                failing.map_or_else(|| "ok".to_owned(), str::to_owned),
                receiver.waiting.to_string(),
                receiver.dropped.to_string(),
                receiver.given_up.to_string(),
            ]
        });
        let heads = ["url", "state", "waiting", "dropped", "given up"];
        let mut text = rows(&heads, &[2, 3, 4], receivers);
        let dead = self.receivers.iter().flat_map(|receiver| {
            receiver.dead.iter().map(|dead| {
                vec![
                    dead.name.clone(),
                    field(&dead.body, "at"),
                    field(&dead.body, "user"),
                    dead.attempts.to_string(),
                    dead.cause.clone(),
                ]
            })
        });
        let dead: Vec<_> = dead.collect();
        if !dead.is_empty() {
            let heads = ["given up", "at", "user", "attempts", "cause"];
            text.push('\n');
            text.push_str(&rows(&heads, &[3], dead.into_iter()));
        }
        text
    }
}

/// A text of an event's body.
fn field(body: &serde_json::Value, name: &str) -> String {
    let text = body.get(name).and_then(serde_json::Value::as_str);
    text.unwrap_or_default().to_owned()
}

impl Show for Overview {
    fn show(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let figure = |name: &str| {
                let value = node.figures.values.get(name);
                value.map_or_else(String::new, |value| format!("{value:.0}"))
            };
            let memory = node.figures.values.get("process_resident_memory_bytes");
            vec![
                node.node.clone(),
                state(node),
                node.broker.clone(),
                node.presence.clone(),
                node.sessions.to_string(),
                node.connections.to_string(),
                figure("stentor_feed_deliveries_total"),
                figure("stentor_publishes_total"),
                figure("stentor_hook_faults_total"),
                memory.map_or_else(String::new, |bytes| format!("{:.0} MiB", bytes / MEBIBYTE)),
            ]
        });
        let silent = self.silent.iter();
        let silent = silent.map(|node| vec![node.clone(), "silent".to_owned()]);
        let mut text = rows(
            &[
                "node",
                "state",
                "broker",
                "presence",
                "sessions",
                "connections",
                "deliveries",
                "publishes",
                "hook faults",
                "memory",
            ],
            &[4, 5, 6, 7, 8, 9],
            nodes.chain(silent),
        );
        let feeds = self.nodes.iter().flat_map(|node| {
            let feeds = node.feeds.iter();
            feeds.map(|FeedOverview { vhost, feed }| {
                vec![
                    node.node.clone(),
                    vhost.clone(),
                    feed.exchange.clone(),
                    feed.kind.clone(),
                    feed.patterns.to_string(),
                    feed.routed.to_string(),
                    feed.delivered.to_string(),
                ]
            })
        });
        text.push_str(&rows(
            &[
                "node",
                "vhost",
                "exchange",
                "type",
                "patterns",
                "messages",
                "deliveries",
            ],
            &[4, 5, 6],
            feeds,
        ));
        text.push_str(&unreached(self.unreached.as_deref()));
        text
    }
}

const MEBIBYTE: f64 = 1024.0 * 1024.0;

fn state(node: &NodeOverview) -> String {
    match (&*node.phase, &node.not_ready, &node.degraded) {
        ("running", None, None) => "ready".to_owned(),
        ("running", Some(why), _) => format!("not ready: {why}"),
        ("running", None, Some(why)) => format!("ready, but {why}"),
        (phase, ..) => phase.to_owned(),
    }
}

impl Show for Refusals {
    fn show(&self) -> String {
        let reasons = self.nodes.iter().flat_map(|node| {
            let reasons = node.reasons.iter();
            reasons.map(|reason| {
                vec![
                    node.node.clone(),
                    reason.metric.clone(),
                    reason.reason.clone(),
                    reason.count.to_string(),
                ]
            })
        });
        let mut text = rows(&["node", "metric", "reason", "count"], &[3], reasons);
        let recent = self.nodes.iter().flat_map(|node| {
            let recent = node.recent.iter();
            recent.map(|refused: &RefusedClient| {
                vec![
                    refused.at.clone(),
                    node.node.clone(),
                    refused.what.clone(),
                    refused.user.clone().unwrap_or_default(),
                    refused.remote.clone().unwrap_or_default(),
                    refused.cause.clone(),
                ]
            })
        });
        text.push_str(&rows(
            &["at", "node", "what", "user", "remote", "cause"],
            &[],
            recent,
        ));
        text.push_str(&silent(&self.silent));
        text.push_str(&unreached(self.unreached.as_deref()));
        text
    }
}

impl Show for Destinations {
    fn show(&self) -> String {
        let destinations = self.nodes.iter().flat_map(|node| {
            let destinations = node.destinations.iter();
            destinations.map(|destination| {
                vec![
                    node.node.clone(),
                    destination.vhost.clone(),
                    destination.exchange.clone(),
                    destination.key.clone(),
                    destination.subscriptions.to_string(),
                ]
            })
        });
        let mut text = rows(
            &["node", "vhost", "exchange", "key", "subscriptions"],
            &[4],
            destinations,
        );
        for node in &self.nodes {
            if node.total > node.destinations.len() {
                text.push_str(&format!(
                    "{} of {} on {}: see --search.\n",
                    node.destinations.len(),
                    node.total,
                    node.node
                ));
            }
        }
        text.push_str(&silent(&self.silent));
        text.push_str(&unreached(self.unreached.as_deref()));
        text
    }
}

impl Show for Details {
    fn show(&self) -> String {
        let mut text = facts(&[
            ("session", self.session.clone()),
            ("node", self.node.clone()),
            ("STOMP", self.version.clone()),
            (
                "waiting",
                format!(
                    "{} messages, {}",
                    self.waiting_messages,
                    show_size(self.waiting_bytes)
                ),
            ),
            ("unread", show_size(self.unwritten_bytes)),
            (
                "frames in",
                format!("{} ({} messages)", self.frames_in, self.messages_in),
            ),
            (
                "frames out",
                format!("{} ({} messages)", self.frames_out, self.messages_out),
            ),
            ("in progress", self.pending_frames.to_string()),
        ]);
        let subscriptions = self.subscriptions.iter().map(|subscription| {
            vec![
                subscription.id.clone(),
                source(subscription),
                subscription.ack.clone(),
                subscription.messages.to_string(),
                subscription.unacknowledged.to_string(),
            ]
        });
        text.push_str(&rows(
            &["id", "source", "ack", "messages", "unacknowledged"],
            &[3, 4],
            subscriptions,
        ));
        if self.subscriptions_left_out > 0 {
            text.push_str(&format!("{} more.\n", self.subscriptions_left_out));
        }
        text
    }
}

fn source(subscription: &Subscription) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    match &subscription.queue {
        Some(queue) => format!("queue {queue}"),
        None => format!(
            "{} / {}",
            text(&subscription.exchange),
            text(&subscription.key)
        ),
    }
}

fn silent(nodes: &[String]) -> String {
    match nodes {
        [] => String::new(),
        nodes => format!("Without an answer: {}\n", nodes.join(", ")),
    }
}

fn unreached(why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| {
        format!("Other nodes could not be asked: {why}\n")
    })
}
