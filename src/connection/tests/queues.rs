//! Queues of a connection's own: it knows how it declared them, whatever frame comes next.

use std::collections::HashSet;

use super::*;

/// Headers of a SUBSCRIBE about its queue.
const HEADERS: [&str; 7] = [
    "auto-delete:true\n",
    "durable:false\n",
    "durable:false\nauto-delete:false\n",
    "exclusive:true\n",
    "durable:false\nauto-delete:true\nexclusive:true\n",
    "x-message-ttl:60000\n",
    "x-max-length:5\nx-queue-type:classic\n",
];

#[tokio::test(start_paused = true)]
async fn a_client_sends_to_the_queue_that_it_subscribed_to() {
    for headers in HEADERS {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.subscribe("1", "/queue/q", headers).await;
        client.send("SEND\ndestination:/queue/q\n\nplain\0");
        client.expect_message("plain").await;
        // As RabbitMQ's documents advise: the same headers on SEND.
        client.send(format!("SEND\ndestination:/queue/q\n{headers}\nthe same\0"));
        client.expect_message("the same").await;
        client.send(
            "BEGIN\ntransaction:t\n\n\0\
             SEND\ndestination:/queue/q\ntransaction:t\n\nwithin\0\
             COMMIT\ntransaction:t\n\n\0",
        );
        client.expect_message("within").await;
        assert!(house.slow.declared().is_empty(), "{headers}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_subscribes_to_the_queue_that_it_sent_to() {
    for headers in HEADERS {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.publish("/queue/q", "waits").await;
        client.subscribe("1", "/queue/q", headers).await;
        client.expect_message("waits").await;
        client.subscribe("2", "/queue/q", "x-max-length:7\n").await;
    }
}

/// Another connection's declaration is held against what is there, as ever.
#[tokio::test(start_paused = true)]
async fn a_declaration_of_one_connection_is_not_another_s() {
    for (headers, problem) in [
        ("auto-delete:true\n", "precondition_failed"),
        ("exclusive:true\n", "resource_locked"),
    ] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.subscribe("1", "/queue/q", headers).await;
        for frame in [
            "SEND\ndestination:/queue/q",
            "SUBSCRIBE\nid:1\ndestination:/queue/q",
        ] {
            let mut other = Client::connect(&house).await;
            other.send(format!("{frame}\n\n\0"));
            other.expect_error(problem).await;
        }
        client.send("SEND\ndestination:/queue/q\n\nstill\0");
        client.expect_message("still").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_has_all_subscriptions_of_its_connection() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/q", "exclusive:true\n").await;
    client.subscribe("2", "/queue/q", "exclusive:true\n").await;
    client.subscribe("3", "/amq/queue/q", "").await;
    for destination in ["/queue/q", "/amq/queue/q"] {
        let mut other = Client::connect(&house).await;
        other.send(format!(
            "SUBSCRIBE\nid:1\nexclusive:true\ndestination:{destination}\n\n\0"
        ));
        other.expect_error("resource_locked").await;
    }
    let mut subscriptions = HashSet::new();
    for body in ["1", "2", "3"] {
        client.send(format!("SEND\ndestination:/queue/q\n\n{body}\0"));
        let message = client.expect_message(body).await;
        subscriptions.insert(message.header("subscription").unwrap().to_owned());
    }
    assert_eq!(subscriptions.len(), 3);
    for id in ["1", "2", "3"] {
        client.send(format!("UNSUBSCRIBE\nid:{id}\nreceipt:u{id}\n\n\0"));
        client.expect_receipt(&format!("u{id}")).await;
    }
    // It went with them, and is anybody's now.
    let mut other = Client::connect(&house).await;
    other.subscribe("1", "/queue/q", "exclusive:true\n").await;
}

/// Its name is random. If it stayed, it would fill, and then stop all who publish to its key.
#[tokio::test(start_paused = true)]
async fn a_queue_without_a_name_goes_with_its_client() {
    const MANDATORY: &str = "SEND\ndestination:/topic/a\nmandatory:true\nreceipt:s\n\nx\0";
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let headers = "auto-delete:false\n";
    client.subscribe("1", "/topic/a", headers).await;
    let mut other = Client::connect(&house).await;
    other.send(MANDATORY);
    other.expect_receipt("s").await;
    client.expect_message("x").await;
    client.send("DISCONNECT\n\n\0");
    client.expect_end().await;
    settle().await;
    other.send(MANDATORY);
    other.expect_error("message not published").await;
}

/// The message is not lost: the queue is made once more, as it was.
#[tokio::test(start_paused = true)]
async fn a_queue_that_went_with_its_subscription_is_declared_as_it_was() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let headers = "auto-delete:true\nx-max-length:5\n";
    for round in ["1", "2"] {
        client.subscribe("1", "/queue/q", headers).await;
        client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
        client.expect_receipt("u").await;
        for _ in 0..2 {
            client.publish("/queue/q", round).await;
            assert_eq!(house.slow.declared(), [Box::<str>::from("q")]);
        }
        client.subscribe("1", "/queue/q", "").await;
        client.expect_message(round).await;
        client.expect_message(round).await;
        client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
        client.expect_receipt("u").await;
    }
}

/// The last consumer may be another connection's, of which the sender hears nothing.
#[tokio::test(start_paused = true)]
async fn a_queue_that_went_with_another_s_subscription_is_declared_again() {
    let house = House::new();
    let mut taker = Client::connect(&house).await;
    let mut sender = Client::connect(&house).await;
    let headers = "auto-delete:true\n";
    taker.subscribe("1", "/queue/q", headers).await;
    let send = format!("SEND\ndestination:/queue/q\n{headers}receipt:s\n\n");
    sender.send(format!("{send}first\0"));
    sender.expect_receipt("s").await;
    taker.expect_message("first").await;
    taker.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    taker.expect_receipt("u").await;
    sender.send(format!("{send}second\0"));
    sender.expect_receipt("s").await;
    taker.subscribe("1", "/queue/q", headers).await;
    taker.expect_message("second").await;
}

/// It asked for its headers to be on a queue of that name; an exclusive one cannot be made by SEND.
#[tokio::test(start_paused = true)]
async fn a_send_declares_no_exclusive_queue() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/q", "exclusive:true\n").await;
    client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    client.send("SEND\ndestination:/queue/q\nexclusive:true\n\n\0");
    client.expect_error("Invalid header").await;
}

/// rx-stomp's RPC with a queue of its own for replies.
#[tokio::test(start_paused = true)]
async fn a_client_that_serves_itself_answers_to_its_exclusive_queue() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("server", "/topic/echo", "").await;
    let headers = "durable:false\nauto-delete:true\nexclusive:true\n";
    client
        .subscribe("replies", "/queue/replies-x", headers)
        .await;
    for body in ["one", "two"] {
        client.send(format!(
            "SEND\ndestination:/topic/echo\nreply-to:/queue/replies-x\ncorrelation-id:c\n\n{body}\0"
        ));
        let request = client.expect_message(body).await;
        let reply_to = request.header("reply-to").unwrap().to_owned();
        assert_eq!(reply_to, "/queue/replies-x");
        client.send(format!(
            "SEND\ndestination:{reply_to}\ncorrelation-id:c\n\nre: {body}\0"
        ));
        let reply = client.expect_message(&format!("re: {body}")).await;
        assert_eq!(reply.header("correlation-id"), Some("c"));
    }
}

/// Messages that are not acknowledged by then are queued again, as ever.
#[tokio::test(start_paused = true)]
async fn messages_can_be_acknowledged_after_unsubscribe() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client
        .subscribe("1", "/queue/work", "ack:client-individual\n")
        .await;
    for body in ["1", "2", "3"] {
        house.publish("", "work", body);
    }
    let mut acks = Vec::new();
    for body in ["1", "2", "3"] {
        let message = client.expect_message(body).await;
        acks.push(message.header("ack").unwrap().to_owned());
    }
    client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    house.publish("", "work", "4");
    client.send(format!("ACK\nid:{}\nreceipt:a\n\n\0", acks[0]));
    client.expect_receipt("a").await;
    // No other client gets what is with this one.
    let mut other = Client::connect(&house).await;
    other.subscribe("1", "/queue/work", "ack:client\n").await;
    other.expect_message("4").await;
    client.send(format!("NACK\nid:{}\nreceipt:n\n\n\0", acks[2]));
    client.expect_receipt("n").await;
    other.expect_message("3").await;
    client.send("DISCONNECT\n\n\0");
    client.expect_end().await;
    other.expect_message("2").await;
    settle().await;
    other.expect_nothing();
}

/// Messages that are on their way to the client are no longer, and nobody waits for them.
#[tokio::test(start_paused = true)]
async fn messages_that_were_not_seen_at_unsubscribe_are_queued_again() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/work", "ack:client\n").await;
    house.publish("", "work", "1");
    let first = client.expect_message("1").await;
    // It reads nothing more.
    client.wire.set_room(0);
    for body in ["2", "3"] {
        house.publish("", "work", body);
    }
    client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    settle().await;
    client.wire.set_room(usize::MAX);
    while client
        .next()
        .await
        .is_some_and(|frame| frame.command != Command::Receipt)
    {}
    let ack = first.header("ack").unwrap();
    client.send(format!("ACK\nid:{ack}\nreceipt:a\n\n\0"));
    client.expect_receipt("a").await;
    client.send("DISCONNECT\n\n\0");
    client.expect_end().await;
    let mut other = Client::connect(&house).await;
    other.subscribe("1", "/queue/work", "").await;
    for body in ["2", "3"] {
        other.expect_message(body).await;
    }
}
