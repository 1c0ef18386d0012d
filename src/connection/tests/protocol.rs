//! A client's requests, and their effects.

use std::collections::HashSet;

use super::*;

#[tokio::test(start_paused = true)]
async fn a_client_logs_in_and_is_pushed_to() {
    let house = House::new();
    let mut client = Client::new(&house);
    client.send(CONNECT);
    let connected = client.expect(Command::Connected).await;
    assert_eq!(connected.header("version"), Some("1.2"));
    assert!(connected.header("session").is_some_and(|id| id.len() == 22));
    assert_eq!(
        client.wire.max_frame_size(),
        Some(Limits::default().max_frame_size)
    );
    client.subscribe("1", "/exchange/feed/user_1", "").await;
    house.publish("feed", "user_2", "for another");
    house.publish("feed", "user_1", "hello");
    let message = client.expect_message("hello").await;
    assert_eq!(message.header("subscription"), Some("1"));
    assert_eq!(message.header("destination"), Some("/exchange/feed/user_1"));
    client.send("UNSUBSCRIBE\nid:1\nreceipt:gone\n\n\0");
    client.expect_receipt("gone").await;
    house.publish("feed", "user_1", "too late");
    settle().await;
    client.expect_nothing();
}

const SESSION: &str = "CONNECT\naccept-version:1.2\nlogin:alice\npasscode:secret\n\n\0\n\
     SUBSCRIBE\nid:1\ndestination:/topic/a\nreceipt:1\n\n\0\n\
     SEND\ndestination:/topic/a\nreceipt:2\ncontent-length:5\n\nhel\0o\0";

async fn expect_session(client: &mut Client) {
    client.expect(Command::Connected).await;
    client.expect_receipt("1").await;
    // The message may be faster than the receipt for it.
    let (mut receipt, mut message) = (false, false);
    for _ in 0..2 {
        let frame = client.next().await.unwrap();
        receipt |= frame.header("receipt-id") == Some("2");
        message |= frame.body[..] == b"hel\0o"[..];
    }
    assert!(receipt && message);
}

#[tokio::test(start_paused = true)]
async fn frames_may_come_all_at_once() {
    let house = House::new();
    // Also while the hook thinks.
    house.hook.gate.close();
    let mut client = Client::new(&house);
    client.send(SESSION);
    settle().await;
    house.hook.gate.open();
    expect_session(&mut client).await;
}

#[tokio::test(start_paused = true)]
async fn frames_may_be_cut_anywhere() {
    let house = House::new();
    for cut in 1..SESSION.len() {
        let mut client = Client::new(&house);
        let (first, second) = SESSION.as_bytes().split_at(cut);
        client.send(first);
        settle().await;
        client.send(second);
        expect_session(&mut client).await;
    }
    let mut client = Client::new(&house);
    for byte in SESSION.as_bytes() {
        client.send([*byte]);
    }
    expect_session(&mut client).await;
}

/// The next client gets exactly the messages in the queue.
async fn expect_only(house: &House, queue: &str, bodies: &[&str]) -> Client {
    let mut client = Client::connect(house).await;
    let destination = format!("/queue/{queue}");
    client
        .subscribe("check", &destination, "ack:client\n")
        .await;
    let mut sender = Client::connect(house).await;
    sender.publish(&destination, "the last").await;
    for body in bodies {
        let message = client.expect_message(body).await;
        assert_eq!(message.header("redelivered"), Some("true"), "{body}");
    }
    let message = client.expect_message("the last").await;
    assert_eq!(message.header("redelivered"), Some("false"));
    client
}

#[tokio::test(start_paused = true)]
async fn what_an_auto_client_was_sent_is_done_with() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/work", "").await;
    for body in ["1", "2", "3"] {
        house.publish("", "work", body);
    }
    for body in ["1", "2", "3"] {
        client.expect_message(body).await;
    }
    client.wire.hang_up();
    client.expect_end().await;
    expect_only(&house, "work", &[]).await;
}

/// A queue's messages can come before the broker's word that the consumer is there.
#[tokio::test(start_paused = true)]
async fn what_came_before_the_receipt_is_done_with_too() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.publish("/queue/work", "early").await;
    house.slow.gate.close();
    client.send("SUBSCRIBE\nid:1\ndestination:/queue/work\nreceipt:r\n\n\0");
    client.expect_message("early").await;
    settle().await;
    house.slow.gate.open();
    client.expect_receipt("r").await;
    client.wire.hang_up();
    client.expect_end().await;
    expect_only(&house, "work", &[]).await;
}

/// Nor does an UNSUBSCRIBE on its heels give them back.
#[tokio::test(start_paused = true)]
async fn what_was_written_before_the_end_of_a_subscription_is_done_with() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.publish("/queue/work", "1").await;
    client.publish("/queue/work", "2").await;
    client.send("SUBSCRIBE\nid:1\ndestination:/queue/work\n\n\0UNSUBSCRIBE\nid:1\nreceipt:r\n\n\0");
    let mut got = Vec::new();
    loop {
        let frame = client.next().await.unwrap();
        if frame.command == Command::Receipt {
            break;
        }
        got.push(frame.body);
    }
    let mut next = Client::connect(&house).await;
    next.subscribe("1", "/queue/work", "").await;
    house.publish("", "work", "the last");
    let expected = ["1", "2", "the last"];
    for body in &expected[got.len()..] {
        next.expect_message(body).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_client_did_not_acknowledge_is_queued_again() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/work", "ack:client\n").await;
    for body in ["1", "2", "3"] {
        house.publish("", "work", body);
    }
    client.expect_message("1").await;
    let second = client.expect_message("2").await;
    client.expect_message("3").await;
    let ack = second.header("ack").unwrap();
    client.send(format!("ACK\nid:{ack}\nreceipt:acked\n\n\0"));
    client.expect_receipt("acked").await;
    client.send("DISCONNECT\nreceipt:bye\n\n\0");
    client.expect_receipt("bye").await;
    client.wire.hang_up();
    client.expect_end().await;
    expect_only(&house, "work", &["3"]).await;
}

/// A client that does not answer its close keeps nobody else waiting.
#[tokio::test(start_paused = true)]
async fn it_is_queued_again_before_the_client_has_closed() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.wire.be_deaf();
    client.subscribe("1", "/queue/work", "ack:client\n").await;
    house.publish("", "work", "1");
    client.expect_message("1").await;
    client.send("DISCONNECT\n\n\0");
    settle().await;
    assert_eq!(client.wire.closed_with(), Some(CloseCode::Normal));
    assert!(!client.task.is_finished());
    let start = Instant::now();
    expect_only(&house, "work", &["1"]).await;
    assert!(start.elapsed() < Duration::from_secs(1));
    client.expect_end().await;
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_done_or_not() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    for (id, end) in [("t1", "ABORT"), ("t2", "COMMIT")] {
        client.send(format!("BEGIN\ntransaction:{id}\n\n\0"));
        for number in [1, 2] {
            let body = format!("{id}.{number}");
            client.send(format!(
                "SEND\ndestination:/topic/a\ntransaction:{id}\n\n{body}\0"
            ));
        }
        settle().await;
        client.expect_nothing();
        client.send(format!("{end}\ntransaction:{id}\n\n\0"));
    }
    client.expect_message("t2.1").await;
    client.expect_message("t2.2").await;
    settle().await;
    client.expect_nothing();
}

#[tokio::test(start_paused = true)]
async fn a_reply_comes_to_a_temporary_queue() {
    let house = House::new();
    let mut server = Client::connect(&house).await;
    server.subscribe("1", "/queue/requests", "").await;
    let mut client = Client::connect(&house).await;
    for body in ["one", "two"] {
        client.send(format!(
            "SEND\ndestination:/queue/requests\nreply-to:/temp-queue/x\n\n{body}\0"
        ));
        let request = server.expect_message(body).await;
        let reply_to = request.header("reply-to").unwrap();
        assert!(reply_to.starts_with("/reply-queue/"), "{reply_to}");
        server.publish(reply_to, &format!("re: {body}")).await;
        let reply = client.expect_message(&format!("re: {body}")).await;
        assert_eq!(reply.header("subscription"), Some("/temp-queue/x"));
    }
}

/// Its client knows it by nothing else.
#[tokio::test(start_paused = true)]
async fn a_temporary_queue_is_called_what_its_client_wrote() {
    let house = House::new();
    let mut server = Client::connect(&house).await;
    server.subscribe("1", "/queue/requests", "").await;
    let mut client = Client::connect(&house).await;
    for name in ["r\u{e9}ponses", "100%", "a%20b"] {
        client.send(format!(
            "SEND\ndestination:/queue/requests\nreply-to:/temp-queue/{name}\n\nquestion\0"
        ));
        let request = server.expect_message("question").await;
        let reply_to = request.header("reply-to").unwrap();
        server.publish(reply_to, "answer").await;
        let reply = client.expect_message("answer").await;
        let expected = format!("/temp-queue/{name}");
        assert_eq!(reply.header("subscription"), Some(&*expected));
    }
}

/// As with the plug-in: it is the session's, not the frame's.
#[tokio::test(start_paused = true)]
async fn a_transaction_makes_a_temporary_queue_once() {
    let house = House::new();
    let mut server = Client::connect(&house).await;
    server.subscribe("1", "/queue/requests", "").await;
    let mut client = Client::connect(&house).await;
    client.send(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ndestination:/queue/requests\nreply-to:/temp-queue/x\ntransaction:t\n\none\0\
         SEND\ndestination:/queue/requests\nreply-to:/temp-queue/x\ntransaction:t\n\ntwo\0\
         COMMIT\ntransaction:t\n\n\0",
    );
    let mut queues = Vec::new();
    for body in ["one", "two"] {
        let request = server.expect_message(body).await;
        queues.push(request.header("reply-to").unwrap().to_owned());
    }
    assert_eq!(queues[0], queues[1]);
    for body in ["re: one", "re: two"] {
        server.publish(&queues[0], body).await;
        client.expect_message(body).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_is_declared_once() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    for _ in 0..3 {
        client.publish("/queue/a", "x").await;
    }
    client.publish("/queue/b", "x").await;
    client.send(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ndestination:/queue/c\ntransaction:t\n\n\0\
         SEND\ndestination:/queue/c\ntransaction:t\n\n\0\
         SEND\ndestination:/queue/a\ntransaction:t\n\n\0\
         COMMIT\ntransaction:t\nreceipt:r\n\n\0",
    );
    client.expect_receipt("r").await;
    assert_eq!(house.slow.declared(), ["a", "b", "c"].map(Box::<str>::from));
}

/// A request that is refused without a question to anybody is answered at once.
#[tokio::test(start_paused = true)]
async fn an_impossible_wish_is_refused_at_once() {
    for frame in [
        "SEND\ndestination:/nowhere/x\nreceipt:r\n\nx\0",
        "SEND\ndestination:/queue/a\nexpiration:soon\n\nx\0",
        "SEND\ndestination:/queue/a\nexclusive:true\n\nx\0",
    ] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        let start = Instant::now();
        // Nothing after it is done.
        client.send(format!("{frame}SEND\ndestination:/queue/late\n\nx\0"));
        client.expect(Command::Error).await;
        assert!(start.elapsed() < Duration::from_secs(1), "{frame}");
        client.expect_end().await;
        assert!(house.slow.declared().is_empty());
    }
}

/// Confirmations may come in any order; receipts do not.
#[tokio::test(start_paused = true)]
async fn a_receipt_follows_the_broker_s_word() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    house.slow.gate.close();
    client.send("SEND\ndestination:/topic/a\nreceipt:r1\n\n1\0");
    client.send("SEND\ndestination:/topic/a\nreceipt:r2\n\n2\0");
    client.send("BEGIN\ntransaction:t\nreceipt:r3\n\n\0");
    client.expect_message("1").await;
    client.expect_message("2").await;
    settle().await;
    client.expect_nothing();
    house.slow.gate.open();
    for id in ["r1", "r2", "r3"] {
        client.expect_receipt(id).await;
    }
}

#[tokio::test(start_paused = true)]
async fn heart_beats_are_sent_and_asked_for() {
    let house = House::new();
    let mut client = Client::new(&house);
    client.send(
        "CONNECT\naccept-version:1.2\nheart-beat:10000,10000\nlogin:alice\npasscode:secret\n\n\0",
    );
    let connected = client.expect(Command::Connected).await;
    assert_eq!(connected.header("heart-beat"), Some("10000,10000"));
    client.wire.calls();
    for _ in 0..6 {
        sleep(Duration::from_secs(10)).await;
        client.send("\n");
    }
    settle().await;
    client.expect_nothing();
    assert!((5..=7).contains(&client.beats), "{}", client.beats);
    let calls = client.wire.calls();
    assert!(calls < 100, "{calls} calls for a dozen heart-beats");
    // And then it is silent.
    let start = Instant::now();
    client.expect_error("heart-beat missed").await;
    let patience = start.elapsed().as_secs();
    assert!((19..=25).contains(&patience), "{patience} s");
    assert_eq!(client.wire.closed_with(), Some(CloseCode::TryAgainLater));
}

/// One wake-up for all, and each as early as promised.
#[tokio::test(start_paused = true)]
async fn heart_beats_of_many_connections_are_written_together() {
    let house = House::new();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = Client::new(&house);
        client.send(
            "CONNECT\naccept-version:1.2\nheart-beat:0,10000\nlogin:alice\npasscode:secret\n\n\0",
        );
        client.expect(Command::Connected).await;
        clients.push((client, Instant::now()));
        sleep(Duration::from_millis(17)).await;
    }
    for round in 0..20 {
        let beats = clients.iter_mut().map(async |(client, last)| {
            let beat = client.next_beat().await;
            let interval = beat - std::mem::replace(last, beat);
            assert!(interval <= Duration::from_secs(10), "{interval:?}");
            assert!(interval > Duration::from_millis(8750), "{interval:?}");
            beat
        });
        let beats = futures_util::future::join_all(beats).await;
        // Those before a stroke, and those after.
        let times: HashSet<_> = beats.into_iter().collect();
        assert!(times.len() <= 2, "{times:?} in round {round}");
    }
}

/// Rule 8: any byte counts, also one in the middle of a message that takes minutes to send.
#[tokio::test(start_paused = true)]
async fn a_client_half_way_through_a_message_counts_as_alive() {
    let house = House::new();
    let mut client = Client::new(&house);
    client.send(
        "CONNECT\naccept-version:1.2\nheart-beat:10000,0\nlogin:alice\npasscode:secret\n\n\0",
    );
    client.expect(Command::Connected).await;
    for _ in 0..12 {
        sleep(Duration::from_secs(10)).await;
        client.wire.part_comes();
    }
    client.expect_nothing();
    client.expect_error("heart-beat missed").await;
}

/// A connection that waits for nothing does nothing.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_rests() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.wire.calls();
    sleep(Duration::from_secs(24 * 3600)).await;
    let calls = client.wire.calls();
    assert!(calls < 20, "{calls} calls for nothing");
    house.publish("amq.topic", "a", "still there");
    client.expect_message("still there").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_log_in_is_told_to_go() {
    let house = House::new();
    let start = Instant::now();
    let mut client = Client::new(&house);
    client.send("\n\n");
    client.expect(Command::Error).await;
    client.expect_end().await;
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(house.services.registry.is_empty());
}
