//! The gateway's account at RabbitMQ: the permissions that the documents name are enough.

use std::{fs, time::Duration};

use serde_json::Value;
use stomp_grammar::{Command, Frame};
use tempfile::NamedTempFile;
use testkit::{
    DEADLINE, FEED, GatewayBuilder, Hook, Login, StompClient, Vhost, eventually, unique,
};

use crate::house::{DESTINATION, House, KEY, PASSCODE, USER, stentor, vhost};

const OPERATING: &str = include_str!("../../docs/operating.md");
const GUIDE: &str = include_str!("../../docs/migration.md");

/// Patterns to configure, write and read.
type Permissions = [String; 3];

/// The gateway with an account that has these permissions and no others.
async fn house(permissions: &Permissions) -> House {
    house_with(permissions, |builder| builder).await
}

async fn house_with(
    permissions: &Permissions,
    more: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
) -> House {
    let vhost: Vhost = vhost().await;
    let account = unique("gateway");
    let api = vhost.node().api();
    api.add_user(&account, "p").await;
    let [configure, write, read] = permissions;
    api.allow(vhost.name(), &account, [configure, write, read])
        .await;
    let url = format!("amqp://{account}:p@{}", vhost.node().amqp_address());
    let settings = |builder: GatewayBuilder| {
        let builder = builder
            .set("broker.url", url)
            // Known, so that its type need not be learnt: that would take more permissions.
            .set("broker.exchanges", format!("{FEED}=topic"));
        more(builder)
    };
    House::start(vhost, settings).await
}

/// The table of the page on operating.
fn listening_only() -> Permissions {
    ["configure", "write", "read"].map(|permission| {
        let begin = format!("| {permission} | `");
        let line = OPERATING.lines().find_map(|line| line.strip_prefix(&begin));
        let pattern = line.and_then(|line| line.split('`').next());
        // In a table, a bar has a backslash before it.
        pattern.expect(&begin).replace("\\|", "|")
    })
}

/// The command of the guide.
fn everything() -> Permissions {
    let (_, command) = GUIDE
        .split_once("rabbitmqctl set_permissions -p / stentor")
        .unwrap();
    let mut patterns = command.split('\'').skip(1).step_by(2);
    [(); 3].map(|()| patterns.next().unwrap().to_owned())
}

#[tokio::test]
async fn to_listen_to_an_exchange() {
    let house = house(&listening_only()).await;
    let mut clients = house.subscribed().await;
    house.push(["hello"]).await;
    for client in &mut clients {
        client.expect_message("hello").await;
    }
}

/// An account from before there were commands: nobody can give one, and all else works.
#[tokio::test]
async fn without_the_exchange_of_commands() {
    let permissions = [
        "^stentor\\.feed\\.",
        "^(stentor\\.feed\\..*|amq\\.default)$",
        "^(stentor\\.feed\\..*|feed)$",
    ];
    let house = house(&permissions.map(str::to_owned)).await;
    let said = "not listening for commands";
    let events = house.gateway.until_events(said, 1).await;
    let cause = events[0]["cause"].as_str().unwrap();
    assert!(cause.contains("'stentor.control'"), "{cause}");
    assert!(
        cause.contains("must be allowed to configure, write and read that exchange"),
        "{cause}"
    );
    let mut clients = house.subscribed().await;
    house.push(["hello"]).await;
    for client in &mut clients {
        client.expect_message("hello").await;
    }
    house.gateway.until_readyz(200).await;
}

/// With the queue `work` and the exchange `feed`, as in the guide.
#[tokio::test]
async fn all_that_stomp_can_do() {
    let house = house(&everything()).await;
    let mut client = house.tcp().await;

    client.subscribe("feed", DESTINATION).await;
    let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
    client.send(&send.with_body("by a client")).await;
    client.expect_message("by a client").await;

    client.subscribe("topic", "/topic/news").await;
    let send = Frame::new(Command::Send).with_header("destination", "/topic/news");
    client.send(&send.with_body("news")).await;
    client.expect_message("news").await;

    let durable = [
        ("durable", "true"),
        ("auto-delete", "false"),
        ("ack", "client"),
    ];
    let mut other = house.tcp().await;
    other.subscribe_with("mine", DESTINATION, &durable).await;
    house.push(["kept"]).await;
    other.expect_message("kept").await;

    let mut worker = house.tcp().await;
    worker
        .subscribe_with("work", "/queue/work", &[("ack", "client")])
        .await;
    let mut asking = house.tcp().await;
    let ask = Frame::new(Command::Send)
        .with_header("destination", "/queue/work")
        .with_header("reply-to", "/temp-queue/answers");
    asking.send(&ask.with_body("what?")).await;
    let asked = worker.expect_message("what?").await;
    worker
        .publish(asked.header("reply-to").unwrap(), "that")
        .await;
    asking.expect_message("that").await;
}

/// The queue of a feed is the gateway's own affair, but who subscribes and who operates are told.
#[tokio::test]
async fn a_feed_s_queue_that_it_may_not_have_is_said() {
    let permissions = ["", ".*", ".*"].map(str::to_owned);
    let opening = house_with(&permissions, |builder| {
        // Its own feed would be refused, too.
        let builder = builder.set("control.exchange", "off");
        builder.set("broker.operation_timeout", "1s")
    });
    let house = opening.await;
    let mut client = house.tcp().await;
    let subscribe = Frame::new(Command::Subscribe)
        .with_header("id", "1")
        .with_header("destination", DESTINATION);
    client.send(&subscribe).await;
    client.expect_error("broker unavailable").await;
    // It is tried again and again, and told once.
    let events = house.gateway.until_events("feed refused", 1).await;
    let cause = events[0]["cause"].as_str().unwrap();
    assert!(cause.contains("access to queue 'stentor.feed."), "{cause}");
}

/// A queue that no pattern speaks of is refused, in words that name it.
#[tokio::test]
async fn what_it_may_not_do_is_said() {
    let house = house(&everything()).await;
    let mut client: StompClient = house.tcp().await;
    let login = Login::new(USER, PASSCODE, house.vhost.name());
    let subscribe = Frame::new(Command::Subscribe)
        .with_header("id", "1")
        .with_header("destination", "/queue/other");
    client.send(&subscribe).await;
    let error = client.expect_frame().await;
    assert_eq!(error.command, Command::Error, "{error:?}");
    let body = String::from_utf8_lossy(&error.body);
    assert!(body.contains("queue 'other'"), "{body}");
    // And others do not notice.
    let mut next = house.raw_tcp().await;
    next.connect(&login).await;
    next.subscribe("1", DESTINATION).await;
    house.vhost.publish(FEED, KEY, ["hello"]).await;
    next.expect_message("hello").await;
}

/// The password is read at each connect: another one needs no restart.
#[tokio::test]
async fn a_password_in_a_file_is_changed_without_a_restart() {
    let vhost: Vhost = vhost().await;
    let account = unique("gateway");
    let api = vhost.node().api();
    api.add_user(&account, "f1rst").await;
    api.allow(vhost.name(), &account, [".*", ".*", ".*"]).await;
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), "f1rst\n").unwrap();
    let url = format!("amqp://{account}@{}", vhost.node().amqp_address());
    let house = House::start(vhost, |builder| {
        builder
            .set("broker.url", url)
            .set("broker.password_file", file.path().display())
    })
    .await;
    let mut clients = house.subscribed().await;
    api.add_user(&account, "sec0nd").await;
    house.vhost.close_connections().await;
    let advice = "the password in";
    house.gateway.until_logged(advice).await;
    fs::write(file.path(), "sec0nd\n").unwrap();
    house.gateway.until_logged("broker links back").await;
    house.gateway.until_ready().await;
    house.push(["with another password"]).await;
    for client in &mut clients {
        client.expect_message("with another password").await;
    }
    let log = house.gateway.log().text();
    assert!(!log.contains("f1rst") && !log.contains("sec0nd"), "{log}");
}

/// The log names the address, the remedy, and the time of the next try.
#[tokio::test]
async fn a_wrong_password_is_told_with_what_to_mend() {
    let vhost: Vhost = vhost().await;
    let hook = Hook::start().await;
    let address = vhost.node().amqp_address();
    let gateway = stentor()
        .vhost(&vhost)
        .hook(&hook)
        .set("broker.url", format!("amqp://guest:wrong@{address}"))
        .set("log.level", "info,stentor::broker=debug")
        .start()
        .await;
    let attempts = || {
        let mut events = gateway.events();
        events.retain(|event| event["message"] == "broker link down");
        events
    };
    let tried = async || Some(attempts()).filter(|events| events.len() >= 8);
    let events = eventually(DEADLINE, "it is tried again", tried).await;
    for event in &events {
        assert_eq!(event["broker"], address, "{event}");
        assert_eq!(event["vhost"], vhost.name(), "{event}");
        let cause = event["cause"].as_str().unwrap();
        assert!(cause.contains("ACCESS_REFUSED"), "{event}");
        assert!(cause.contains("[broker] url"), "{event}");
        assert!(!cause.contains("wrong"), "{event}");
    }
    // Of several links, and of all attempts, one line is for whoever reads the log every day.
    let is_warning = |event: &&Value| event["level"] == "WARN";
    assert_eq!(events.iter().filter(is_warning).count(), 1, "{events:#?}");
    let at = |event: &Value| {
        let time = event["timestamp"].as_str().unwrap();
        humantime::parse_rfc3339(time).unwrap()
    };
    for (index, event) in events.iter().enumerate() {
        let later = events.iter().skip(index + 1);
        let mut next = later.filter(|later| later["link"] == event["link"]);
        if let Some(next) = next.next() {
            let pause = Duration::from_millis(event["retry_in_ms"].as_u64().unwrap());
            let waited = at(next).duration_since(at(event)).unwrap();
            assert!(waited >= pause, "{event}, and then {next}");
        }
    }
}
