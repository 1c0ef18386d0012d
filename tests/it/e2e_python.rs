//! stomp.py as a client, and pika as a backend.

use serde_json::json;
use testkit::{FEED, Remote};

use crate::{
    foreign::{Server, a_day, subscribe, work},
    house::{self, KEY},
};

#[tokio::test]
async fn stomp_py_at_the_plugins() {
    stomp_py(&Server::plugins().await).await;
}

#[tokio::test]
async fn stomp_py_at_the_gateway() {
    stomp_py(&Server::gateway().await).await;
}

async fn stomp_py(server: &Server) {
    for version in ["1.1", "1.2"] {
        let connect = server.connect_tcp(&json!({ "version": version }));
        a_day(server, Remote::python("stomppy.py"), &connect, version).await;
        work(server, || Remote::python("stomppy.py"), &connect).await;
    }
    let url = server.ws_url();
    let address = url
        .strip_prefix("ws://")
        .and_then(|url| url.strip_suffix("/ws"));
    let connect = server.connect_tcp(&json!({ "address": address, "path": "/ws" }));
    a_day(server, Remote::python("stomppy.py"), &connect, "1.2").await;
}

#[tokio::test]
async fn pika_pushes_by_way_of_the_plugin() {
    pika_pushes(&Server::plugins().await).await;
}

#[tokio::test]
async fn pika_pushes_by_way_of_the_gateway() {
    pika_pushes(&Server::gateway().await).await;
}

/// The backend knows AMQP only: its properties and headers arrive as STOMP headers.
async fn pika_pushes(server: &Server) {
    let mut client = Remote::python("stomppy.py");
    client.order(&server.connect_tcp(&json!({})));
    client.expect("connected").await;
    client.order(&subscribe(
        "/exchange/feed/user_alice",
        json!({ "receipt": "subscribed" }),
    ));
    client.expect("receipt").await;

    let mut backend = Remote::python("producer.py");
    backend.order(&json!({
        "do": "publish", "url": server.vhost().amqp_url(), "exchange": FEED, "key": KEY,
        "count": 1000, "body": "order {}", "content_type": "text/plain",
        "headers": { "color": "red", "size": 7, "urgent": true },
    }));
    backend.expect("published").await;

    let first = client.expect("message").await;
    assert_eq!(first["body"], "order 0");
    let headers = &first["headers"];
    assert_eq!(headers["content-type"], "text/plain");
    assert_eq!(headers["persistent"], "true");
    assert_eq!([&headers["color"], &headers["size"]], ["red", "7"]);
    // The plug-in leaves booleans out.
    if let Server::Gateway(_) = server {
        assert_eq!(headers["urgent"], "true");
    }
    let rest: Vec<String> = house::numbers(1..1000)
        .iter()
        .map(|number| format!("order {number}"))
        .collect();
    assert_eq!(client.expect_bodies(999).await, rest);
}
