//! Receipts are true at RabbitMQ, over TCP and over WebSocket.

use std::time::{Duration, Instant};

use stomp_grammar::Command;

use crate::house::{DESTINATION, House};

/// In one write: messages with receipts, and a frame that ends the session.
#[tokio::test]
async fn what_precedes_an_error_is_published_and_receipted() {
    let house = House::open().await;
    for bad in [
        "UNSUBSCRIBE\nid:nope\n\n\0",
        "WRONG\n\n\0",
        "ACK\nid:nope\n\n\0",
        "SEND\n\n\0",
        "SEND\ndestination:/exchange/nope/k\n\nx\0",
        "SEND\ndestination:/topic/a\nno colon\n\n\0",
    ] {
        let mut reader = house.tcp().await;
        reader.subscribe("1", DESTINATION).await;
        for mut client in [house.tcp().await, house.ws().await] {
            let mut text = String::new();
            for number in 0..20 {
                text += &format!("SEND\ndestination:{DESTINATION}\nreceipt:{number}\n\n{number}\0");
            }
            client.raw(text + bad).await;
            for number in 0..20 {
                client.expect_receipt(&number.to_string()).await;
                reader.expect_message(&number.to_string()).await;
            }
            let error = client.expect_frame().await;
            assert_eq!(error.command, Command::Error, "{error:?}");
            assert!(error.header("error-code").is_some(), "{error:?}");
            assert_eq!(error.header("reconnect"), Some("no"), "{error:?}");
            client.expect_closed().await;
        }
    }
}

/// Clients that leave on the receipt have had the message.
#[tokio::test]
async fn a_message_to_oneself_comes_before_its_receipt() {
    let house = House::open().await;
    for mut client in [house.tcp().await, house.ws().await] {
        client.subscribe("1", DESTINATION).await;
        for number in 0..100 {
            client
                .raw(format!(
                    "SEND\ndestination:{DESTINATION}\nreceipt:{number}\n\n{number}\0"
                ))
                .await;
            client.expect_message(&number.to_string()).await;
            client.expect_receipt(&number.to_string()).await;
        }
    }
}

/// Many libraries wait for it.
#[tokio::test]
async fn after_a_disconnect_the_connection_ends_soon() {
    let house = House::open().await;
    for mut client in [house.tcp().await, house.ws().await] {
        client.raw("DISCONNECT\nreceipt:bye\n\n\0").await;
        client.expect_receipt("bye").await;
        let start = Instant::now();
        client.expect_closed().await;
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(1), "{waited:?}");
    }
}
