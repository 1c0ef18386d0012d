//! Journals: whether their streams are there, as the configuration says, and whether messages come to
//! them.

use serde_json::Value;

use super::{ask::timed, finding::Finding};
use crate::{
    broker::{
        BrokerError, ExchangeKind,
        amqp::inspect::{self, Examined, Seen, SeenJournal},
        journal::{lack_of, stream_of},
    },
    config::Config,
};

/// Asks for the exchanges' types, and for the streams.
pub(super) async fn examine(
    examined: &Examined,
    config: &Config,
    account: &str,
    vhost: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for exchange in &config.journal.exchanges {
        let (answer, time) = timed(async {
            let unsuited = match examined.exchange(exchange).await? {
                Seen::There(Some(kind)) => unsuited("broker.journal", exchange, kind, config),
                Seen::There(None) | Seen::Missing => None,
            };
            Ok::<_, BrokerError>(match unsuited {
                Some(found) => found,
                None => {
                    let seen = examined.journal(exchange, &config.journal).await;
                    judge(exchange, account, vhost, seen)
                }
            })
        })
        .await;
        let found = answer.unwrap_or_else(|error| judge(exchange, account, vhost, Err(error)));
        findings.push(found.took(time));
    }
    findings
}

/// An exchange of a type whose messages its journal cannot have.
fn unsuited(
    question: &'static str,
    exchange: &str,
    kind: ExchangeKind,
    config: &Config,
) -> Option<Finding> {
    let why = lack_of(kind, config.feed.reads_whole(exchange))?;
    let text = format!("exchange {exchange} {why}. Its subscribers are refused");
    let found = Finding::wrong(question, text);
    let found = match kind {
        ExchangeKind::Direct => found.cure(format!(
            "[feed] binding = \"all\", whole = [{exchange:?}], bridge = false   \
             (docs/catching-up.md has the rest)"
        )),
        _ => found,
    };
    Some(found.cure(format!("or [journal] exchanges without {exchange:?}")))
}

fn judge(
    exchange: &str,
    account: &str,
    vhost: &str,
    answer: Result<SeenJournal, BrokerError>,
) -> Finding {
    let (question, stream) = ("broker.journal", stream_of(exchange));
    let grant = || {
        format!(
            "give the account {account} permission to configure, write and read {stream} in virtual \
             host {vhost} (set_permissions)"
        )
    };
    let delete = || format!("rabbitmqctl delete_queue -p '{vhost}' {stream}");
    match answer {
        Ok(SeenJournal::Missing) => {
            let text = format!(
                "journal {stream} is not there yet; the gateway makes it. Whether it may write and \
                 read it can be tried only then"
            );
            Finding::right(question, text)
        }
        Ok(SeenJournal::Right) => {
            Finding::right(question, format!("journal {stream} is as [journal] says"))
        }
        Ok(SeenJournal::Differs(told)) => {
            let text = format!(
                "journal {stream} was declared otherwise than [journal] says now, and stays so: {told}"
            );
            Finding::doubtful(question, text)
                .cure(format!(
                    "rabbitmqctl set_policy -p '{vhost}' --apply-to queues '{stream}' \
                     '^{}$' '{{\"max-age\":\"1D\"}}'   (max-age, max-length-bytes, \
                     stream-max-segment-size-bytes)",
                    stream.replace('.', "\\.")
                ))
                .cure(format!(
                    "or delete it, with the messages that it keeps: {}",
                    delete()
                ))
        }
        Ok(SeenJournal::NoStream) => {
            let text = format!(
                "{stream} is a queue of another type than a stream, so nobody can subscribe to \
                 exchange {exchange}"
            );
            Finding::wrong(question, text).cure(format!(
                "{}   (with its messages; the gateway makes the stream)",
                delete()
            ))
        }
        Ok(SeenJournal::Lacks(verb)) => {
            let text = format!(
                "journal {stream}: the account {account} may not {verb} it, so nobody can subscribe \
                 to exchange {exchange}"
            );
            Finding::wrong(question, text).cure(grant())
        }
        Ok(SeenJournal::NotOurs) => {
            let text = format!(
                "journal {stream}: the account {account} may not declare it, so nobody can subscribe \
                 to exchange {exchange}"
            );
            Finding::wrong(question, text).cure(grant())
        }
        Err(BrokerError::AccessRefused(_)) => {
            let text = format!(
                "journal {stream} is not there, and the account {account} may not make it: nobody \
                 can subscribe to exchange {exchange}"
            );
            Finding::wrong(question, text).cure(grant())
        }
        Err(error) => Finding::wrong(question, format!("journal {stream}: {error}")),
    }
}

/// The command that lists what leads to journals.
pub(super) fn list_bindings(vhost: &str) -> String {
    format!(
        "rabbitmqctl list_bindings -p {vhost} source_name destination_name routing_key | grep \
         'stentor\\.journal\\.'"
    )
}

/// Judges what leads to the journals of a virtual host, whose exchanges these are.
pub(super) fn judge_bindings(
    config: &Config,
    exchanges: &[Value],
    bindings: &[Value],
) -> Vec<Finding> {
    let question = "management.journals";
    let kind_of = |exchange: &str| {
        let is_it = |one: &&Value| one.get("name").and_then(Value::as_str) == Some(exchange);
        let kind = exchanges.iter().find(is_it)?.get("type")?.as_str()?;
        Some(ExchangeKind::try_from(kind.to_owned()).unwrap_or(ExchangeKind::Other))
    };
    let of = |exchange: &String| {
        let kind = kind_of(exchange);
        if let Some(found) = kind.and_then(|kind| unsuited(question, exchange, kind, config)) {
            return found;
        }
        let stream = stream_of(exchange);
        let [all, _] = inspect::beside(exchange);
        let leads = |binding: &&Value| {
            let text = |field: &str| binding.get(field).and_then(Value::as_str);
            let source = text("source");
            text("destination") == Some(&*stream)
                && (source == Some(exchange) || source == Some(&*all))
        };
        match bindings.iter().any(|binding| leads(&binding)) {
            true => Finding::right(
                question,
                format!("messages of exchange {exchange} come to {stream}"),
            ),
            false => Finding::doubtful(
                question,
                format!(
                    "nothing leads from exchange {exchange} to {stream}: its messages are not kept \
                     until a gateway runs, which binds it"
                ),
            )
            .cure("systemctl start stentor   (or `stentor serve`)"),
        }
    };
    config.journal.exchanges.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::finding::Mark;

    #[test]
    fn a_stream_that_cannot_be_declared_is_wrong() {
        let judged = |answer| judge("feed", "stentor", "/", answer);
        assert_eq!(judged(Ok(SeenJournal::Missing)).mark, Mark::Right);
        assert_eq!(judged(Ok(SeenJournal::Right)).mark, Mark::Right);
        let differs = judged(Ok(SeenJournal::Differs("max-age".into())));
        assert_eq!(differs.mark, Mark::Doubtful);
        assert!(
            differs.cure[0].contains(r"'^stentor\.journal\.feed$'"),
            "{differs:?}"
        );
        let refused = || BrokerError::AccessRefused("no".into());
        for answer in [
            Ok(SeenJournal::NotOurs),
            Ok(SeenJournal::Lacks("read")),
            Ok(SeenJournal::NoStream),
            Err(refused()),
        ] {
            let found = judged(answer);
            assert_eq!(found.mark, Mark::Wrong);
            assert!(found.cure[0].contains("stentor.journal.feed"), "{found:?}");
        }
    }

    #[test]
    fn a_journal_to_which_nothing_leads_is_doubtful() {
        let binding = |source: &str, destination: &str| json!({"source": source, "destination": destination, "routing_key": "#"});
        let config = journal();
        let judged = |bindings: &[Value]| judge_bindings(&config, &[], bindings)[0].mark;
        let stream = "stentor.journal.feed";
        assert_eq!(judged(&[binding("feed", stream)]), Mark::Right);
        assert_eq!(judged(&[binding("feed.all", stream)]), Mark::Right);
        assert_eq!(judged(&[]), Mark::Doubtful);
        // The default exchange leads to every queue.
        let others = [binding("", stream), binding("feed", "audit")];
        assert_eq!(judged(&others), Mark::Doubtful);
        // A command that only asks mends nothing.
        let found = judge_bindings(&config, &[], &[]);
        assert!(found[0].cure[0].starts_with("systemctl start"), "{found:?}");
    }

    /// Of the exchange `feed`.
    fn journal() -> Config {
        let mut config = Config::default();
        config.journal.exchanges = ["feed".to_owned()].into();
        config
    }

    #[test]
    fn an_exchange_whose_journal_would_lack_messages_is_wrong() {
        let mut config = journal();
        let judged = |config: &Config, kind: &str| {
            let exchanges = [
                json!({"name": "other", "type": "fanout"}),
                json!({"name": "feed", "type": kind}),
            ];
            let found = judge_bindings(config, &exchanges, &[]).remove(0);
            (found.mark, found.text)
        };
        for kind in ["direct", "headers", "x-delayed-message"] {
            let (mark, text) = judged(&config, kind);
            assert_eq!(mark, Mark::Wrong, "{kind}");
            assert!(text.starts_with("exchange feed is "), "{text}");
            assert!(!text.contains("until a gateway runs"), "{text}");
        }
        for kind in ["topic", "fanout"] {
            assert_eq!(judged(&config, kind).0, Mark::Doubtful, "{kind}");
        }
        let direct = unsuited("broker.journal", "feed", ExchangeKind::Direct, &config).unwrap();
        assert!(direct.cure[0].contains("whole = [\"feed\"]"), "{direct:?}");
        config.feed.binding = crate::broker::Binding::All;
        config.feed.whole = vec!["feed".to_owned()];
        assert_eq!(judged(&config, "direct").0, Mark::Doubtful);
    }
}
