//! The questions to the hook, and their order.

use super::*;

async fn asked(house: &House, client: &mut Client, frame: &str) -> Vec<String> {
    house.hook.asked();
    let (command, rest) = frame.split_once('\n').unwrap();
    client.send(format!("{command}\nreceipt:r\n{rest}"));
    while client.next().await.unwrap().header("receipt-id") != Some("r") {}
    house.hook.asked()
}

/// The questions with the names that the gateway makes up left out.
fn plain(questions: Vec<String>) -> Vec<String> {
    let made_up = ["stomp-subscription-", "stomp-temp-"];
    let plain = |question: String| {
        let start = made_up.iter().find_map(|name| {
            let at = question.find(name)?;
            Some(format!("{}…", &question[..at + name.len()]))
        });
        start.unwrap_or(question)
    };
    questions.into_iter().map(plain).collect()
}

#[tokio::test(start_paused = true)]
async fn a_login_asks_for_the_user_and_the_virtual_host() {
    let house = House::new();
    let _client = Client::connect(&house).await;
    assert_eq!(house.hook.asked(), ["user alice", "vhost / from 127.0.0.1"]);
}

#[tokio::test(start_paused = true)]
async fn each_wish_asks_for_what_it_takes() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.publish("/queue/there", "x").await;
    let own = r#" queue "stomp-subscription-…"#;
    let temp = r#" queue "stomp-temp-…"#;
    let (configure, write, read) = (
        &format!("configure{own}")[..],
        &format!("write{own}")[..],
        &format!("read{own}")[..],
    );
    let (configure_temp, read_temp) = (&format!("configure{temp}")[..], &format!("read{temp}")[..]);
    let listen = [r#"read exchange "feed""#, r#"read topic "feed" "k""#];
    let default = r#"write exchange """#;
    for (frame, expected) in [
        (
            "SUBSCRIBE\nid:1\ndestination:/exchange/feed/k\n\n\0",
            &listen[..],
        ),
        (
            "SUBSCRIBE\nid:2\ndestination:/topic/a.*\n\n\0",
            &[
                r#"read exchange "amq.topic""#,
                r#"read topic "amq.topic" "a.*""#,
            ],
        ),
        (
            "SUBSCRIBE\nid:3\nack:client\ndestination:/exchange/feed/k\n\n\0",
            &[listen[0], listen[1], configure, write, read],
        ),
        (
            "SUBSCRIBE\nid:4\ndurable:true\nauto-delete:false\ndestination:/exchange/feed/k\n\n\0",
            &[listen[0], listen[1], configure, write, read],
        ),
        ("UNSUBSCRIBE\nid:4\ndurable:true\n\n\0", &[configure]),
        ("UNSUBSCRIBE\nid:3\n\n\0", &[]),
        (
            "SUBSCRIBE\nid:5\nx-queue-name:mine\ndestination:/exchange/feed/k\n\n\0",
            &[
                listen[0],
                listen[1],
                r#"configure queue "mine""#,
                r#"write queue "mine""#,
                r#"read queue "mine""#,
            ],
        ),
        (
            "SUBSCRIBE\nid:6\nx-dead-letter-exchange:dead\ndestination:/queue/q\n\n\0",
            &[
                r#"configure queue "q""#,
                r#"read queue "q""#,
                r#"write exchange "dead""#,
                r#"read queue "q""#,
            ],
        ),
        (
            "SUBSCRIBE\nid:9\nx-dead-letter-exchange:dead\nx-dead-letter-routing-key:k\n\
             destination:/queue/r\n\n\0",
            &[
                r#"configure queue "r""#,
                r#"read queue "r""#,
                r#"write exchange "dead""#,
                r#"write topic "dead" "k""#,
                r#"read queue "r""#,
            ],
        ),
        (
            "SUBSCRIBE\nid:7\ndestination:/queue/p\n\n\0",
            &[r#"configure queue "p""#, r#"read queue "p""#],
        ),
        (
            "SUBSCRIBE\nid:8\ndestination:/amq/queue/there\n\n\0",
            &[r#"read queue "there""#],
        ),
        (
            "SEND\ndestination:/exchange/feed/k\n\nx\0",
            &[r#"write exchange "feed""#, r#"write topic "feed" "k""#],
        ),
        (
            "SEND\ndestination:/topic/a.b\n\nx\0",
            &[
                r#"write exchange "amq.topic""#,
                r#"write topic "amq.topic" "a.b""#,
            ],
        ),
        (
            "SEND\ndestination:/queue/new\n\nx\0",
            &[
                r#"configure queue "new""#,
                default,
                r#"write topic "" "new""#,
            ],
        ),
        // It has been declared.
        (
            "SEND\ndestination:/queue/new\n\nx\0",
            &[default, r#"write topic "" "new""#],
        ),
        (
            "SEND\ndestination:/amq/queue/new\n\nx\0",
            &[default, r#"write topic "" "new""#],
        ),
        (
            "SEND\ndestination:/amq/queue/new\nreply-to:/temp-queue/a\n\nx\0",
            &[
                default,
                r#"write topic "" "new""#,
                configure_temp,
                read_temp,
            ],
        ),
        // The queue is there.
        (
            "SEND\ndestination:/amq/queue/new\nreply-to:/temp-queue/a\n\nx\0",
            &[default, r#"write topic "" "new""#],
        ),
    ] {
        let questions = asked(&house, &mut client, frame).await;
        assert_eq!(plain(questions), expected, "{frame}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_the_session_and_nothing_is_done() {
    for (denied, frame) in [
        (
            r#"read exchange "feed""#,
            "SUBSCRIBE\nid:1\ndestination:/exchange/feed/k\n\n\0",
        ),
        (
            r#"read topic "feed" "k""#,
            "SUBSCRIBE\nid:1\ndestination:/exchange/feed/k\n\n\0",
        ),
        (
            r#"configure queue "q""#,
            "SUBSCRIBE\nid:1\ndestination:/queue/q\n\n\0",
        ),
        (
            r#"read queue "q""#,
            "SUBSCRIBE\nid:1\ndestination:/amq/queue/q\n\n\0",
        ),
        (
            r#"configure queue "q""#,
            "SEND\ndestination:/queue/q\n\nx\0",
        ),
        (r#"write exchange """#, "SEND\ndestination:/queue/q\n\nx\0"),
        (
            r#"write topic "feed" "k""#,
            "SEND\ndestination:/exchange/feed/k\n\nx\0",
        ),
    ] {
        let house = House::new();
        house.hook.deny(denied);
        let mut client = Client::connect(&house).await;
        client.send(frame);
        let error = client.expect_error("access_refused").await;
        let body = String::from_utf8_lossy(&error.body);
        assert!(body.contains("refused for user 'alice'"), "{body}");
        assert!(!body.contains("log's business"), "{body}");
        assert_eq!(client.wire.closed_with(), Some(CloseCode::Policy));
        // The last question was the one that was denied.
        assert_eq!(house.hook.asked().last().unwrap(), denied);
        assert!(house.slow.declared().is_empty());
    }
}

/// Whatever the hook says: alice's durable subscription is found by nobody else's frame, and not
/// by another of her own.
#[tokio::test(start_paused = true)]
async fn a_durable_subscription_is_its_owner_s_alone() {
    const DURABLE: &str = "stomp-subscription-_yK_r_Qj7fVnZqSD06JQ88AjmHMAu5R4";
    let house = House::new();
    let durable = "durable:true\nauto-delete:false\n";
    let mut alice = Client::connect(&house).await;
    alice.subscribe("1", "/topic/a", durable).await;
    alice.send("DISCONNECT\nreceipt:bye\n\n\0");
    alice.expect_receipt("bye").await;
    let mut sender = Client::connect(&house).await;
    sender.publish("/topic/a", "kept").await;

    let settings = "ack:client-individual\ndurable:true\nauto-delete:false";
    for frame in [
        format!("SUBSCRIBE\nid:1\n{settings}\ndestination:/amq/queue/{DURABLE}\n\n\0"),
        format!("SUBSCRIBE\nid:1\n{settings}\ndestination:/queue/{DURABLE}\n\n\0"),
        format!("SUBSCRIBE\nid:1\n{settings}\nx-queue-name:{DURABLE}\ndestination:/topic/a\n\n\0"),
        format!("SUBSCRIBE\nid:1\n{settings}\nx-queue-name:{DURABLE}\ndestination:/topic/b\n\n\0"),
        format!("SEND\ndestination:/queue/{DURABLE}\n\nforged\0"),
        format!("SEND\ndestination:/amq/queue/{DURABLE}\n\nforged\0"),
        format!("SEND\ndestination:/reply-queue/{DURABLE}\n\nforged\0"),
        format!(
            "SEND\ndestination:/queue/q\nx-message-ttl:0\nx-dead-letter-exchange:\n\
             x-dead-letter-routing-key:{DURABLE}\n\nforged\0"
        ),
        "SUBSCRIBE\nid:1\nx-queue-name:stomp-temp-x\ndestination:/topic/a\n\n\0".to_owned(),
    ] {
        let mut bob = Client::new(&house);
        bob.send(CONNECT.replace("alice", "bob"));
        bob.expect(Command::Connected).await;
        bob.send(&frame);
        let error = bob.expect_error("access_refused").await;
        assert_eq!(
            error.header("error-code"),
            Some("permission-denied"),
            "{frame}"
        );
    }
    let mut bob = Client::new(&house);
    bob.send(CONNECT.replace("alice", "bob"));
    bob.expect(Command::Connected).await;
    bob.send("SEND\ndestination:/queue/q\nx-message-ttl:0\nx-dead-letter-exchange: \n\nforged\0");
    bob.expect_error("Invalid header").await;

    let mut alice = Client::connect(&house).await;
    alice.subscribe("1", "/topic/a", durable).await;
    alice.expect_message("kept").await;
    settle().await;
    alice.expect_nothing();
    // It goes with her word.
    alice.send("UNSUBSCRIBE\nid:1\ndurable:true\nreceipt:u\n\n\0");
    alice.expect_receipt("u").await;
}

#[tokio::test(start_paused = true)]
async fn of_a_transaction_with_something_refused_nothing_is_done() {
    let house = House::new();
    house.hook.deny(r#"write topic "feed" "secret""#);
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::connect(&house).await;
    client.send(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ndestination:/topic/a\ntransaction:t\n\n1\0\
         SEND\ndestination:/queue/q\ntransaction:t\n\n2\0\
         SEND\ndestination:/exchange/feed/secret\ntransaction:t\n\n3\0\
         COMMIT\ntransaction:t\n\n\0",
    );
    client.expect_error("access_refused").await;
    settle().await;
    reader.expect_nothing();
    assert!(house.slow.declared().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_login_that_is_refused() {
    for denied in ["user alice", "vhost / from 127.0.0.1"] {
        let house = House::new();
        house.hook.deny(denied);
        let mut client = Client::new(&house);
        client.send(CONNECT);
        client.expect_error("Bad CONNECT").await;
        assert_eq!(client.wire.max_frame_size(), None);
    }
}

/// The words are those of a refusal; the close code and `reconnect` say that nothing was refused.
#[tokio::test(start_paused = true)]
async fn a_hook_at_fault_sends_nobody_away_for_good() {
    for (question, message, frame) in [
        ("user alice", "Bad CONNECT", None),
        ("vhost / from 127.0.0.1", "Bad CONNECT", None),
        (
            r#"write topic "feed" "k""#,
            "access_refused",
            Some("SEND\ndestination:/exchange/feed/k\n\nx\0"),
        ),
        (
            r#"read queue "q""#,
            "access_refused",
            Some("SUBSCRIBE\nid:1\ndestination:/amq/queue/q\n\n\0"),
        ),
    ] {
        let mut texts = Vec::new();
        for is_fault in [false, true] {
            let house = House::new();
            if is_fault {
                house.hook.fail(question);
            } else {
                house.hook.deny(question);
            }
            let mut client = Client::new(&house);
            client.send(CONNECT);
            if let Some(frame) = frame {
                client.expect(Command::Connected).await;
                client.send(frame);
            }
            let error = client.expect_error(message).await;
            let comes_back = error.header("reconnect") == Some("5s");
            assert_eq!(comes_back, is_fault, "{error:?}");
            let code = client.wire.closed_with().unwrap();
            assert_eq!(code.should_reconnect(), is_fault, "{error:?}");
            texts.push(error.body);
        }
        assert_eq!(texts[0], texts[1]);
    }
}
