//! A gateway with all that it needs: a virtual host with the exchange `feed`, and a hook.

use std::{process::Output, sync::Arc, thread, time::Duration};

use lapin::ExchangeKind;
use stentor::broker::WRITTEN_AFTER;
use testkit::{
    FEED, Gateway, GatewayBuilder, Hook, Login, RabbitMq, StompClient, Vhost, WsOptions,
};

/// The hook allows every user. This passcode must never stand in a log.
pub(crate) const USER: &str = "alice";
pub(crate) const PASSCODE: &str = "correct-horse-battery-staple";

/// The subscription of [`USER`].
pub(crate) const DESTINATION: &str = "/exchange/feed/user_alice";
pub(crate) const KEY: &str = "user_alice";

pub(crate) struct House {
    pub(crate) vhost: Vhost,
    pub(crate) hook: Hook,
    pub(crate) gateway: Gateway,
}

/// A command's status and output.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

pub(crate) fn stentor() -> GatewayBuilder {
    Gateway::builder(env!("CARGO_BIN_EXE_stentor"))
}

/// A virtual host on the shared node, with the exchange.
pub(crate) async fn vhost() -> Vhost {
    vhost_on(&RabbitMq::shared().await).await
}

pub(crate) async fn vhost_on(node: &Arc<RabbitMq>) -> Vhost {
    let vhost = node.vhost().await;
    vhost.declare_exchange(FEED, ExchangeKind::Topic).await;
    vhost
}

impl House {
    /// On the shared node, ready.
    pub(crate) async fn open() -> Self {
        Self::open_with(|builder| builder).await
    }

    /// On the shared node, with other settings than the default, ready.
    pub(crate) async fn open_with(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        let vhost = vhost().await;
        Self::start(vhost, settings).await
    }

    /// Wherever `vhost` is, ready.
    pub(crate) async fn start(
        vhost: Vhost,
        settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder,
    ) -> Self {
        let hook = Hook::start().await;
        let builder = stentor().vhost(&vhost).hook(&hook);
        let gateway = settings(builder).ready().await;
        Self {
            vhost,
            hook,
            gateway,
        }
    }

    pub(crate) fn login(&self) -> Login {
        Login::new(USER, PASSCODE, self.vhost.name())
    }

    /// Over TCP, not logged in.
    pub(crate) async fn raw_tcp(&self) -> StompClient {
        StompClient::tcp(self.gateway.stomp_address()).await
    }

    /// Over WebSocket, not logged in.
    pub(crate) async fn raw_ws(&self) -> StompClient {
        StompClient::ws_with(&self.gateway.ws_url(), WsOptions::default()).await
    }

    /// Over TCP, logged in.
    pub(crate) async fn tcp(&self) -> StompClient {
        let mut client = self.raw_tcp().await;
        client.connect(&self.login()).await;
        client
    }

    /// Over WebSocket, logged in.
    pub(crate) async fn ws(&self) -> StompClient {
        let mut client = self.raw_ws().await;
        client.connect(&self.login()).await;
        client
    }

    /// One client of each kind, subscribed to [`DESTINATION`].
    pub(crate) async fn subscribed(&self) -> [StompClient; 2] {
        let mut clients = [self.tcp().await, self.ws().await];
        for client in &mut clients {
            client.subscribe("feed", DESTINATION).await;
        }
        clients
    }

    /// Publishes messages to [`USER`], as a backend would.
    pub(crate) async fn push<B: AsRef<[u8]>>(&self, bodies: impl IntoIterator<Item = B>) {
        self.vhost.publish(FEED, KEY, bodies).await;
    }
}

/// Waits until no subscription is so young that RabbitMQ would forget it if it were killed: the clients of
/// younger ones are told after an outage.
pub(crate) async fn until_written() {
    tokio::time::sleep(WRITTEN_AFTER + Duration::from_millis(100)).await;
}

/// Bodies that say their place: `0`, `1`, …
pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Expects exactly these messages, in order: a missing, a repeated and a swapped one are found.
pub(crate) async fn expect_numbers(client: &mut StompClient, range: std::ops::Range<usize>) {
    for number in range {
        client.expect_message(&number.to_string()).await;
    }
}

/// After any test, the gateway's log holds no passcode.
impl Drop for House {
    fn drop(&mut self) {
        let mut lines = self.gateway.log().all();
        lines.retain(|line| line.contains(PASSCODE));
        if !thread::panicking() {
            assert!(lines.is_empty(), "a passcode is in the log: {lines:#?}");
        }
    }
}
