//! The queues of `[offline]`: whether those that are there are as the configuration says.

use super::{ask::timed, finding::Finding};
use crate::{
    broker::{
        BrokerError,
        amqp::inspect::{Examined, SeenQueue},
        delete_offline, offline_of,
    },
    config::Config,
};

/// Asks for the queue of each source. They are in the default virtual host alone.
pub(super) async fn examine(examined: &Examined, config: &Config, vhost: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if vhost != config.broker.default_vhost {
        return findings;
    }
    for source in &config.offline.sources {
        let queue = config.offline.queue(source);
        let (seen, time) = timed(examined.queue(&queue)).await;
        findings.push(judge(source, vhost, seen).took(time));
    }
    findings
}

fn judge(source: &str, vhost: &str, seen: Result<SeenQueue, BrokerError>) -> Finding {
    let (question, queue) = ("broker.offline", offline_of(source));
    match seen {
        Ok(SeenQueue::Missing) => {
            let text = format!("queue {queue} is not there yet; the gateway makes it");
            Finding::right(question, text)
        }
        Ok(SeenQueue::Right) => {
            Finding::right(question, format!("queue {queue} is as [offline] says"))
        }
        Ok(SeenQueue::Differs(told)) => {
            let text = format!(
                "queue {queue} was made otherwise than [offline] says now, so messages for those who \
                 are away wait in it, and no gateway with this configuration hands them on: {told}"
            );
            let found = Finding::wrong(question, text);
            let found = match told.contains("x-max-length-bytes") {
                true => found.cure(
                    "[offline] max_bytes = \"FORMER\"   (until a gateway has emptied the queue; then \
                     this, and the new value:)",
                ),
                false => found,
            };
            found.cure(delete_offline(vhost, source))
        }
        Err(error) => Finding::wrong(question, format!("queue {queue}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Mark;

    #[test]
    fn a_queue_that_was_made_otherwise_is_wrong() {
        let judged = |seen| judge("feed", "/", seen);
        assert_eq!(judged(Ok(SeenQueue::Missing)).mark, Mark::Right);
        assert_eq!(judged(Ok(SeenQueue::Right)).mark, Mark::Right);
        let refused = Err(BrokerError::AccessRefused("no".into()));
        assert_eq!(judged(refused).mark, Mark::Wrong);
        let delete = "rabbitmqctl delete_queue -p '/' --if-empty stentor.feed.offline.feed";
        for (argument, cures) in [("x-max-length-bytes", 2), ("x-overflow", 1)] {
            let told = format!("PRECONDITION_FAILED - inequivalent arg '{argument}'");
            let found = judged(Ok(SeenQueue::Differs(told.into())));
            assert_eq!(found.mark, Mark::Wrong);
            assert!(found.text.contains(argument), "{found:?}");
            // Another value of max_bytes mends nothing else.
            assert_eq!(found.cure.len(), cures, "{found:?}");
            assert_eq!(found.cure.last().unwrap(), delete);
        }
    }
}
