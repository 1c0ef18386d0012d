//! The abilities that every foreign client must have, at the gateway as at RabbitMQ's own plug-ins:
//! those show that the client's program is right, and that an application can move.

use serde_json::{Value, json};
use testkit::{DEADLINE, FEED, Login, Remote, StompClient, Vhost, eventually, unique};

use crate::house::{self, House, KEY, PASSCODE, USER};

pub(crate) enum Server {
    /// RabbitMQ's STOMP and Web STOMP plug-ins.
    Plugins(Vhost),
    Gateway(Box<House>),
}

impl Server {
    pub(crate) async fn plugins() -> Self {
        Self::Plugins(house::vhost().await)
    }

    pub(crate) async fn gateway() -> Self {
        // A browser's page comes from somewhere else, and heart-beats should not take long.
        let settings = |builder: testkit::GatewayBuilder| {
            builder
                .set("listen.origins", "*")
                .set("stomp.heartbeat_send", "1s")
                .set("stomp.heartbeat_receive", "1s")
        };
        Self::Gateway(Box::new(House::open_with(settings).await))
    }

    pub(crate) const fn vhost(&self) -> &Vhost {
        match self {
            Self::Plugins(vhost) => vhost,
            Self::Gateway(house) => &house.vhost,
        }
    }

    pub(crate) fn ws_url(&self) -> String {
        match self {
            Self::Plugins(vhost) => vhost.node().web_stomp_url(),
            Self::Gateway(house) => house.gateway.ws_url(),
        }
    }

    /// Only the gateway has SockJS: the plug-in of 3.10.8 no longer has it.
    pub(crate) fn sockjs_url(&self) -> String {
        match self {
            Self::Plugins(_) => panic!("the plug-in speaks no SockJS"),
            Self::Gateway(house) => house.gateway.sockjs_url(),
        }
    }

    pub(crate) fn stomp_address(&self) -> String {
        match self {
            Self::Plugins(vhost) => vhost.node().stomp_address(),
            Self::Gateway(house) => house.gateway.stomp_address().to_owned(),
        }
    }

    /// The order `connect` over WebSocket, and what `more` adds to it.
    pub(crate) fn connect_ws(&self, more: &Value) -> Value {
        let mut order = self.connect();
        order["url"] = json!(self.ws_url());
        merge(order, more)
    }

    /// The order `connect` over TCP, and what `more` adds to it.
    pub(crate) fn connect_tcp(&self, more: &Value) -> Value {
        let mut order = self.connect();
        order["address"] = json!(self.stomp_address());
        merge(order, more)
    }

    /// One of the testkit's own clients, over TCP, logged in.
    pub(crate) async fn client(&self) -> StompClient {
        let mut client = StompClient::tcp(&self.stomp_address()).await;
        let (login, passcode) = self.account();
        let login = Login::new(login, passcode, self.vhost().name());
        client.connect(&login).await;
        client
    }

    const fn account(&self) -> (&'static str, &'static str) {
        match self {
            Self::Plugins(_) => ("guest", "guest"),
            Self::Gateway(_) => (USER, PASSCODE),
        }
    }

    fn connect(&self) -> Value {
        let (login, passcode) = self.account();
        let host = self.vhost().name();
        json!({ "do": "connect", "login": login, "passcode": passcode, "host": host })
    }
}

fn merge(mut order: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        order[key] = value.clone();
    }
    order
}

/// A client's whole day: it connects by the order given, is pushed to, sends, acknowledges, and
/// leaves. `version` is what it must have agreed on.
pub(crate) async fn a_day(server: &Server, mut client: Remote, connect: &Value, version: &str) {
    client.order(connect);
    let connected = client.expect("connected").await;
    assert_eq!(connected["version"], version, "{connected}");

    let destination = "/exchange/feed/user_alice";
    client.order(&subscribe(destination, json!({ "receipt": "subscribed" })));
    until_subscribed(server, &mut client).await;

    // Pushed by a backend.
    let bodies = house::numbers(0..100);
    server.vhost().publish(FEED, KEY, &bodies).await;
    assert_eq!(client.expect_bodies(100).await, bodies);

    // Sent by the client itself, with what is hard to carry.
    let body = "ünï\u{1F600}\nline:two\\";
    client.order(&json!({
        "do": "send", "destination": destination, "body": body,
        "headers": { "content-type": "text/plain", "kind": "note", "receipt": "sent" },
    }));
    let message = client.expect("message").await;
    assert_eq!(message["body"], body);
    assert_eq!(message["destination"], destination);
    assert_eq!(message["headers"]["content-type"], "text/plain");
    assert_eq!(message["headers"]["kind"], "note");

    // Acknowledged: the queue is empty afterwards.
    let queue = unique("work");
    let work = format!("/queue/{queue}");
    client.order(&subscribe(
        &work,
        json!({ "ack": "client-individual", "id": "work" }),
    ));
    // From one on: Net::Stomp of Perl takes "0" for no body at all.
    for number in 1..=10 {
        client.order(&json!({ "do": "send", "destination": work, "body": number.to_string() }));
    }
    assert_eq!(client.expect_bodies(10).await, house::numbers(1..11));
    eventually(DEADLINE, "all work is acknowledged", async || {
        let queues = server.vhost().queues().await;
        queues
            .iter()
            .any(|found| found["name"] == queue.as_str() && found["messages"] == 0)
    })
    .await;

    // Gone: no message comes, and no client holds the key.
    client.order(&json!({ "do": "unsubscribe", "destination": destination }));
    client.order(&json!({ "do": "disconnect" }));
    client.expect("closed").await;
}

/// The tasks of a working client beside [`a_day`]: refused messages that come again, transactions,
/// a subscription that keeps messages for it, and an ERROR.
pub(crate) async fn work(server: &Server, start: impl Fn() -> Remote, connect: &Value) {
    let mut client = start();
    client.order(connect);
    client.expect("connected").await;
    let work = format!("/queue/{}", unique("work"));
    client.order(&subscribe(
        &work,
        json!({ "ack": "client-individual", "id": "work" }),
    ));
    client.order(&json!({ "do": "refuse" }));
    client.order(&json!({ "do": "send", "destination": work, "body": "refused" }));
    for redelivered in ["false", "true"] {
        let message = client.expect("message").await;
        assert_eq!(message["body"], "refused");
        assert_eq!(message["headers"]["redelivered"], redelivered, "{message}");
    }
    for end in ["abort", "commit"] {
        client.order(&json!({ "do": "begin", "transaction": end }));
        client.order(&json!({
            "do": "send", "destination": work, "body": end, "headers": { "transaction": end },
        }));
        client.order(&json!({ "do": end, "transaction": end }));
    }
    assert_eq!(client.expect_bodies(1).await, ["commit"]);

    let news = format!("/topic/{}", unique("news"));
    let durable = subscribe(
        &news,
        json!({ "id": "news", "durable": "true", "auto-delete": "false", "receipt": "durable" }),
    );
    client.order(&durable);
    assert_eq!(client.expect("receipt").await["id"], "durable");
    client.order(&json!({ "do": "disconnect" }));
    client.expect("closed").await;
    let key = news.trim_start_matches("/topic/");
    server.vhost().publish("amq.topic", key, ["kept"]).await;
    let mut client = start();
    client.order(connect);
    client.expect("connected").await;
    client.order(&durable);
    assert_eq!(client.expect_bodies(1).await, ["kept"]);

    client.order(&json!({ "do": "send", "destination": "/nowhere/x", "body": "lost" }));
    let error = client.expect("error").await;
    assert_eq!(
        error["headers"]["message"], "Unknown destination",
        "{error}"
    );
}

pub(crate) fn subscribe(destination: &str, headers: Value) -> Value {
    json!({ "do": "subscribe", "destination": destination, "headers": headers })
}

/// After its receipt, a subscription is in force. The plug-ins promise it as well.
async fn until_subscribed(server: &Server, client: &mut Remote) {
    let receipt = client.expect("receipt").await;
    assert_eq!(receipt["id"], "subscribed");
    assert!(server.vhost().is_bound(FEED, KEY).await);
}
