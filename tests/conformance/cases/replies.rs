//! Requests and replies: `/temp-queue` in `reply-to`, and `/reply-queue`.

use lapin::{BasicProperties, types::FieldTable};

use crate::case::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("between two clients", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            a.ask("SEND\nreply-to:/temp-queue/answers\ncorrelation-id:c-1\ndestination:/queue/~work\n\nquestion").await;
            let reply_to = b.header_of_message("reply-to").await;
            b.ask(format!("SEND\ncorrelation-id:c-1\ndestination:{reply_to}\n\nanswer")).await;
            a.hear(1).await;
            a.end().await;
        }),
        case("one temporary queue for many requests", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            for _ in 0..2 {
                a.ask("SEND\nreply-to:/temp-queue/answers\ndestination:/queue/~work\n\nquestion").await;
            }
            let first = b.header_of_message("reply-to").await;
            let second = b.header_of_message("reply-to").await;
            t.saw(if first == second { "the same queue" } else { "two queues" });
        }),
        case("two temporary queues", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            a.ask("SEND\nreply-to:/temp-queue/x\ndestination:/queue/~work\n\none").await;
            a.ask("SEND\nreply-to:/temp-queue/y\ndestination:/queue/~work\n\ntwo").await;
            let first = b.header_of_message("reply-to").await;
            let second = b.header_of_message("reply-to").await;
            b.ask(format!("SEND\ndestination:{second}\n\nanswer to two")).await;
            a.hear(1).await;
            b.ask(format!("SEND\ndestination:{first}\n\nanswer to one")).await;
            a.hear(1).await;
        }),
        case("temporary queues of names beyond ASCII", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            for name in ["r\u{e9}ponses", "100%", "a%20b"] {
                a.ask(format!("SEND\nreply-to:/temp-queue/{name}\ndestination:/queue/~work\n\nquestion")).await;
                let reply_to = b.header_of_message("reply-to").await;
                b.ask(format!("SEND\ndestination:{reply_to}\n\nanswer")).await;
                a.hear(1).await;
            }
        }),
        case("the same name at two clients", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            let mut c = t.client().await;
            c.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            a.ask("SEND\nreply-to:/temp-queue/x\ndestination:/queue/~work\n\nof a").await;
            let to_a = c.header_of_message("reply-to").await;
            b.ask("SEND\nreply-to:/temp-queue/x\ndestination:/queue/~work\n\nof b").await;
            let to_b = c.header_of_message("reply-to").await;
            c.ask(format!("SEND\ndestination:{to_b}\n\nto b")).await;
            c.ask(format!("SEND\ndestination:{to_a}\n\nto a")).await;
            a.hear(1).await;
            b.hear(1).await;
        }),
        case("a worker by AMQP", async |t| {
            let backend = t.amqp().await;
            backend.queue("~work", FieldTable::default()).await;
            let mut a = t.client().await;
            a.ask("SEND\nreply-to:/temp-queue/answers\ncorrelation-id:c-1\ndestination:/amq/queue/~work\n\nquestion").await;
            let question = backend.get("~work").await;
            let reply_to = question.reply_to().clone().expect("the property");
            let correlation = question.correlation_id().clone().expect("the property");
            let properties = BasicProperties::default().with_correlation_id(correlation);
            backend.publish_with("", reply_to.as_str(), "answer", properties).await;
            a.hear(1).await;
            a.end().await;
        })
        .with_backend(),
        case("a request by AMQP", async |t| {
            let backend = t.amqp().await;
            backend.queue("~answers", FieldTable::default()).await;
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            let properties = BasicProperties::default()
                .with_correlation_id("c-1".into())
                .with_reply_to(t.real("~answers").as_str().into());
            backend.publish_with("", "~work", "question", properties).await;
            let reply_to = a.header_of_message("reply-to").await;
            a.ask(format!("SEND\ncorrelation-id:c-1\ndestination:{reply_to}\n\nanswer")).await;
            backend.get("~answers").await;
        })
        .with_backend(),
        case("reply-to of a queue", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask("SEND\nreply-to:/queue/~answers\ndestination:/queue/~q\n\nx").await;
            a.hear(1).await;
        }),
        case("reply-to of a topic", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask("SEND\nreply-to:/topic/~answers\ndestination:/queue/~q\n\nx").await;
            a.hear(1).await;
        }),
        case("reply-to of a bare name", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            a.ask("SEND\nreply-to:~answers\ndestination:/queue/~q\n\nx").await;
            a.hear(1).await;
        }),
        case("reply-to of an unknown kind", async |t| {
            let mut a = t.client().await;
            a.ask("SEND\nreply-to:/foo/bar\ndestination:/queue/~q\n\nx").await;
            a.end().await;
        })
        .differs(&["E9"]),
        case("UNSUBSCRIBE from a temporary queue", async |t| {
            let mut a = t.client().await;
            a.ask("SEND\nreply-to:/temp-queue/x\ndestination:/queue/~q\n\nx").await;
            a.ask("UNSUBSCRIBE\nid:/temp-queue/x").await;
            a.end().await;
        }),
        case("a reply to who has left", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            a.ask("SEND\nreply-to:/temp-queue/x\ndestination:/queue/~work\n\nquestion").await;
            let reply_to = b.header_of_message("reply-to").await;
            a.leave().await;
            // While the queue goes, RabbitMQ 4.3 may refuse the answer: row V4.
            let queue = reply_to.trim_start_matches("/reply-queue/");
            t.amqp().await.until_gone(queue).await;
            b.ask(format!("SEND\ndestination:{reply_to}\n\nanswer")).await;
            b.end().await;
        })
        .with_backend(),
        case("reply-to of a temporary queue within a transaction", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~work").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\nreply-to:/temp-queue/x\ndestination:/queue/~work\n\nquestion").await;
            a.ask("COMMIT\ntransaction:t").await;
            let reply_to = b.header_of_message("reply-to").await;
            b.ask(format!("SEND\ndestination:{reply_to}\n\nanswer")).await;
            a.hear(1).await;
        }),
    ]
}
