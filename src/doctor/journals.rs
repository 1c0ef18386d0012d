//! Journals: whether their streams are there, as the configuration says, and whether messages come to
//! them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{
    ask::{ask, late},
    finding::Finding,
};
use crate::{
    broker::{
        BrokerError,
        amqp::inspect::{self, Examined, SeenJournal},
        journal::stream_of,
    },
    config::Config,
};

/// Asks for the streams.
pub(super) async fn examine(
    examined: &Examined,
    config: &Config,
    account: &str,
    vhost: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for exchange in &config.journal.exchanges {
        let (answer, time) = ask(examined.journal(exchange, &config.journal)).await;
        let answer = answer.unwrap_or_else(|| Err(BrokerError::Unavailable(late().into())));
        findings.push(judge(exchange, account, vhost, answer).took(time));
    }
    findings
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
    match answer {
        Ok(SeenJournal::Missing) => {
            let text = format!("journal {stream} is not there yet; the gateway makes it");
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
                    "or delete it, with the messages that it keeps: rabbitmqctl delete_queue -p \
                     '{vhost}' {stream}"
                ))
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

/// Judges what leads to the journals of a virtual host.
pub(super) fn judge_bindings(
    vhost: &str,
    exchanges: &BTreeSet<String>,
    bindings: &[Value],
) -> Vec<Finding> {
    let question = "management.journals";
    let of = |exchange: &String| {
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
            .cure(list_bindings(vhost)),
        }
    };
    exchanges.iter().map(of).collect()
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
        for answer in [Ok(SeenJournal::NotOurs), Err(refused())] {
            let found = judged(answer);
            assert_eq!(found.mark, Mark::Wrong);
            assert!(found.cure[0].contains("stentor.journal.feed"), "{found:?}");
        }
    }

    #[test]
    fn a_journal_to_which_nothing_leads_is_doubtful() {
        let binding = |source: &str, destination: &str| json!({"source": source, "destination": destination, "routing_key": "#"});
        let judged = |bindings: &[Value]| {
            let found = judge_bindings("/", &["feed".to_owned()].into(), bindings);
            found[0].mark
        };
        let stream = "stentor.journal.feed";
        assert_eq!(judged(&[binding("feed", stream)]), Mark::Right);
        assert_eq!(judged(&[binding("feed.all", stream)]), Mark::Right);
        assert_eq!(judged(&[]), Mark::Doubtful);
        // The default exchange leads to every queue.
        let others = [binding("", stream), binding("feed", "audit")];
        assert_eq!(judged(&others), Mark::Doubtful);
    }
}
