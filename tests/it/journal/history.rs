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
        is_read(&house).await;
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
        miss(&house, ["25"]).await;
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
    let other = if last.starts_with('0') { "1" } else { "0" };
    let foreign = last.replacen(|_| true, other, 1);
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

/// A client's question for a page; the RECEIPT, and the messages.
async fn look_back(client: &mut StompClient, headers: &[(&str, &str)]) -> (Frame, Vec<String>) {
    let own = [("destination", "/history"), ("receipt", "page")];
    let mut frame = Frame::new(Command::Send);
    for (name, value) in own.iter().chain(headers) {
        frame.headers.push(name, value);
    }
    client.send(&frame).await;
    let (mut receipt, mut messages) = (None::<Frame>, Vec::new());
    loop {
        if let Some(receipt) = &receipt {
            let count = receipt.headers.get("messages");
            if count.is_none_or(|count| count.parse() == Ok(messages.len())) {
                return (receipt.clone(), messages);
            }
        }
        let next = client.expect_frame().await;
        match next.command {
            Command::Message => {
                let name = next.headers.get("subscription");
                assert_eq!(name, Some("/temp-queue/page"), "{next:?}");
                messages.push(told(&next).0);
            }
            _ => receipt = Some(next),
        }
    }
}

const PAGE: [(&str, &str); 3] = [
    ("exchange", FEED),
    ("key", "user_alice"),
    ("reply-to", "/temp-queue/page"),
];

#[tokio::test]
async fn clients_look_back_page_by_page() {
    for settings in [kept, forgetful] {
        let house = house(settings).await;
        is_bound(&house).await;
        house.push(numbers(0..25)).await;
        house.vhost.publish(FEED, "user_bob", ["x"]).await;
        is_read(&house).await;
        let mut client = house.ws().await;
        let (mut heard, mut after) = (Vec::new(), None::<String>);
        let next = loop {
            let mut headers = PAGE.to_vec();
            headers.push(("limit", "10"));
            headers.extend(after.as_deref().map(|after| ("after", after)));
            let (receipt, messages) = look_back(&mut client, &headers).await;
            heard.extend(messages);
            let next = receipt.headers.get("next").unwrap().to_owned();
            if receipt.headers.get("has-more") == Some("false") {
                break next;
            }
            after = Some(next);
        };
        assert_eq!(heard, numbers(0..25));
        miss(&house, ["25"]).await;
        let (_, missed) = subscribe(&mut client, &[("resume-after", &next)]).await;
        assert_eq!(bodies(&missed), ["25"]);
    }
}

/// A page is no more than a mailbox has room for, whatever its limit.
#[tokio::test]
async fn a_page_ends_where_the_client_has_no_room() {
    let house = house(|builder| kept(builder).set("mailbox.max_messages", "20")).await;
    is_bound(&house).await;
    miss(&house, numbers(0..50)).await;
    let mut client = house.tcp().await;
    let (mut heard, mut after) = (Vec::new(), None::<String>);
    while heard.len() < 50 {
        let mut headers = PAGE.to_vec();
        headers.extend(after.as_deref().map(|after| ("after", after)));
        let (receipt, messages) = look_back(&mut client, &headers).await;
        assert!((1..=20).contains(&messages.len()), "{receipt:?}");
        heard.extend(messages);
        after = Some(receipt.headers.get("next").unwrap().to_owned());
    }
    assert_eq!(heard, numbers(0..50));
}

#[tokio::test]
async fn questions_of_clients_that_cannot_be_answered_are_refused() {
    let house = house(kept).await;
    is_bound(&house).await;
    for (instead, message) in [
        (("exchange", ""), "Invalid header"),
        (("reply-to", "/queue/mine"), "Invalid header"),
        (("limit", "0"), "Invalid header"),
        (("limit", "1001"), "Invalid header"),
        (("after", "x"), "Invalid header"),
        (("after", "00000000-5-00000000"), "foreign cursor"),
        (("exchange", "amq.topic"), "no journal"),
        (("transaction", "t"), "Invalid header"),
    ] {
        let mut client = house.tcp().await;
        if instead.0 == "transaction" {
            let begin = Frame::new(Command::Begin).with_header("transaction", "t");
            client.send(&begin).await;
        }
        let others = PAGE.iter().filter(|(name, _)| *name != instead.0);
        let headers: Vec<_> = others.copied().chain([instead]).collect();
        let (refused, _) = if instead.0 == "transaction" {
            let mut frame = Frame::new(Command::Send).with_header("destination", "/history");
            for (name, value) in &headers {
                frame.headers.push(name, value);
            }
            client.send(&frame).await;
            let commit = Frame::new(Command::Commit).with_header("transaction", "t");
            client.send(&commit).await;
            (client.expect_frame().await, Vec::<String>::new())
        } else {
            look_back(&mut client, &headers).await
        };
        let told = refused.headers.get("message");
        assert_eq!(told, Some(message), "{instead:?}: {refused:?}");
        // It has none of a SUBSCRIBE's headers that it could leave out.
        let body = String::from_utf8_lossy(&refused.body);
        assert!(!body.contains("resume-after"), "{instead:?}: {body}");
    }
    // The right is that of a subscription. Another gateway remembers no answers of the hook.
    let house = House::open_with(kept).await;
    house.hook.rule(|asked| {
        let is_topic = asked.call == testkit::Call::Topic;
        is_topic.then_some(testkit::Answer::Deny)
    });
    let mut client = house.tcp().await;
    let (refused, messages) = look_back(&mut client, &PAGE).await;
    let told = refused.headers.get("message");
    assert_eq!(
        (told, messages.len()),
        (Some("access_refused"), 0),
        "{refused:?}"
    );
    // Nor does a question that was denied keep the name that its answer was to have.
    let house = House::open_with(|builder| {
        kept(builder)
            .set("auth.soft_deny", true)
            .set("limits.max_subscriptions", 2)
    })
    .await;
    house.hook.rule(|asked| {
        let is_theirs = asked.get("routing_key") == "user_bob";
        is_theirs.then_some(testkit::Answer::Deny)
    });
    let mut client = house.tcp().await;
    for number in 0..5 {
        let reply_to = format!("/temp-queue/{number}");
        let asked = [
            ("exchange", FEED),
            ("key", "user_bob"),
            ("reply-to", &*reply_to),
        ];
        let (refused, _) = look_back(&mut client, &asked).await;
        let told = refused.headers.get("message");
        assert_eq!(told, Some("access_refused"), "{refused:?}");
    }
    for _ in 0..2 {
        let (receipt, _) = look_back(&mut client, &PAGE).await;
        assert_eq!(receipt.command, Command::Receipt, "{receipt:?}");
    }
    client.subscribe("2", "/topic/a").await;
    // Without a journal it is no destination.
    let house = House::open().await;
    let mut client = house.tcp().await;
    let (refused, _) = look_back(&mut client, &PAGE).await;
    assert_eq!(refused.command, Command::Error);
}
