//! What one address can do to the logins of others, and one client to its own frames.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use stomp_grammar::{Command, Frame};
use testkit::{Answer, Call, GatewayBuilder, Login, StompClient};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::house::{House, PASSCODE};

/// A hook that takes its time, as one that hashes passwords.
const SLOW: Duration = Duration::from_millis(500);

/// Behind a proxy, for the loopback's own addresses are never refused.
async fn behind_a_proxy(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> House {
    House::open_with(|builder| settings(builder.set("listen.proxy_protocol", "true"))).await
}

/// A socket of the client at that address.
async fn socket(house: &House, address: &str) -> TcpStream {
    let gateway: SocketAddr = house.gateway.stomp_address().parse().unwrap();
    let mut stream = TcpStream::connect(gateway).await.unwrap();
    let header = format!("PROXY TCP4 {address} 192.0.2.254 40000 61613\r\n");
    stream.write_all(header.as_bytes()).await.unwrap();
    stream
}

async fn client(house: &House, address: &str) -> StompClient {
    StompClient::over(socket(house, address).await)
}

fn login(house: &House, user: &str) -> Login {
    Login::new(user, PASSCODE, house.vhost.name())
}

async fn metric(house: &House, name: &str) -> u64 {
    let (_, text) = house.gateway.admin("/metrics").await;
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0, |value| value.parse().unwrap())
}

/// Honest users log in beside 6,000 wrong CONNECTs, each of another name, of one address. In one
/// queue for all they would wait for longer than a call may: then they would be told `busy`.
#[tokio::test]
async fn wrong_logins_of_one_address_keep_nobody_else_waiting() {
    const WRONG: usize = 6_000;
    // All of them come as far as the hook.
    let unbounded =
        |builder: GatewayBuilder| builder.set("limits.max_address_connects_per_second", "0");
    let house = behind_a_proxy(unbounded).await;
    house.hook.rule(|asked| {
        let answer = if asked.get("username").starts_with("wrong") {
            Answer::Deny
        } else {
            Answer::Allow
        };
        (asked.call == Call::User).then(|| Answer::After(SLOW, Box::new(answer)))
    });
    let mut attackers = Vec::new();
    for n in 0..WRONG {
        let vhost = house.vhost.name();
        let connect =
            format!("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:wrong{n}\npasscode:p\n\n\0");
        let mut socket = socket(&house, "203.0.113.66").await;
        socket.write_all(connect.as_bytes()).await.unwrap();
        attackers.push(socket);
    }
    for n in 1..=5 {
        let mut honest = client(&house, &format!("198.51.100.{n}")).await;
        honest.connect(&login(&house, "alice")).await;
    }
}

/// Only for the user, from the address, and not by the hook's fault.
#[tokio::test]
async fn failed_logins_are_refused_where_they_failed() {
    let house = behind_a_proxy(|builder| builder.set("limits.max_failed_logins", "3")).await;
    let refused = async |address: &str, user: &str| {
        let mut client = client(&house, address).await;
        client.send(&login(&house, user).frame()).await;
        let frame = client.expect_frame().await;
        match frame.command {
            Command::Connected => "connected".to_owned(),
            _ => frame.header("error-code").unwrap().to_owned(),
        }
    };
    // A hook that has no answer makes no failed login.
    house
        .hook
        .answer(Call::User, Answer::Status(500, String::new()));
    for _ in 0..5 {
        assert_eq!(refused("203.0.113.1", "alice").await, "login-unavailable");
    }
    house.hook.answer(Call::User, Answer::Deny);
    for _ in 0..3 {
        assert_eq!(refused("203.0.113.1", "alice").await, "login-refused");
    }
    let asked = house.hook.calls_of(Call::User).len();
    for _ in 0..20 {
        assert_eq!(refused("203.0.113.1", "alice").await, "failed-logins");
    }
    assert_eq!(
        house.hook.calls_of(Call::User).len(),
        asked,
        "nobody is asked"
    );
    house.hook.allow_all();
    assert_eq!(refused("203.0.113.1", "alice").await, "failed-logins");
    assert_eq!(refused("203.0.113.2", "alice").await, "connected");
    assert_eq!(refused("203.0.113.1", "bob").await, "connected");
    let name = "stentor_limits_exceeded_total{bound=\"failed_logins\"}";
    assert_eq!(metric(&house, name).await, 21);
    let lines = house.gateway.log().all();
    let said = lines
        .iter()
        .filter(|line| line.contains("\"failed_logins\""));
    assert_eq!(said.count(), 1, "one line a minute");
}

/// An address of a private network is never refused, and the log says once what to do about it.
#[tokio::test]
async fn a_proxy_s_address_is_never_refused() {
    let house = behind_a_proxy(|builder| builder.set("limits.max_address_connections", "3")).await;
    let mut clients = Vec::new();
    for n in 0..10 {
        let mut client = client(&house, "10.1.2.3").await;
        client.connect(&login(&house, &format!("user{n}"))).await;
        clients.push(client);
    }
    let lines = house.gateway.log().all();
    let said = lines.iter().filter(|line| line.contains("over a bound"));
    assert_eq!(said.count(), 1, "{lines:#?}");
    // Others are.
    for _ in 0..3 {
        let mut client = client(&house, "203.0.113.1").await;
        client.connect(&login(&house, "alice")).await;
        clients.push(client);
    }
    let mut client = client(&house, "203.0.113.1").await;
    client.send(&login(&house, "alice").frame()).await;
    let error = client.expect_error("too many connections").await;
    assert_eq!(error.header("error-code"), Some("address-connections"));
    assert_eq!(error.header("reconnect"), Some("30s"));
}

/// The clients of an office at one address, all at once: none is refused, and all are in soon.
#[tokio::test]
async fn an_office_at_one_address_comes_back_at_once() {
    const OFFICE: usize = 500;
    let house = behind_a_proxy(|builder| builder).await;
    let begun = Instant::now();
    let mut coming = JoinSet::new();
    for n in 0..OFFICE {
        let (stream, login) = (
            socket(&house, "203.0.113.1").await,
            login(&house, &format!("user{n}")),
        );
        coming.spawn(async move {
            let mut client = StompClient::over(stream);
            client.connect(&login).await;
            client
        });
    }
    let clients = coming.join_all().await;
    assert_eq!(clients.len(), OFFICE);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}

/// With a hook that takes half a second for each answer, twenty SUBSCRIBEs took twenty-two.
#[tokio::test]
async fn frames_of_one_client_wait_for_a_slow_hook_side_by_side() {
    let house = House::open().await;
    let mut client = house.ws().await;
    let slow = Answer::After(Duration::from_millis(500), Box::new(Answer::Allow));
    house.hook.answer(Call::Resource, slow.clone());
    house.hook.answer(Call::Topic, slow);
    let begun = Instant::now();
    for n in 0..20 {
        let subscribe = Frame::new(Command::Subscribe)
            .with_header("id", &n.to_string())
            .with_header("destination", &format!("/exchange/feed/k{n}"))
            .with_header("receipt", &n.to_string());
        client.send(&subscribe).await;
    }
    for n in 0..20 {
        client.expect_receipt(&n.to_string()).await;
    }
    let took = begun.elapsed();
    // One answer about the exchange, then four keys at a time.
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(took >= Duration::from_millis(2_900), "{took:?}");
}
