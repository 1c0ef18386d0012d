//! Messages without a subscription, by the HTTP API; and what nobody may do.

use serde_json::Value;

use super::*;

/// Lets its bearer read journals, and nothing else.
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

async fn house(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> House {
    House::open_with(|builder| settings(builder).set("api.tokens", format!("app=history {TOKEN}")))
        .await
}

async fn page(house: &House, query: &str) -> (u16, Value) {
    let path = format!("{}/api/v1/journal/{query}", house.gateway.admin_url());
    let client = reqwest::Client::new();
    let answer = client.get(path).bearer_auth(TOKEN).send().await.unwrap();
    let status = answer.status().as_u16();
    let body = answer.bytes().await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn history_comes_page_by_page() {
    for settings in [kept, forgetful] {
        let house = house(settings).await;
        is_bound(&house).await;
        for number in 0..25 {
            house.push([number.to_string()]).await;
            house.vhost.publish(FEED, "user_bob", ["x"]).await;
        }
        let (mut heard, mut query) = (Vec::new(), "feed?key=user_alice&limit=10".to_owned());
        let next = loop {
            let (status, page) = page(&house, &query).await;
            assert_eq!(status, 200, "{page}");
            let messages = page["messages"].as_array().unwrap();
            heard.extend(
                messages
                    .iter()
                    .map(|one| one["body"].as_str().unwrap().to_owned()),
            );
            let next = page["next"].as_str().unwrap().to_owned();
            if page["has_more"] == false {
                break next;
            }
            query = format!("feed?key=user_alice&limit=10&after={next}");
        };
        assert_eq!(heard, numbers(0..25));
        // From there a client goes on live.
        house.push(["25"]).await;
        let mut client = house.tcp().await;
        let (_, missed) = subscribe(&mut client, &[("resume-after", &next)]).await;
        assert_eq!(bodies(&missed), ["25"]);
    }
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let house = house(kept).await;
    let last = hear_and_leave(&house, 0..1).await;
    let (place, _) = last.rsplit_once('-').unwrap();
    let replaced = format!("{place}-00000000");
    let foreign = last.replacen(|_| true, "0", 1);
    for (query, status, field) in [
        ("feed", 400, "key"),
        ("feed?key=k&limit=0", 400, "limit"),
        ("feed?key=k&limit=1001", 400, "limit"),
        ("feed?key=k&after=x", 400, "after"),
        (&format!("feed?key=k&after={foreign}"), 400, "after"),
        (&format!("feed?key=k&after={replaced}"), 410, "after"),
        ("feed?key=k&since=1", 400, "since"),
        ("other?key=k", 404, "exchange"),
        ("feed?key=k&vhost=none", 404, "vhost"),
    ] {
        let (answered, body) = page(&house, query).await;
        assert_eq!(answered, status, "{query}: {body}");
        let said = body.to_string();
        assert!(said.contains(field), "{query}: {said}");
    }
    let mut client = house.tcp().await;
    // A journal has everybody's messages: only the gateway reads and writes its stream.
    for destination in [
        "/amq/queue/stentor.journal.feed",
        "/queue/stentor.journal.feed",
    ] {
        let headers = [("id", "1"), ("destination", destination), ("ack", "client")];
        client.send(&asking(&headers)).await;
        client.expect_error("access_refused").await;
        client = house.tcp().await;
        let sending = Frame::new(Command::Send).with_header("destination", destination);
        client.send(&sending).await;
        client.expect_error("access_refused").await;
        client = house.tcp().await;
    }
}
