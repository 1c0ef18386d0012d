//! Confirmed delivery: messages that are written again until their client acknowledges them.

use stomp_grammar::Frame;

use super::*;
use crate::hub::MailboxConfig;

const LASTING: &str = "ack:client-individual\nredeliver:1500,1500,3000\n";

fn header(frame: &Frame, name: &str) -> String {
    frame.header(name).unwrap_or("-").to_owned()
}

async fn ack(client: &mut Client, message: &Frame) {
    let id = header(message, "ack");
    client.send(format!("ACK\nid:{id}\nreceipt:ack\n\n\0"));
    client.expect_receipt("ack").await;
}

async fn leave(client: &mut Client) {
    client.send("DISCONNECT\nreceipt:d\n\n\0");
    client.expect_receipt("d").await;
    client.wire.hang_up();
    client.expect_end().await;
}

/// What is left of a queue, from the outside.
async fn left(house: &House) -> Vec<String> {
    let mut other = Client::connect(house).await;
    other.subscribe("1", "/queue/q", "").await;
    settle().await;
    other.send("SEND\ndestination:/queue/q\n\nlast\0");
    let mut bodies = Vec::new();
    loop {
        let message = other.expect(Command::Message).await;
        let body = String::from_utf8(message.body.to_vec()).unwrap();
        if body == "last" {
            return bodies;
        }
        bodies.push(body);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_comes_until_it_is_acknowledged() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/q", LASTING).await;
    house.publish("", "q", "hello");
    let first = client.expect_message("hello").await;
    let began = Instant::now();
    assert_eq!(header(&first, "redelivered"), "false");
    let mut last = first.clone();
    for (attempt, at) in [("2", 1500), ("3", 3000), ("4", 6000)] {
        last = client.expect_message("hello").await;
        let after = began.elapsed().as_millis();
        assert!((at - 51..=at).contains(&after), "{attempt}: {after}");
        assert_eq!(header(&last, "attempt"), attempt);
        assert_eq!(header(&last, "redelivered"), "true");
        assert_eq!(header(&last, "ack"), header(&first, "ack"));
        assert_eq!(last.header("destination"), first.header("destination"));
    }
    ack(&mut client, &last).await;
    // Once more, for the client got it four times.
    ack(&mut client, &first).await;
    sleep(Duration::from_secs(60)).await;
    client.expect_nothing();
    leave(&mut client).await;
    assert_eq!(left(&house).await, Vec::<String>::new());
}

/// Three more rounds, and then the queue is rid of it, so that it goes on for ever nowhere.
#[tokio::test(start_paused = true)]
async fn a_message_that_nobody_acknowledges_has_an_end() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let headers = "ack:client-individual\nredeliver:1000\n";
    client.subscribe("1", "/queue/q", headers).await;
    house.publish("", "q", "poison");
    house.publish("", "q", "good");
    let mut names = Vec::new();
    for _round in 0..4 {
        let first = client.expect_message("poison").await;
        if names.is_empty() {
            let good = client.expect_message("good").await;
            ack(&mut client, &good).await;
        } else {
            assert_eq!(header(&first, "redelivered"), "true");
        }
        assert_eq!(header(&first, "attempt"), "-");
        let second = client.expect_message("poison").await;
        assert_eq!(header(&second, "attempt"), "2");
        names.push(header(&first, "message-id"));
    }
    names.dedup();
    assert_eq!(names.len(), 4);
    sleep(Duration::from_secs(60)).await;
    client.expect_nothing();
    // The same text again is counted as the same message, and so has had its rounds.
    house.publish("", "q", "other");
    client.expect_message("other").await;
    leave(&mut client).await;
    assert_eq!(left(&house).await, ["other"]);
}

#[tokio::test(start_paused = true)]
async fn at_the_end_it_is_dropped_or_kept_for_the_next_login() {
    for (then, expected) in [("drop", &[][..]), ("later", &["hello"])] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        let headers = format!("ack:client-individual\nredeliver:1000\nredeliver-then:{then}\n");
        client.subscribe("1", "/queue/q", &headers).await;
        house.publish("", "q", "hello");
        for _ in 0..2 {
            client.expect_message("hello").await;
        }
        sleep(Duration::from_secs(60)).await;
        client.expect_nothing();
        assert_eq!(house.bytes_held(), 0, "{then}");
        leave(&mut client).await;
        assert_eq!(left(&house).await, expected, "{then}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_ends_with_the_session_keeps_nothing_for_later() {
    for (destination, headers, at_fault) in [
        ("/topic/t", "redeliver-then:later\n", "redeliver-then"),
        (
            "/topic/t",
            "durable:true\nredeliver-then:later\n",
            "redeliver-then",
        ),
        (
            "/queue/q",
            "durable:false\nredeliver-then:later\n",
            "redeliver-then",
        ),
        (
            "/queue/q",
            "exclusive:true\nredeliver-then:later\n",
            "redeliver-then",
        ),
        ("/queue/q", "x-queue-type:stream\n", "redeliver"),
    ] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.send(format!(
            "SUBSCRIBE\nid:1\ndestination:{destination}\n{LASTING}{headers}\n\0"
        ));
        let error = client.expect_error("Invalid header").await;
        let text = String::from_utf8(error.body.to_vec()).unwrap();
        assert!(
            text.contains(&format!("\"{at_fault}\"")),
            "{headers}: {text}"
        );
    }
    for (destination, headers) in [
        ("/topic/t", "durable:true\nauto-delete:false\n"),
        ("/queue/q", ""),
        ("/amq/queue/q", ""),
    ] {
        let house = House::new();
        let mut client = Client::connect(&house).await;
        client.publish("/queue/q", "x").await;
        let headers = format!("{LASTING}redeliver-then:later\n{headers}");
        client.subscribe("1", destination, &headers).await;
    }
}

/// The messages that are with a client count like those that wait for it.
#[tokio::test(start_paused = true)]
async fn what_a_client_leaves_unacknowledged_is_bounded_in_bytes() {
    const MOST: usize = 100_000;
    let house = House::with(Options {
        mailbox: MailboxConfig {
            max_bytes: MOST,
            ..MailboxConfig::default()
        },
        ..Options::default()
    });
    let mut client = Client::connect(&house).await;
    let headers = "ack:client-individual\nredeliver:3600000\n";
    client.subscribe("1", "/queue/q", headers).await;
    let filling = "x".repeat(20_000);
    for number in 0..20 {
        house.publish("", "q", &format!("{number} {filling}"));
    }
    sleep(Duration::from_secs(1)).await;
    let mut all = Vec::new();
    while all.len() < 20 {
        assert!(house.bytes_held() <= MOST, "{}", house.bytes_held());
        let message = client.expect(Command::Message).await;
        let body = String::from_utf8(message.body.to_vec()).unwrap();
        all.push(body.split(' ').next().unwrap().to_owned());
        client.send(format!("ACK\nid:{}\n\n\0", header(&message, "ack")));
    }
    let expected: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(all, expected);
    sleep(Duration::from_secs(60)).await;
    client.expect_nothing();
    assert_eq!(house.bytes_held(), 0);
}

/// It gets each message once when it reads on, however many times were due meanwhile.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_again_to_a_client_that_does_not_read() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    let headers = "ack:client-individual\nredeliver:1000,1000,1000,1000,1000\n";
    client.subscribe("1", "/queue/q", headers).await;
    let body = "x".repeat(40_000);
    for _ in 0..4 {
        house.publish("", "q", &body);
        client.expect(Command::Message).await;
    }
    client.wire.set_room(0);
    client.wire.calls();
    sleep(Duration::from_secs(20)).await;
    let calls = client.wire.calls();
    assert!(calls < 60, "{calls} calls while nothing could be written");
    client.wire.set_room(usize::MAX);
    let mut attempts = Vec::new();
    for _ in 0..4 {
        let message = client.expect(Command::Message).await;
        attempts.push(header(&message, "attempt"));
    }
    assert_eq!(attempts, ["2"; 4]);
}

#[tokio::test(start_paused = true)]
async fn after_unsubscribe_another_consumer_gets_it() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/q", LASTING).await;
    house.publish("", "q", "hello");
    let message = client.expect_message("hello").await;
    client.send("UNSUBSCRIBE\nid:1\nreceipt:u\n\n\0");
    client.expect_receipt("u").await;
    assert_eq!(house.bytes_held(), 0);
    sleep(Duration::from_secs(60)).await;
    client.expect_nothing();
    // It may be acknowledged still.
    ack(&mut client, &message).await;
    assert_eq!(left(&house).await, Vec::<String>::new());
}
