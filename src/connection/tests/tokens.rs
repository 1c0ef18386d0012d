//! Logins by tokens: the rights that they bring along, and the device that they name.

use serde_json::{Value, json};

use super::*;
use crate::auth::{
    self,
    jwt::testing::{SECRET, claims, hs256},
};

fn house(more: &str) -> House {
    let tokens = format!("[jwt]\naudiences = [\"stentor\"]\nsecret = \"{SECRET}\"\n{more}");
    House::with(Options {
        auth: auth::Config::of_text(&tokens),
        ..Options::default()
    })
}

/// A token with these claims besides.
fn token(more: &Value) -> String {
    let mut said = claims();
    let said_object = said.as_object_mut().unwrap();
    said_object.extend(more.as_object().unwrap().clone());
    hs256(&said)
}

/// A client that logs in by such a token, with further headers.
fn client(house: &House, more: &Value, headers: &str) -> Client {
    let (client, token) = (Client::new(house), token(more));
    client.send(format!(
        "CONNECT\naccept-version:1.2\nhost:/\npasscode:{token}\n{headers}\n\0"
    ));
    client
}

#[tokio::test(start_paused = true)]
async fn dead_letters_have_no_key_that_the_token_does_not_grant() {
    let house = house("subscribe = [\"/queue/{queue}\"]\nsend_claim = \"send\"\n");
    for (number, (send, key, is_allowed)) in [
        ("/exchange/feed/mine", "", false),
        ("/exchange/feed/mine", "mine", true),
        ("/exchange/feed/mine", "other", false),
        ("/exchange/feed/#", "", true),
    ]
    .into_iter()
    .enumerate()
    {
        let queue = format!("q{number}");
        let claims = json!({ "send": send, "queue": queue });
        let mut client = client(&house, &claims, "");
        client.expect(Command::Connected).await;
        let key = match key {
            "" => String::new(),
            key => format!("x-dead-letter-routing-key:{key}\n"),
        };
        client.send(format!(
            "SUBSCRIBE\nid:1\ndestination:/queue/{queue}\nreceipt:r\n\
             x-dead-letter-exchange:feed\n{key}\n\0"
        ));
        match is_allowed {
            true => client.expect_receipt("r").await,
            false => drop(client.expect_error("access_refused").await),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn where_tokens_name_the_device_connect_does_not() {
    let long = "x".repeat(129);
    for (setting, claims, expected) in [
        ("", json!({}), Some("said")),
        (
            "device_claim = \"dev\"",
            json!({ "dev": "named" }),
            Some("named"),
        ),
        ("device_claim = \"dev\"", json!({ "dev": 7 }), Some("7")),
        ("device_claim = \"dev\"", json!({}), None),
        ("device_claim = \"dev\"", json!({ "dev": "" }), None),
    ] {
        let house = house(setting);
        let mut client = client(&house, &claims, "device-id:said\n");
        client.expect(Command::Connected).await;
        // It is renewed by a token of the same kind.
        client.send(format!(
            "SEND\ndestination:/auth/renew\nreceipt:r\n\n{}\0",
            token(&claims)
        ));
        client.expect_receipt("r").await;
        for id in ["said", "named", "7"] {
            let ended = bans::run(&house, bans::ban(&house, &format!("device:{id}"), None)).await;
            let is_it = expected == Some(id);
            assert_eq!(ended, u64::from(is_it), "{id} of {setting} {claims}");
        }
    }
    for device in [json!(long), json!(["a"]), json!(true)] {
        let house = house("device_claim = \"dev\"");
        let mut client = client(&house, &json!({ "dev": device }), "");
        client.expect_error("Bad CONNECT").await;
    }
}
