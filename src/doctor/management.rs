//! What AMQP cannot tell: RabbitMQ's management plug-in is asked, or the command is told that asks.

use std::hash::RandomState;

use futures_util::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Subject,
    ask::{ask, late},
    exchanges::{Exchange, configured, named, retyped},
    finding::Finding,
    journals,
    policies::{self, Policy},
};
use crate::{
    app::foreign::{self, Foreign},
    auth::rabbitmq::{Management, SourceError, Tag},
    broker::{ExchangeKind, journal::stream_of},
    config::Config,
};

/// The plug-in, and how it came to be asked.
struct Asked {
    management: Management,
    /// Nobody named it: it was looked for at the broker's host, by the gateway's account.
    is_guess: bool,
}

/// Asks the management plug-in.
pub(super) async fn examine(subject: &Subject<'_>) -> Vec<Finding> {
    let config = subject.config;
    let all = subject.vhosts();
    let found = match find(subject) {
        Some(Ok(found)) => found,
        Some(Err(error)) => {
            return vec![Finding::wrong("management.reachable", error.to_string())];
        }
        None => {
            return unasked(
                "there is no account for its management plug-in",
                config,
                &all,
            );
        }
    };
    let management = &found.management;
    let (answer, time) = ask(management.get("whoami")).await;
    // Whatever else listens there answers, too.
    let answer = answer.map(|answer| answer.and_then(|text| read::<Value>(management, &text)));
    let reason = match answer {
        Some(Ok(_)) => None,
        Some(Err(error)) => Some(error.to_string()),
        None => Some(format!("{management}: {}", late())),
    };
    match reason {
        Some(reason) if found.is_guess => return unasked(&reason, config, &all),
        Some(reason) => {
            let found = Finding::wrong("management.reachable", reason)
                .cure("rabbitmq-plugins enable rabbitmq_management")
                .cure("stentor doctor --management http://USER:PASSWORD@HOST:15672");
            return vec![found.took(time)];
        }
        None => {}
    }
    let answers = format!("{management} answers");
    let mut findings = vec![Finding::right("management.reachable", answers).took(time)];
    let (alarms, deprecated) = tokio::join!(alarms(management), deprecated(management));
    findings.push(alarms);
    findings.extend(deprecated);
    let examined = all.iter().map(|name| vhost(management, config, name));
    for found in join_all(examined).await {
        findings.extend(found);
    }
    findings
}

fn find(subject: &Subject<'_>) -> Option<Result<Asked, SourceError>> {
    let named = subject.management.clone();
    let named = named.or_else(|| subject.config.auth_rabbitmq.management());
    let is_guess = named.is_none();
    let url = named.or_else(|| foreign::beside_broker(subject.config))?;
    let management = Management::new(url, Tag::Monitoring);
    Some(management.map(|management| Asked {
        management,
        is_guess,
    }))
}

/// What stays unknown, with the commands that tell it.
fn unasked(reason: &str, config: &Config, vhosts: &[String]) -> Vec<Finding> {
    let vhost = vhosts.first().map_or("/", String::as_str);
    let text = format!(
        "policies, default queue types, deprecated features and alarms are not known: {reason}"
    );
    let mut found = Finding::unasked("management.reachable", text)
        .cure("stentor doctor --management http://USER:PASSWORD@HOST:15672")
        .cure(format!(
            "rabbitmqctl list_policies -p {vhost}; rabbitmqctl list_operator_policies -p {vhost}"
        ))
        .cure("rabbitmqctl list_vhosts name default_queue_type")
        .cure("rabbitmqctl list_deprecated_features used   (RabbitMQ 3.13 and later)")
        .cure("rabbitmq-diagnostics alarms");
    for exchange in foreign::endangered(config) {
        found = found.cure(foreign::listing(vhost, exchange));
    }
    if !config.journal.exchanges.is_empty() {
        found = found.cure(journals::list_bindings(vhost));
    }
    vec![found]
}

async fn get<T: DeserializeOwned>(management: &Management, path: &str) -> Result<T, SourceError> {
    let (answer, _) = ask(management.get(path)).await;
    let answer =
        answer.unwrap_or_else(|| Err(SourceError::Timeout(management.to_string().into())))?;
    read(management, &answer)
}

fn read<T: DeserializeOwned>(management: &Management, answer: &[u8]) -> Result<T, SourceError> {
    serde_json::from_slice(answer).map_err(|error| {
        // The parser's words tell a place, and no content.
        SourceError::Connection(management.to_string().into(), error.to_string())
    })
}

async fn alarms(management: &Management) -> Finding {
    let (answer, time) = ask(management.get("health/checks/alarms")).await;
    let answer = answer.map(|answer| answer.and_then(|text| read(management, &text)));
    judge_alarms(answer).took(time)
}

fn judge_alarms(answer: Option<Result<Value, SourceError>>) -> Finding {
    let question = "management.alarms";
    match answer {
        Some(Ok(answer)) if answer.get("status").and_then(Value::as_str) == Some("ok") => {
            Finding::right(question, "RabbitMQ has memory and disk enough")
        }
        Some(Ok(_)) => {
            let text = "alarms are not known: it answered something else than RabbitMQ does";
            Finding::unasked(question, text).cure("rabbitmq-diagnostics alarms")
        }
        Some(Err(SourceError::Status(_, status))) if status.as_u16() == 503 => Finding::wrong(
            question,
            "RabbitMQ is short of memory or disk, and takes no messages until that is over",
        )
        .cure("free memory or disk there; these say which, and what takes it:")
        .cure("rabbitmq-diagnostics alarms")
        .cure("rabbitmq-diagnostics memory_breakdown; df -h /var/lib/rabbitmq"),
        Some(Err(error)) => Finding::unasked(question, format!("alarms are not known: {error}"))
            .cure("rabbitmq-diagnostics alarms"),
        None => Finding::unasked(question, format!("alarms are not known: it {}", late()))
            .cure("rabbitmq-diagnostics alarms"),
    }
}

/// RabbitMQ before 3.13 does not know the word.
async fn deprecated(management: &Management) -> Option<Finding> {
    match get::<Vec<Value>>(management, "deprecated-features/used").await {
        Ok(used) => Some(judge_deprecated(&used)),
        Err(SourceError::Status(_, status)) if status.as_u16() == 404 => None,
        Err(error) => Some(
            Finding::unasked(
                "management.deprecated",
                format!("deprecated features in use are not known: {error}"),
            )
            .cure("rabbitmqctl list_deprecated_features used"),
        ),
    }
}

fn judge_deprecated(used: &[Value]) -> Finding {
    let question = "management.deprecated";
    let names: Vec<_> = used
        .iter()
        .filter_map(|feature| feature.get("name")?.as_str())
        .collect();
    if names.is_empty() {
        return Finding::right(question, "no deprecated feature of RabbitMQ is in use");
    }
    let text = format!(
        "deprecated features of RabbitMQ are in use, not by Stentor: {}; a later RabbitMQ will \
         refuse them",
        names.join(", ")
    );
    Finding::doubtful(question, text)
        .cure("mend what uses them, before RabbitMQ is upgraded; this lists them:")
        .cure("rabbitmqctl list_deprecated_features used")
}

async fn vhost(management: &Management, config: &Config, name: &str) -> Vec<Finding> {
    let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC).to_string();
    let (user_paths, operator_paths, vhost_path) = (
        format!("policies/{encoded}"),
        format!("operator-policies/{encoded}"),
        format!("vhosts/{encoded}"),
    );
    let exchanges_path = format!("exchanges/{encoded}?columns=name,type,arguments");
    let (user, operator, vhost, exchanges) = tokio::join!(
        get::<Vec<Policy>>(management, &user_paths),
        get::<Vec<Policy>>(management, &operator_paths),
        get::<Value>(management, &vhost_path),
        get::<Vec<Value>>(management, &exchanges_path),
    );
    let mut findings = Vec::new();
    match (user, operator) {
        (Ok(user), Ok(operator)) => {
            findings.extend(policies::judge(name, &user, &operator, &config.feed));
            if name == config.broker.default_vhost {
                let exchanges = exchanges.as_ref().map_or(&[][..], Vec::as_slice);
                findings.extend(policies::offline(name, &user, exchanges, &config.offline));
            }
        }
        (Err(error), _) | (_, Err(error)) => findings.push(
            Finding::unasked(
                "management.policies",
                format!("policies of virtual host {name} are not known: {error}"),
            )
            .cure(format!(
                "rabbitmqctl list_policies -p {name}; rabbitmqctl list_operator_policies -p {name}"
            )),
        ),
    }
    match vhost {
        Ok(vhost) => findings.push(queue_type(name, &vhost)),
        Err(error) => findings.push(
            Finding::unasked(
                "management.queue-type",
                format!("the default queue type of {name} is not known: {error}"),
            )
            .cure("rabbitmqctl list_vhosts name default_queue_type"),
        ),
    }
    // Without an answer, those that AMQP does not tell stay unasked.
    if let Ok(exchanges) = &exchanges {
        findings.push(types(name, &configured(config, name), exchanges));
    }
    let exchanges = exchanges.unwrap_or_default();
    if !config.journal.exchanges.is_empty() {
        findings.extend(journals(management, config, name, &encoded, &exchanges).await);
    }
    for exchange in foreign::endangered(config) {
        findings.push(bindings(management, name, exchange).await);
    }
    findings
}

async fn journals(
    management: &Management,
    config: &Config,
    vhost: &str,
    encoded: &str,
    exchanges: &[Value],
) -> Vec<Finding> {
    let mut all = Vec::new();
    for exchange in &config.journal.exchanges {
        let stream = stream_of(exchange);
        let name = utf8_percent_encode(&stream, NON_ALPHANUMERIC);
        let path = format!("queues/{encoded}/{name}/bindings");
        match get::<Vec<Value>>(management, &path).await {
            Ok(bindings) => all.extend(bindings),
            // It is not there yet, which is told elsewhere.
            Err(SourceError::Status(_, status)) if status.as_u16() == 404 => {}
            Err(error) => {
                let text = format!("what leads to {stream} is not known: {error}");
                let found = Finding::unasked("management.journals", text);
                return vec![found.cure(journals::list_bindings(vhost))];
            }
        }
    }
    journals::judge_bindings(config, exchanges, &all)
}

/// Whether the exchanges that are there have the types of the configuration.
fn types(vhost: &str, wanted: &[Exchange], exchanges: &[Value]) -> Finding {
    let question = "management.types";
    let mut wrong = Vec::new();
    let mut cures = Vec::new();
    for exchange in exchanges {
        let text = |field: &str| exchange.get(field).and_then(Value::as_str);
        let (Some(name), Some(there)) = (text("name"), text("type")) else {
            continue;
        };
        let Some(wanted) = wanted.iter().find(|wanted| &*wanted.name == name) else {
            continue;
        };
        let Some(kind) = wanted.kind.map(named) else {
            continue;
        };
        if there != kind {
            wrong.push(format!(
                "{name} is a {there} exchange, and has to be a {kind} one"
            ));
            let there = ExchangeKind::try_from(there.to_owned()).unwrap_or(ExchangeKind::Other);
            cures.push(retyped(wanted, there));
        }
    }
    if wrong.is_empty() {
        let text = format!("exchanges of virtual host {vhost} have the types of the configuration");
        return Finding::right(question, text);
    }
    let text = format!(
        "by the configuration, {} (virtual host {vhost})",
        wrong.join("; ")
    );
    cures
        .into_iter()
        .fold(Finding::wrong(question, text), Finding::cure)
}

/// Stentor's own queues say their type, so this is about clients' queues.
fn queue_type(name: &str, vhost: &Value) -> Finding {
    let question = "management.queue-type";
    let kind = vhost.get("default_queue_type").and_then(Value::as_str);
    match kind.filter(|kind| *kind != "undefined") {
        None | Some("classic") => Finding::right(
            question,
            format!("queues of virtual host {name} are classic ones by default"),
        ),
        Some("stream") => Finding::doubtful(
            question,
            format!(
                "queues that clients make in virtual host {name} are streams by default, which \
                 keep what was read; Stentor's own say classic"
            ),
        )
        .cure(format!(
            "rabbitmqctl update_vhost_metadata {name} --default-queue-type classic"
        )),
        Some(kind) => Finding::right(
            question,
            format!(
                "queues that clients make in virtual host {name} are {kind} queues by default; \
                 Stentor's own say classic"
            ),
        ),
    }
}

async fn bindings(management: &Management, vhost: &str, exchange: &str) -> Finding {
    let hasher = RandomState::new();
    let (answer, _) = ask(foreign::bound_at(management, vhost, exchange, &hasher)).await;
    let answer = answer.unwrap_or_else(|| Err(SourceError::Timeout(management.to_string().into())));
    match answer {
        Ok(Some((bound, _))) => judge(vhost, exchange, &bound),
        Ok(None) => Finding::right(
            "management.bindings",
            format!("nobody binds keys at exchange {exchange} (feed.whole), which is not there"),
        ),
        Err(error) => Finding::unasked(
            "management.bindings",
            format!("bindings of exchange {exchange} are not known: {error}"),
        )
        .cure(foreign::listing(vhost, exchange)),
    }
}

/// With `bridge = false`, a key that anybody binds at the exchange is missed by all clients.
fn judge(vhost: &str, exchange: &str, bound: &Foreign) -> Finding {
    let question = "management.bindings";
    if bound.count() == 0 {
        let text = format!("nobody else binds keys at exchange {exchange} (feed.whole)");
        return Finding::right(question, text);
    }
    let text = format!(
        "bindings of others ({}) at exchange {exchange} keep their keys from all clients \
         ([feed] bridge = false): {}",
        bound.count(),
        bound.named()
    );
    Finding::wrong(question, text)
        .cure("[feed] bridge = true")
        .cure(format!("or bind them at {exchange}.keys instead:"))
        .cure(foreign::listing(vhost, exchange))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::{exchanges::Role, finding::Mark};

    #[test]
    fn bindings_of_others_are_named() {
        assert_eq!(judge("/", "feed", &Foreign::default()).mark, Mark::Right);
        let other = Foreign::of(&[("user_alice", "audit")], &RandomState::new());
        let found = judge("/", "feed", &other);
        assert_eq!(found.mark, Mark::Wrong);
        assert!(
            found.text.contains("bindings of others (1)"),
            "{}",
            found.text
        );
        assert!(found.text.ends_with("user_alice → audit"), "{}", found.text);
        assert_eq!(found.cure[0], "[feed] bridge = true");
    }

    #[test]
    fn types_are_compared_with_the_configuration() {
        let wanted = [Exchange {
            name: "feed".into(),
            kind: Some(ExchangeKind::Direct),
            role: Role::Clients,
        }];
        let there = |kind: &str| {
            [
                json!({"name": "", "type": "direct"}),
                json!({"name": "feed", "type": kind}),
            ]
        };
        assert_eq!(types("/", &wanted, &there("direct")).mark, Mark::Right);
        let found = types("/", &wanted, &there("topic"));
        assert_eq!(found.mark, Mark::Wrong);
        assert_eq!(
            found.cure,
            ["[broker] exchanges = { \"feed\" = \"topic\" }"]
        );
    }

    /// There it is another application's.
    #[test]
    fn types_of_the_gateway_s_own_exchanges_count_in_the_default_virtual_host() {
        let mut config = Config::default();
        config.broker.url = Some("amqp://u:p@host".parse().unwrap());
        config.offline.sources = ["feed".to_owned()].into();
        let there = [json!({"name": "offline", "type": "direct"})];
        let judged = |vhost| types(vhost, &configured(&config, vhost), &there);
        let found = judged("/");
        assert_eq!(found.mark, Mark::Wrong);
        // It stays a topic exchange.
        assert_eq!(found.cure, ["[offline] exchange = \"stentor.offline\""]);
        assert_eq!(judged("app").mark, Mark::Right);
    }

    #[test]
    fn alarms_are_over_only_where_rabbitmq_says_so() {
        let status = |status: u16| {
            let status = reqwest::StatusCode::from_u16(status).unwrap();
            Err(SourceError::Status("rabbit:15672".into(), status))
        };
        for (answer, mark) in [
            (Ok(json!({"status": "ok"})), Mark::Right),
            (Ok(json!({"status": "failed"})), Mark::Unasked),
            (Ok(json!([])), Mark::Unasked),
            (status(503), Mark::Wrong),
            (status(404), Mark::Unasked),
        ] {
            let shown = format!("{answer:?}");
            assert_eq!(judge_alarms(Some(answer)).mark, mark, "{shown}");
        }
        assert_eq!(judge_alarms(None).mark, Mark::Unasked);
    }

    #[test]
    fn a_default_type_matters_to_clients_queues() {
        for (vhost, mark) in [
            (json!({}), Mark::Right),
            (json!({"default_queue_type": "undefined"}), Mark::Right),
            (json!({"default_queue_type": "quorum"}), Mark::Right),
            (json!({"default_queue_type": "stream"}), Mark::Doubtful),
        ] {
            assert_eq!(queue_type("/", &vhost).mark, mark, "{vhost}");
        }
    }

    #[test]
    fn features_in_use_are_named() {
        assert_eq!(judge_deprecated(&[]).mark, Mark::Right);
        let found = judge_deprecated(&[json!({"name": "global_qos"})]);
        assert_eq!(found.mark, Mark::Doubtful);
        assert!(found.text.contains("global_qos"));
        // A command that only asks mends nothing.
        assert!(
            found.cure[0].starts_with("mend what uses them"),
            "{found:?}"
        );
    }

    #[test]
    fn without_the_plug_in_commands_ask() {
        let mut config = Config::default();
        config.feed.binding = crate::broker::Binding::All;
        config.feed.bridge = false;
        config.feed.whole = vec!["feed".to_owned()];
        let found = unasked("away", &config, &["app".to_owned()]);
        assert_eq!(found[0].mark, Mark::Unasked);
        let cures = found[0].cure.join("\n");
        for command in [
            "list_policies -p app",
            "list_bindings -p app",
            "list_deprecated_features used",
        ] {
            assert!(cures.contains(command), "{cures}");
        }
    }
}
