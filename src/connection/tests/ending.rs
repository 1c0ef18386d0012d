//! How connections end, and what they leave: nothing.

use super::*;
use crate::{node::Registry, telemetry::capture::Capture};

/// The reason in the last line about an end.
fn logged_reason(log: &Capture) -> String {
    let text = log.text();
    let line = text
        .lines()
        .rfind(|line| line.contains("connection closed"));
    let line = line.unwrap_or_else(|| panic!("no end in {text}"));
    let (_, rest) = line.split_once("reason=\"").unwrap();
    rest.split_once('"').unwrap().0.to_owned()
}

#[tokio::test(start_paused = true)]
async fn the_log_says_why() {
    let log = Capture::start();
    let house = House::new();
    for (bytes, reason) in [
        ("DISCONNECT\n\n\0", "client disconnected"),
        ("DISCONNECT\nreceipt:r\n\n\0", "client disconnected"),
        ("\n", "client closed the connection"),
        ("WRONG\n\n\0", "Could not interpret command"),
    ] {
        let mut client = Client::connect(&house).await;
        client.send(bytes);
        settle().await;
        client.wire.hang_up();
        while client.next().await.is_some() {}
        client.expect_end().await;
        let logged = logged_reason(&log);
        assert!(logged.contains(reason), "{bytes:?}: {logged}");
    }
    // Before the login, too.
    let mut client = Client::new(&house);
    client.wire.hang_up();
    client.expect_end().await;
    assert_eq!(logged_reason(&log), "client closed the connection");
    let mut client = Client::connect(&house).await;
    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    client.wire.receive(Err(reset.into()));
    client.expect_end().await;
    assert!(logged_reason(&log).starts_with("connection broke: "));
    let mut client = Client::connect(&house).await;
    client.wire.set_room(0);
    client.send("BEGIN\ntransaction:t\nreceipt:r\n\n\0");
    client.expect_end().await;
    assert_eq!(logged_reason(&log), "client did not read for too long");
    let mut client = Client::connect(&house).await;
    client.wire.break_off();
    client.send("BEGIN\ntransaction:t\nreceipt:r\n\n\0");
    client.expect_end().await;
    assert!(logged_reason(&log).starts_with("connection broke: "));
    assert!(house.services.registry.is_empty());
}

#[tokio::test(start_paused = true)]
async fn disconnect_with_a_receipt_leaves_the_closing_to_the_client() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    house.slow.gate.close();
    client.send("SEND\ndestination:/topic/a\nreceipt:r1\n\n\0DISCONNECT\nreceipt:r2\n\n\0");
    settle().await;
    client.expect_nothing();
    house.slow.gate.open();
    client.expect_receipt("r1").await;
    client.expect_receipt("r2").await;
    assert_eq!(client.wire.closed_with(), None);
    // But not for long: many libraries wait for the server.
    let start = Instant::now();
    client.expect_end().await;
    assert!(
        start.elapsed() <= 2 * Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(client.wire.closed_with(), Some(CloseCode::Normal));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_after_its_receipt_is_gone_at_once() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.send("DISCONNECT\nreceipt:r\n\n\0");
    client.expect_receipt("r").await;
    let start = Instant::now();
    client.wire.hang_up();
    client.expect_end().await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(house.services.registry.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_close_has_had_its_time() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.wire.be_deaf();
    client.send("DISCONNECT\n\n\0");
    let start = Instant::now();
    client.expect_end().await;
    assert_eq!(start.elapsed(), LAST_WORDS);
    assert!(house.services.registry.is_empty());
}

/// Many producers send and go: their frames from before the end are carried out.
#[tokio::test(start_paused = true)]
async fn frames_from_before_the_end_are_carried_out() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    for is_reset in [false, true] {
        let mut client = Client::connect(&house).await;
        house.hook.gate.close();
        for number in 0..20 {
            client.send(format!("SEND\ndestination:/topic/a\n\n{number}\0"));
        }
        client.send("SEND\ndestination:/topic/a\nreceipt:all\n\n20\0");
        let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let end = if is_reset {
            Err(reset.into())
        } else {
            Ok(None)
        };
        client.wire.receive(end);
        settle().await;
        house.hook.gate.open();
        for number in 0..=20 {
            reader.expect_message(&number.to_string()).await;
        }
        // It may still listen.
        client.expect_receipt("all").await;
        client.expect_end().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_hook_keeps_nobody_who_has_gone() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    house.hook.gate.close();
    client.send("SEND\ndestination:/topic/a\n\n\0");
    client.wire.hang_up();
    let start = Instant::now();
    client.expect_end().await;
    assert_eq!(start.elapsed(), LAST_WORDS);
    assert!(house.services.registry.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_too_large_for_the_link_is_an_error_like_any_other() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.wire.receive(Err(LinkError::TooBig { limit: 4711 }));
    let error = client.expect_error("Frame too large").await;
    assert!(String::from_utf8_lossy(&error.body).contains("4711"));
    assert_eq!(client.wire.closed_with(), Some(CloseCode::TooBig));
}

/// The link says so again and again, and there is nobody to tell.
#[tokio::test(start_paused = true)]
async fn after_a_disconnect_it_is_the_end() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.send("DISCONNECT\nreceipt:r\n\n\0");
    client.wire.receive(Err(LinkError::TooBig { limit: 4711 }));
    client.expect_receipt("r").await;
    client.expect_end().await;
    assert!(client.wire.calls() < 100);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_the_transport_s_rules_is_told_by_the_transport() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client
        .wire
        .receive(Err(LinkError::Violation("not masked".into())));
    client.expect_end().await;
    assert_eq!(client.wire.closed_with(), Some(CloseCode::Protocol));
}

#[tokio::test(start_paused = true)]
async fn a_drain_tells_everybody() {
    let house = House::new();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(Client::connect(&house).await);
    }
    // One has not logged in yet.
    clients.push(Client::new(&house));
    let registry = &house.services.registry;
    assert_eq!(registry.len(), 21);
    registry.drain(Duration::from_secs(1)).await;
    for client in &mut clients {
        client.expect_error("server shutting down").await;
        assert_eq!(client.wire.closed_with(), Some(CloseCode::Restart));
    }
    timeout(Duration::from_secs(1), registry.wait_empty())
        .await
        .unwrap();
    // An upgrade on a stream that was accepted before.
    let mut late = Client::new(&house);
    late.expect_error("server shutting down").await;
    assert!(registry.is_empty());
}

/// It takes a little of what waits, again and again, so that it is never overdue.
#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_client_that_reads_slowly() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    congest(&house, &mut client).await;
    let registry = &house.services.registry;
    registry.drain(Duration::ZERO).await;
    ends_while_it_reads_slowly(client).await;
    assert!(registry.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_drain_takes_its_time() {
    let registry = Registry::new(1000);
    let mailbox = || crate::hub::Mailbox::new(crate::hub::MailboxConfig::default());
    let guards: Vec<_> = (0..1000)
        .map(|_| registry.enter(mailbox()).unwrap())
        .collect();
    assert!(guards.iter().all(|guard| guard.let_in("")));
    assert!(registry.enter(mailbox()).is_none(), "that is enough");
    let told = || {
        let context = TaskContext::from_waker(std::task::Waker::noop());
        let told = guards
            .iter()
            .filter(|guard| guard.mailbox().poll_take(&context).is_ready());
        told.count()
    };
    let draining = registry.drain(Duration::from_secs(10));
    let mut draining = pin!(draining);
    let mut total = 0;
    for second in 1..=10 {
        let wait = timeout(Duration::from_secs(1), &mut draining);
        let is_over = wait.await.is_ok();
        let now = told();
        total += now;
        assert!(now <= 110, "{now} in second {second}");
        if is_over {
            break;
        }
    }
    assert_eq!(total, 1000);
    drop(guards);
    registry.wait_empty().await;
}

/// A few are as far apart as the time has room for, and the last is not waited for in vain.
#[tokio::test(start_paused = true)]
async fn a_drain_of_few_takes_its_time_too() {
    let registry = Registry::new(4);
    let mailbox = || crate::hub::Mailbox::new(crate::hub::MailboxConfig::default());
    let guards: Vec<_> = (0..4).map(|_| registry.enter(mailbox()).unwrap()).collect();
    let start = Instant::now();
    let told = async {
        let mut times = Vec::new();
        for _ in &guards {
            let one = poll_fn(|context| {
                let mut guards = guards.iter();
                let is_told = guards.any(|guard| guard.mailbox().poll_take(context).is_ready());
                if is_told {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            });
            one.await;
            times.push(start.elapsed().as_secs());
        }
        times
    };
    let ((), mut times) = tokio::join!(registry.drain(Duration::from_secs(8)), told);
    times.sort_unstable();
    assert_eq!(times, [0, 2, 4, 6]);
}

/// A task that is cut gives back its place, its subscriptions and its messages.
#[tokio::test(start_paused = true)]
async fn a_task_that_is_cut_leaves_nothing() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/topic/a", "").await;
    client.subscribe("2", "/queue/work", "ack:client\n").await;
    house.publish("", "work", "unacknowledged");
    client.expect_message("unacknowledged").await;
    client.task.abort();
    settle().await;
    assert!(house.services.registry.is_empty());
    let mut next = Client::connect(&house).await;
    next.subscribe("1", "/queue/work", "").await;
    let message = next.expect_message("unacknowledged").await;
    assert_eq!(message.header("redelivered"), Some("true"));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_queue_ends_its_client() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/work", "").await;
    let hub = house.services.vhosts.vhost("/").unwrap();
    hub.host().delete_queue("work").await.unwrap();
    client.expect_error("Server cancelled subscription").await;
    assert_eq!(client.wire.closed_with(), Some(CloseCode::Internal));
}

fn sends(receipts: std::ops::Range<u32>) -> String {
    let send = |number| format!("SEND\ndestination:/topic/a\nreceipt:{number}\n\n{number}\0");
    receipts.map(send).collect()
}

/// In one write: valid frames, and one that ends the session.
#[tokio::test(start_paused = true)]
async fn what_precedes_an_error_is_done_and_receipted_first() {
    for (bad, message) in [
        ("UNSUBSCRIBE\nid:nope\n\n\0", "No subscription found"),
        ("ACK\nid:nope\n\n\0", "Invalid header"),
        ("WRONG\n\n\0", "Bad command"),
        ("SEND\n\n\0", "Missing destination"),
        ("SEND\ndestination:/foo/bar\n\n\0", "Unknown destination"),
        (
            "SUBSCRIBE\nid:1\ndestination:/exchange/nope/k\n\n\0",
            "not_found",
        ),
        ("COMMIT\ntransaction:nope\n\n\0", "Bad transaction"),
        ("BEGIN\nno colon\n\n\0", "Malformed frame"),
    ] {
        let house = House::new();
        let mut reader = Client::connect(&house).await;
        reader.subscribe("1", "/topic/a", "").await;
        let mut client = Client::connect(&house).await;
        house.slow.gate.close();
        // Frames after the bad one are not carried out.
        client.send(sends(0..20) + bad + &sends(20..21));
        settle().await;
        client.expect_nothing();
        house.slow.gate.open();
        for number in 0..20 {
            client.expect_receipt(&number.to_string()).await;
            reader.expect_message(&number.to_string()).await;
        }
        client.expect_error(message).await;
        house.publish("amq.topic", "a", "fence");
        reader.expect_message("fence").await;
    }
}

/// Frames that wait for the hook are not lost to an error behind them.
#[tokio::test(start_paused = true)]
async fn what_waits_for_the_hook_is_done_before_an_error_too() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::connect(&house).await;
    house.hook.gate.close();
    client.send(sends(0..5) + "UNSUBSCRIBE\nid:nope\n\n\0");
    settle().await;
    house.hook.gate.open();
    for number in 0..5 {
        client.expect_receipt(&number.to_string()).await;
        reader.expect_message(&number.to_string()).await;
    }
    client.expect_error("No subscription found").await;
}

#[tokio::test(start_paused = true)]
async fn an_ack_and_a_commit_before_an_error_are_done() {
    let house = House::new();
    let mut client = Client::connect(&house).await;
    client.subscribe("1", "/queue/work", "ack:client\n").await;
    house.publish("", "work", "done");
    let ack = client.expect_message("done").await;
    let ack = ack.header("ack").unwrap();
    client.send(format!(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ntransaction:t\ndestination:/queue/results\nreceipt:within\n\nresult\0\
         ACK\nid:{ack}\n\n\0COMMIT\ntransaction:t\nreceipt:c\n\n\0ACK\nid:{ack}\n\n\0"
    ));
    client.expect_receipt("within").await;
    client.expect_receipt("c").await;
    client.expect_error("precondition_failed").await;
    let mut next = Client::connect(&house).await;
    next.subscribe("1", "/queue/results", "").await;
    next.expect_message("result").await;
    next.subscribe("2", "/queue/work", "").await;
    house.publish("", "work", "fence");
    next.expect_message("fence").await;
}

/// A frame that fails ends the session; later frames must not be carried out behind the client's
/// back.
#[tokio::test(start_paused = true)]
async fn frames_after_one_that_fails_are_not_carried_out() {
    let house = House::new();
    house.hook.deny(r#"write topic "feed" "denied""#);
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::connect(&house).await;
    house.slow.gate.close();
    client.send(sends(0..1) + "SEND\ndestination:/exchange/feed/denied\n\n\0" + &sends(1..3));
    settle().await;
    house.slow.gate.open();
    client.expect_receipt("0").await;
    client.expect_error("access_refused").await;
    reader.expect_message("0").await;
    house.publish("amq.topic", "a", "fence");
    reader.expect_message("fence").await;
}

/// Nor messages of a transaction behind one that the broker does not take; those before it are.
#[tokio::test(start_paused = true)]
async fn a_commit_ends_at_its_first_message_that_is_not_taken() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    let mut client = Client::connect(&house).await;
    let send =
        |number, more| format!("SEND\ndestination:/topic/{more}\ntransaction:t\n\n{number}\0");
    let messages = ["a", "nowhere\nmandatory:true", "a", "a"].into_iter();
    let sends: String = messages
        .zip(0..)
        .map(|(more, number)| send(number, more))
        .collect();
    client.send(format!(
        "BEGIN\ntransaction:t\n\n\0{sends}COMMIT\ntransaction:t\nreceipt:c\n\n\0"
    ));
    client.expect(Command::Error).await;
    reader.expect_message("0").await;
    house.publish("amq.topic", "a", "fence");
    reader.expect_message("fence").await;
}

/// A client that has a job, and the frames that commit its result and acknowledge it.
async fn with_a_job(house: &House, topic: &str) -> (Client, String) {
    let mut client = Client::connect(house).await;
    client.subscribe("1", "/queue/work", "ack:client\n").await;
    house.publish("", "work", "job");
    let job = client.expect_message("job").await;
    let ack = job.header("ack").unwrap();
    let frames = format!(
        "BEGIN\ntransaction:t\n\n\0\
         ACK\nid:{ack}\ntransaction:t\n\n\0\
         SEND\ndestination:/topic/{topic}\ntransaction:t\n\nresult\0\
         COMMIT\ntransaction:t\nreceipt:c\n\n\0"
    );
    (client, frames)
}

async fn expect_the_job_again(house: &House) {
    let mut next = Client::connect(house).await;
    next.subscribe("1", "/queue/work", "").await;
    let job = next.expect_message("job").await;
    assert_eq!(job.header("redelivered"), Some("true"));
}

/// Nor is anything acknowledged: without its result, the job is not done.
#[tokio::test(start_paused = true)]
async fn a_commit_whose_message_is_not_taken_acknowledges_nothing() {
    let house = House::new();
    let (mut client, frames) = with_a_job(&house, "nowhere\nmandatory:true").await;
    client.send(frames);
    client.expect(Command::Error).await;
    client.expect_end().await;
    expect_the_job_again(&house).await;
}

/// Nor before the broker has said that it has the result.
#[tokio::test(start_paused = true)]
async fn a_commit_acknowledges_behind_the_broker_s_confirms() {
    let house = House::new();
    let (client, frames) = with_a_job(&house, "a").await;
    house.slow.gate.close();
    client.send(frames);
    settle().await;
    client.task.abort();
    settle().await;
    house.slow.gate.open();
    expect_the_job_again(&house).await;
}

/// A client that works off the last jobs of its durable subscription, and needs no more: its queue
/// goes before the COMMIT, and with it what that acknowledges. Its result does not.
#[tokio::test(start_paused = true)]
async fn a_commit_behind_the_end_of_its_queue_is_done() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/results", "").await;
    let mut client = Client::connect(&house).await;
    let headers = "durable:true\nauto-delete:false\nack:client-individual\n";
    client.subscribe("1", "/topic/work", headers).await;
    let mut acks = Vec::new();
    for body in ["job", "other"] {
        house.publish("amq.topic", "work", body);
        let job = client.expect_message(body).await;
        acks.push(job.header("ack").unwrap().to_owned());
    }
    client.send(format!(
        "BEGIN\ntransaction:t\n\n\0\
         SEND\ndestination:/topic/results\ntransaction:t\n\nresult\0\
         ACK\nid:{}\ntransaction:t\n\n\0\
         UNSUBSCRIBE\nid:1\ndurable:true\nreceipt:u\n\n\0\
         COMMIT\ntransaction:t\nreceipt:c\n\n\0",
        acks[0]
    ));
    client.expect_receipt("u").await;
    client.expect_receipt("c").await;
    reader.expect_message("result").await;
    // Nor is the other message anybody's again.
    client.send(format!("ACK\nid:{}\nreceipt:a\n\n\0", acks[1]));
    let receipt = client.expect(Command::Receipt).await;
    assert_eq!(receipt.header("settled"), None);
}

#[tokio::test(start_paused = true)]
async fn the_broker_s_silence_delays_an_error_only_so_long() {
    let house = House::new();
    let patience = crate::broker::Config::default().operation_timeout;
    let mut client = Client::connect(&house).await;
    house.slow.gate.close();
    client.send(sends(0..3) + "WRONG\n\n\0");
    let start = Instant::now();
    client.expect_error("Bad command").await;
    assert_eq!(start.elapsed().as_secs(), patience.as_secs());
    // A drain is in more of a hurry.
    let mut clients = Vec::new();
    for end in ["", "WRONG\n\n\0", "DISCONNECT\nreceipt:bye\n\n\0"] {
        let client = Client::connect(&house).await;
        client.send(sends(0..3) + end);
        clients.push(client);
    }
    settle().await;
    let start = Instant::now();
    house.services.registry.drain(Duration::ZERO).await;
    for client in &mut clients {
        client.expect(Command::Error).await;
        client.expect_end().await;
        assert_eq!(start.elapsed().as_secs(), 2);
    }
}

/// Thrown out: messages handed to the broker get their receipts, others are never sent.
#[tokio::test(start_paused = true)]
async fn a_client_that_is_thrown_out_gets_receipts_only_for_what_the_broker_has() {
    let house = House::new();
    let mut reader = Client::connect(&house).await;
    reader.subscribe("1", "/topic/a", "").await;
    for end in ["", "DISCONNECT\nreceipt:bye\n\n\0", "WRONG\n\n\0"] {
        let mut client = Client::new(&house);
        client.send(CONNECT);
        let connected = client.expect(Command::Connected).await;
        let session = connected.header("session").unwrap();
        house.slow.gate.close();
        client.send(sends(0..2));
        settle().await;
        house.hook.gate.close();
        client.send(sends(2..5) + end);
        settle().await;
        let kick = format!(r#"{{"command":"kick","session":"{session}"}}"#);
        house.publish(CONTROL, "", &kick);
        settle().await;
        client.expect_nothing();
        house.hook.gate.open();
        house.slow.gate.open();
        client.expect_receipt("0").await;
        client.expect_receipt("1").await;
        client.expect_error("kicked").await;
        house.publish("amq.topic", "a", "fence");
        for body in ["0", "1", "fence"] {
            reader.expect_message(body).await;
        }
    }
}
