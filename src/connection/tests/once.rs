//! Numbered SENDs, and those with a key.

use super::*;
use crate::messaging::{Config, MemorySequences};

fn house() -> House {
    House::with(Options {
        sequences: Some(Arc::new(MemorySequences::new(Config::default()))),
        ..Options::default()
    })
}

/// A client whose CONNECT has `more`; and CONNECTED.
async fn connect(house: &House, more: &str) -> (Client, String) {
    let mut client = Client::new(house);
    client.send(opening(more));
    let answer = text(&mut client).await;
    (client, answer)
}

fn opening(more: &str) -> String {
    let more = lines(more);
    format!("CONNECT\naccept-version:1.2\nlogin:alice\npasscode:x\n{more}\n\0")
}

/// Headers, each with its line's end.
fn lines(headers: &str) -> String {
    headers.lines().map(|line| format!("{line}\n")).collect()
}

/// The next frame.
async fn text(client: &mut Client) -> String {
    let frame = client.next().await.expect("a frame, and not the end");
    let mut text = format!("{}\n", frame.command);
    for (name, value) in frame.headers.iter() {
        text += &format!("{name}:{value}\n");
    }
    text + &String::from_utf8_lossy(&frame.body)
}

fn send(more: &str) -> String {
    let more = lines(more);
    format!("SEND\ndestination:/exchange/feed/k\nreceipt:r\n{more}\nx\0")
}

#[tokio::test(start_paused = true)]
async fn a_repeat_gets_its_receipt_and_is_not_published() {
    let house = house();
    let mut listener = Client::connect(&house).await;
    listener.subscribe("1", "/exchange/feed/k", "").await;
    let opening = "device-id:phone\nclient-seq:0";
    let (mut client, connected) = connect(&house, opening).await;
    assert!(connected.contains("\nlast-client-seq:0\n"), "{connected}");
    for _ in 0..2 {
        client.send(send("client-seq:1"));
        client.expect_receipt("r").await;
    }
    let message = text(&mut listener).await;
    assert!(
        message.contains("\namqp-message-id:seq/alice/phone/1\n"),
        "{message}"
    );
    assert!(!message.contains("client-seq"), "{message}");
    settle().await;
    listener.expect_nothing();
    drop(client);
    // Another connection goes on where this one was.
    let (mut client, connected) = connect(&house, opening).await;
    assert!(connected.contains("\nlast-client-seq:1\n"), "{connected}");
    client.send(send("client-seq:1") + &send("client-seq:2"));
    client.expect_receipt("r").await;
    client.expect_receipt("r").await;
    let message = text(&mut listener).await;
    assert!(
        message.contains("\namqp-message-id:seq/alice/phone/2\n"),
        "{message}"
    );
    assert!(!message.contains("x-possible-duplicate"), "{message}");
    client.send(send("client-seq:4"));
    let error = text(&mut client).await;
    assert!(error.contains("message:sequence gap"), "{error}");
    assert!(error.contains("3 was expected"), "{error}");
}

/// The client hears its own messages: no repeat of one may wait for what does not come.
#[tokio::test(start_paused = true)]
async fn a_repeat_waits_for_no_echo() {
    let house = house();
    let (mut client, _) = connect(&house, "device-id:phone\nclient-seq:0").await;
    client.subscribe("1", "/exchange/feed/k", "").await;
    client.send(send("client-seq:1"));
    client.expect_message("x").await;
    client.expect_receipt("r").await;
    let begun = Instant::now();
    client.send(send("client-seq:1"));
    client.expect_receipt("r").await;
    assert!(begun.elapsed() < Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn a_key_is_published_once() {
    let house = house();
    let mut listener = Client::connect(&house).await;
    listener.subscribe("1", "/exchange/feed/k", "").await;
    for _ in 0..2 {
        let (mut client, _) = connect(&house, "").await;
        client.send(send("idempotency-key:order 7"));
        // Each time the client learns that its key counts.
        let receipt = text(&mut client).await;
        assert!(receipt.starts_with("RECEIPT\n"), "{receipt}");
        let has_key = receipt.contains("\nidempotency-key:order 7\n");
        assert!(has_key, "{receipt}");
    }
    let message = text(&mut listener).await;
    assert!(
        message.contains("\namqp-message-id:key/alice/order%207\n"),
        "{message}"
    );
    settle().await;
    listener.expect_nothing();
}

/// After a denial the session may go on: the number is free for another message.
#[tokio::test(start_paused = true)]
async fn a_refused_message_uses_no_number() {
    let mut options = Options {
        sequences: Some(Arc::new(MemorySequences::new(Config::default()))),
        ..Options::default()
    };
    options.auth.soft_deny = true;
    let house = House::with(options);
    house.hook.deny("write exchange \"secret\"");
    let (mut client, _) = connect(&house, "device-id:phone\nclient-seq:0").await;
    client.send("SEND\ndestination:/exchange/secret/k\nclient-seq:1\n\nx\0");
    let error = text(&mut client).await;
    assert!(error.contains("access_refused"), "{error}");
    client.send(send("client-seq:1"));
    client.expect_receipt("r").await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused() {
    let house = house();
    let opened = "device-id:phone\nclient-seq:0";
    for (opening, refused, told) in [
        (opened, "client-seq:0", "client-seq"),
        (opened, "client-seq:-1", "client-seq"),
        (opened, "client-seq:+1", "client-seq"),
        (opened, "client-seq:one", "client-seq"),
        (opened, "client-seq:", "client-seq"),
        (opened, "client-seq:9007199254740992", "client-seq"),
        (opened, "client-seq:99999999999999999999999", "client-seq"),
        (opened, "client-seq:1\nidempotency-key:a", "one of both"),
        (opened, "client-seq:1\namqp-message-id:x", "amqp-message-id"),
        (opened, "client-seq:1\ntransaction:t", "transaction"),
        (opened, "idempotency-key:", "1 to 128"),
        (opened, "amqp-message-id:seq/bob/phone/1", "amqp-message-id"),
        (opened, "amqp-message-id:key/bob/1", "amqp-message-id"),
        ("", "client-seq:1", "sequence not open"),
    ] {
        let (mut client, connected) = connect(&house, opening).await;
        assert!(connected.starts_with("CONNECTED"), "{connected}");
        client.send("BEGIN\ntransaction:t\n\n\0");
        client.send(send(refused) + "COMMIT\ntransaction:t\n\n\0");
        let error = text(&mut client).await;
        assert!(error.starts_with("ERROR"), "{refused}: {error}");
        assert!(error.contains(told), "{refused}: {error}");
    }
    for (opening, told) in [
        ("client-seq:0", "device-id"),
        ("client-seq:0\ndevice-id:", "device-id"),
        ("client-seq:true\ndevice-id:phone", "client-seq"),
        ("client-seq:-1\ndevice-id:phone", "client-seq"),
    ] {
        let (_, error) = connect(&house, opening).await;
        assert!(error.starts_with("ERROR"), "{opening}: {error}");
        assert!(error.contains(told), "{opening}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_can_mark_a_message_or_give_it_such_a_name() {
    let house = house();
    let mut listener = Client::connect(&house).await;
    listener.subscribe("1", "/exchange/feed/k", "").await;
    let (mut client, _) = connect(&house, "").await;
    client.send(send(
        "x-possible-duplicate:true\nX-Possible-Duplicate:true\namqp-message-id:mine",
    ));
    client.expect_receipt("r").await;
    let message = text(&mut listener).await;
    assert!(!message.to_lowercase().contains("duplicate"), "{message}");
    assert!(message.contains("amqp-message-id:mine"), "{message}");
}

/// Without `[sequences]` the headers are the application's own, as with the plug-in.
#[tokio::test(start_paused = true)]
async fn without_sequences_nothing_is_special() {
    let house = House::new();
    let mut listener = Client::connect(&house).await;
    listener.subscribe("1", "/exchange/feed/k", "").await;
    let (mut client, connected) = connect(&house, "client-seq:0").await;
    assert!(!connected.contains("last-client-seq"), "{connected}");
    client.send(send("client-seq:one\nidempotency-key:a"));
    let receipt = text(&mut client).await;
    assert!(receipt.starts_with("RECEIPT\n"), "{receipt}");
    assert!(!receipt.contains("idempotency-key"), "{receipt}");
    let message = text(&mut listener).await;
    assert!(message.contains("\nclient-seq:one\n"), "{message}");
}

/// The old connection is half open: it cannot go on once another has the sequence.
#[tokio::test(start_paused = true)]
async fn the_newest_connection_of_a_device_has_the_sequence() {
    let house = house();
    let opening = "device-id:phone\nclient-seq:0";
    let (mut old, _) = connect(&house, opening).await;
    old.send(send("client-seq:1"));
    old.expect_receipt("r").await;
    let (mut new, _) = connect(&house, opening).await;
    old.send(send("client-seq:2"));
    let error = text(&mut old).await;
    assert!(error.contains("message:sequence taken over"), "{error}");
    new.send(send("client-seq:2"));
    new.expect_receipt("r").await;
    // Another device has its own.
    let (_, connected) = connect(&house, "device-id:tablet\nclient-seq:0").await;
    assert!(connected.contains("\nlast-client-seq:0\n"), "{connected}");
}

/// The hook is slow. The client has given up, and its next connection was let in at once.
#[tokio::test(start_paused = true)]
async fn a_login_whose_client_has_gone_takes_no_sequence_over() {
    let house = house();
    let device = "device-id:phone\nclient-seq:0";
    let held = house.hook.hold("user ");
    let gone = Client::new(&house);
    gone.send(opening(device));
    settle().await;
    gone.send(send("client-seq:1"));
    gone.wire.hang_up();
    let (mut client, _) = connect(&house, device).await;
    held.open();
    settle().await;
    assert!(gone.task.is_finished());
    client.send(send("client-seq:1"));
    client.expect_receipt("r").await;
}

/// What it sends before it is let in waits, and nothing of it is lost.
#[tokio::test(start_paused = true)]
async fn a_login_whose_client_waits_takes_the_sequence_over() {
    let house = house();
    let held = house.hook.hold("user ");
    let mut client = Client::new(&house);
    client.send(opening("device-id:phone\nclient-seq:0"));
    settle().await;
    let message = send("client-seq:1");
    let (begin, end) = message.split_at(9);
    client.send(begin);
    client.send(end);
    held.open();
    client.expect(Command::Connected).await;
    client.expect_receipt("r").await;
}
