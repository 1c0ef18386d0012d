//! All ways to log in, and who a sender is then: over real sockets, with a real hook and RabbitMQ.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::StreamExt as _;
use lapin::{
    options::{BasicConsumeOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::json;
use stomp_grammar::{Command, Frame};
use testkit::{Answer, Call, FEED, GatewayBuilder, Remote, StompClient, WsOptions, unique};

use crate::{
    foreign::Server,
    house::{DESTINATION, House, PASSCODE},
};

/// A CONNECT that names nobody.
fn bare(house: &House) -> Frame {
    Frame::new(Command::Connect)
        .with_header("accept-version", "1.2")
        .with_header("host", house.vhost.name())
}

async fn ws(house: &House, query: &str, headers: &[(&'static str, &str)]) -> StompClient {
    let options = WsOptions {
        headers: headers
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        ..WsOptions::default()
    };
    StompClient::ws_with(&format!("{}{query}", house.gateway.ws_url()), options).await
}

/// Logs in, and answers who the gateway says has sent a message.
async fn who(client: &mut StompClient, connect: &Frame) -> String {
    client.send(connect).await;
    let is_connected = |frame: &Frame| frame.command == Command::Connected;
    client.expect("CONNECTED", is_connected).await;
    client.subscribe("1", DESTINATION).await;
    client
        .send(
            &Frame::new(Command::Send)
                .with_header("destination", DESTINATION)
                .with_body("who"),
        )
        .await;
    let message = client.expect_message("who").await;
    message.header("x-stomp-user").unwrap().to_owned()
}

fn forwarding(builder: GatewayBuilder) -> GatewayBuilder {
    builder
        .set("auth.http_method", "post")
        .set("auth.forward_cookies", "sid=session_cookie")
        .set("auth.forward_query", "token=token")
        .set("auth.forward_headers", "authorization=authorization")
        .set(
            "auth.forward_connection",
            "client_ip=ip,session=session,node=node,transport=transport",
        )
        .set("auth.username_header", "x-username")
}

/// A page that is logged in at the application, and knows neither name nor password.
#[tokio::test]
async fn a_cookie_logs_in() {
    let house = House::open_with(forwarding).await;
    house.hook.rule(|asked| {
        (asked.call == Call::User).then(|| match asked.get("session_cookie") {
            PASSCODE => Answer::AllowAs("bob"),
            _ => Answer::Deny,
        })
    });
    let cookie = format!("theme=dark; sid={PASSCODE}");
    let mut client = ws(&house, "", &[("cookie", &cookie)]).await;
    client.send(&bare(&house)).await;
    let connected = client.expect_frame().await;
    assert_eq!(connected.command, Command::Connected);

    let calls = house.hook.calls_of(Call::User);
    let asked = calls.last().unwrap();
    assert_eq!((asked.get("username"), asked.get("password")), ("", ""));
    // There, and empty: a missing password means that a certificate has proved the user.
    assert!(asked.parameters.iter().any(|(name, _)| name == "password"));
    assert_eq!(
        (asked.get("ip"), asked.get("transport")),
        ("127.0.0.1", "websocket")
    );
    assert_eq!(Some(asked.get("session")), connected.header("session"));
    assert!(!asked.get("node").is_empty());

    let mut again = ws(&house, "", &[("cookie", &cookie)]).await;
    assert_eq!(who(&mut again, &bare(&house)).await, "bob");
    let mut liar = ws(&house, "", &[("cookie", &cookie)]).await;
    let liar_says = bare(&house).with_header("login", "alice");
    assert_eq!(who(&mut liar, &liar_says).await, "bob");

    // Without the cookie nobody is asked.
    let calls = house.hook.calls_of(Call::User).len();
    let mut stranger = ws(&house, "", &[]).await;
    stranger.send(&bare(&house)).await;
    stranger.expect_error("Bad CONNECT").await;
    assert_eq!(house.hook.calls_of(Call::User).len(), calls);
    let mut wrong = ws(&house, "", &[("cookie", "sid=wrong")]).await;
    wrong.send(&bare(&house)).await;
    let error = wrong.expect_error("Bad CONNECT").await;
    assert_eq!(error.body, "Access refused for user ''\n");
}

/// The log of [`House`] is looked through for the passcode, which is the token here.
#[tokio::test]
async fn a_token_in_the_url_or_a_header_logs_in_and_is_not_logged() {
    let house = House::open_with(|builder| forwarding(builder).set("log.level", "trace")).await;
    house.hook.rule(|asked| {
        let tokens = [
            asked.get("token").to_owned(),
            asked.get("authorization").replace("Bearer ", ""),
        ];
        let is_known = tokens.iter().any(|token| token == PASSCODE);
        let answer = if is_known {
            Answer::Allow
        } else {
            Answer::Deny
        };
        (asked.call == Call::User).then_some(answer)
    });
    let alice = bare(&house).with_header("login", "alice");
    let mut client = ws(&house, &format!("?token={PASSCODE}"), &[]).await;
    assert_eq!(who(&mut client, &alice).await, "alice");
    let bearer = format!("Bearer {PASSCODE}");
    let mut client = ws(&house, "", &[("authorization", &bearer)]).await;
    assert_eq!(who(&mut client, &alice).await, "alice");

    // A client that neither the hook nor itself names is nobody.
    let mut nobody = ws(&house, &format!("?token={PASSCODE}"), &[]).await;
    nobody.send(&bare(&house)).await;
    nobody.expect_error("Bad CONNECT").await;
    assert_eq!(nobody.expect_closed().await.code, Some(1013));
    house.gateway.until_logged("without a name").await;
}

/// As the plug-in with `web_stomp.use_http_auth`.
#[tokio::test]
async fn http_basic_logs_in_whatever_connect_says() {
    let house = House::open_with(|builder| {
        builder
            .set("auth.http_basic", true)
            .set("auth.default_user", "guest")
            .set("auth.default_passcode", PASSCODE)
    })
    .await;
    house.hook.rule(|asked| {
        let is_wrong = asked.call == Call::User && asked.get("password") != PASSCODE;
        is_wrong.then_some(Answer::Deny)
    });
    let basic = |passcode: &str| {
        let encoded = STANDARD.encode(format!("alice:{passcode}"));
        format!("Basic {encoded}")
    };
    let mallory = bare(&house)
        .with_header("login", "mallory")
        .with_header("passcode", "x");
    for (header, user) in [(Some(basic(PASSCODE)), "alice"), (None, "guest")] {
        let headers: Vec<_> = header.iter().map(|h| ("authorization", &**h)).collect();
        for connect in [bare(&house), mallory.clone()] {
            let mut client = ws(&house, "", &headers).await;
            assert_eq!(who(&mut client, &connect).await, user);
        }
    }
    let mut wrong = ws(&house, "", &[("authorization", &basic("wrong"))]).await;
    let good = bare(&house)
        .with_header("login", "guest")
        .with_header("passcode", PASSCODE);
    wrong.send(&good).await;
    let error = wrong.expect_error("Bad CONNECT").await;
    assert_eq!(error.body, "Access refused for user 'alice'\n");
    // Over TCP there is no such header: CONNECT counts.
    let mut tcp = house.raw_tcp().await;
    assert_eq!(who(&mut tcp, &good).await, "guest");
}

#[tokio::test]
async fn a_device_need_not_say_connect() {
    let house = House::open_with(|builder| {
        builder
            .set("auth.default_user", "device")
            .set("auth.default_passcode", PASSCODE)
            .set("stomp.implicit_connect", true)
    })
    .await;
    let mut device = house.raw_tcp().await;
    device
        .raw(format!(
            "SUBSCRIBE\nid:1\ndestination:{DESTINATION}\nreceipt:s\n\n\0"
        ))
        .await;
    device.expect_receipt("s").await;
    house.push(["hello"]).await;
    device.expect_message("hello").await;
    let asked = house.hook.calls_of(Call::User);
    assert_eq!(
        (asked[0].get("username"), asked[0].get("password")),
        ("device", PASSCODE)
    );
}

async fn softly() -> House {
    let house = House::open_with(|builder| builder.set("auth.soft_deny", true)).await;
    house.hook.rule(|asked| {
        let is_bobs = asked.call == Call::Topic && asked.get("routing_key") == "user_bob";
        is_bobs.then_some(Answer::Deny)
    });
    house
}

#[tokio::test]
async fn a_denied_client_stays_if_it_is_configured() {
    let house = softly().await;
    for mut client in house.subscribed().await {
        let denied = Frame::new(Command::Subscribe)
            .with_header("id", "bob")
            .with_header("destination", "/exchange/feed/user_bob")
            .with_header("receipt", "r");
        client.send(&denied).await;
        let error = client.expect_error("access_refused").await;
        assert_eq!(error.header("receipt-id"), Some("r"));
        let denied =
            Frame::new(Command::Send).with_header("destination", "/exchange/feed/user_bob");
        client.send(&denied).await;
        client.expect_error("access_refused").await;
        client.subscribe("bob", "/exchange/feed/other").await;
        house.push(["still here"]).await;
        client.expect_message("still here").await;
        client.disconnect().await;
    }
}

#[tokio::test]
async fn stompjs_stays_connected_when_it_is_denied() {
    let server = Server::Gateway(Box::new(softly().await));
    let mut client = Remote::node("stompjs.mjs");
    client.order(&server.connect_ws(&json!({})));
    client.expect("connected").await;
    let subscribe = |destination: &str, receipt: &str| {
        crate::foreign::subscribe(destination, json!({ "receipt": receipt }))
    };
    client.order(&subscribe("/exchange/feed/user_bob", "denied"));
    let error = client.expect("error").await;
    assert_eq!(error["headers"]["receipt-id"], "denied", "{error}");
    client.order(&subscribe(DESTINATION, "allowed"));
    assert_eq!(client.expect("receipt").await["id"], "allowed");
    server
        .vhost()
        .publish(FEED, crate::house::KEY, ["hello"])
        .await;
    assert_eq!(client.expect_bodies(1).await, ["hello"]);
}

/// A house whose gateway has an account with these tags.
async fn impersonating(tags: &str) -> House {
    let vhost = crate::house::vhost().await;
    let account = unique("gateway");
    let api = vhost.node().api();
    api.tag_user(&account, "secret", tags).await;
    api.allow(vhost.name(), &account, [".*", ".*", ".*"]).await;
    let url = format!("amqp://{account}:secret@{}", vhost.node().amqp_address());
    House::start(vhost, |builder| {
        builder
            .set("broker.url", url)
            .set("broker.impersonate", true)
    })
    .await
}

#[tokio::test]
async fn messages_name_their_user_where_the_account_may() {
    let house = impersonating("impersonator").await;
    let channel = house.vhost.channel().await;
    let none = FieldTable::default();
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare("who".into(), options, none.clone());
    declaring.await.unwrap();
    let options = BasicConsumeOptions {
        no_ack: true,
        ..BasicConsumeOptions::default()
    };
    let consuming = channel.basic_consume("who".into(), "".into(), options, none);
    let mut consumer = consuming.await.unwrap();

    let mut client = house.tcp().await;
    let send = || Frame::new(Command::Send).with_header("destination", "/amq/queue/who");
    client.request(send()).await;
    client.request(send().with_header("user-id", "alice")).await;
    for _ in 0..2 {
        let delivery = consumer.next().await.unwrap().unwrap();
        let user = delivery.properties.user_id().as_ref().unwrap();
        assert_eq!(user.as_str(), "alice");
    }
    client.send(&send().with_header("user-id", "bob")).await;
    let error = client.expect_error("precondition_failed").await;
    assert!(
        error
            .body
            .starts_with(b"PRECONDITION_FAILED - user_id property set to 'bob'")
    );
}

#[tokio::test]
async fn an_account_that_may_not_name_users_is_told_of() {
    let house = impersonating("").await;
    for _ in 0..3 {
        let mut client = house.tcp().await;
        let send = Frame::new(Command::Send)
            .with_header("destination", DESTINATION)
            .with_header("receipt", "r");
        client.send(&send).await;
        let error = client.expect_error("precondition_failed").await;
        assert_eq!(error.header("receipt-id"), Some("r"));
        let body = String::from_utf8_lossy(&error.body);
        assert!(
            !body.contains("gateway-") && body.contains("name their user"),
            "{body}"
        );
    }
    // Once, and what to do.
    house.gateway.until_logged("impersonator").await;
    let lines = house.gateway.log().all();
    let told = lines.iter().filter(|line| line.contains("impersonator"));
    assert_eq!(told.count(), 1);
    // A client that only listens notices nothing.
    let [mut tcp, _ws] = house.subscribed().await;
    house.push(["hello"]).await;
    tcp.expect_message("hello").await;
}

/// A JWT, say: it names its user, and the client has no other name.
#[tokio::test]
async fn a_token_in_the_passcode_logs_in_without_a_login() {
    let house = House::open_with(forwarding).await;
    house.hook.rule(|asked| {
        (asked.call == Call::User).then(|| match asked.get("password") {
            PASSCODE => Answer::AllowAs("bob"),
            _ => Answer::Deny,
        })
    });
    let token = bare(&house).with_header("passcode", PASSCODE);
    for mut client in [ws(&house, "", &[]).await, house.raw_tcp().await] {
        assert_eq!(who(&mut client, &token).await, "bob");
    }
    let calls = house.hook.calls_of(Call::User);
    assert!(calls.iter().all(|asked| asked.get("username").is_empty()));
    let mut wrong = house.raw_tcp().await;
    wrong
        .send(&bare(&house).with_header("passcode", "wrong"))
        .await;
    let error = wrong.expect_error("Bad CONNECT").await;
    assert_eq!(error.body, "Access refused for user ''\n");
}
