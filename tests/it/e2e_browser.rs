//! @stomp/stompjs in Chromium.

use serde_json::json;
use testkit::Remote;

use crate::{
    foreign::{Server, a_day},
    house::House,
};

#[tokio::test]
async fn chromium_at_the_plugin() {
    chromium(&Server::plugins().await).await;
}

#[tokio::test]
async fn chromium_at_the_gateway() {
    chromium(&Server::gateway().await).await;
}

async fn chromium(server: &Server) {
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "open" }));
    browser.expect("opened").await;
    let connect = server.connect_ws(&json!({}));
    a_day(server, browser, &connect, "1.2").await;
}

/// A page of another origin is refused by default, and let in once it is listed.
#[tokio::test]
async fn only_listed_origins_connect() {
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "open" }));
    let opened = browser.expect("opened").await;
    let origin = opened["origin"].as_str().expect("an origin");

    let strict = Server::Gateway(Box::new(House::open().await));
    browser.order(&strict.connect_ws(&json!({})));
    let closed = browser.expect("closed").await;
    assert_eq!(closed["code"], 1006, "{closed}");

    let house = House::open_with(|builder| builder.set("listen.origins", origin)).await;
    let listed = Server::Gateway(Box::new(house));
    browser.order(&listed.connect_ws(&json!({})));
    browser.expect("connected").await;

    browser.order(&json!({ "do": "close" }));
    browser.expect("gone").await;
}
