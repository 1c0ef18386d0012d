//! Feeds that nobody uses any more are given up.

use super::*;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(300);

fn one_shard() -> Scene {
    scene_with(&FeedConfig {
        shards: 1,
        ..config()
    })
}

impl Scene {
    fn feeds(&self) -> Vec<String> {
        let open = self.hub.feeds.open.read();
        let mut names: Vec<_> = open.keys().map(|id| id.exchange.to_string()).collect();
        names.sort_unstable();
        names
    }

    fn ended(&self) -> Vec<Call> {
        let mut calls = self.fake.calls();
        calls.retain(|call| matches!(call, Call::End(_)));
        calls
    }
}

fn end(exchange: &str) -> Call {
    Call::End(FeedId {
        exchange: exchange.into(),
        shard: 0,
    })
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_nobody_uses_is_given_up() {
    let scene = one_shard();
    let stays = Client::new();
    let _stays = scene.subscribing("topic", "a.*", &stays).await;
    drop(scene.subscribed("direct", "a").await);
    drop(scene.subscribed("fanout", "").await);
    sleep(LOOK + A_MOMENT).await;
    assert_eq!(scene.ended(), [], "they were used a while ago");
    // One after the other.
    sleep(LOOK + Duration::from_secs(1)).await;
    let mut ended = scene.ended();
    ended.sort_by_key(|call| format!("{call:?}"));
    assert_eq!(ended, [end("direct"), end("fanout")]);
    assert_eq!(scene.feeds(), ["topic"]);
    scene.fake.publish("topic", &["a.b"], "hello");
    assert_eq!(stays.bodies(), ["hello"]);

    let again = Client::new();
    let _again = scene.subscribing("direct", "a", &again).await;
    scene.fake.publish("direct", &["a"], "anew");
    assert_eq!(again.bodies(), ["anew"]);
}

/// As where an exchange is made for each game, and deleted after it.
#[tokio::test(start_paused = true)]
async fn a_feed_of_an_exchange_that_is_gone_is_given_up() {
    for binding in [Binding::Key, Binding::All] {
        let scene = scene_with(&FeedConfig {
            shards: u16::from(binding == Binding::Key),
            binding,
            ..config()
        });
        let client = Client::new();
        let guard = scene.subscribing("topic", "a.*", &client).await;
        scene.fake.lose("topic");
        scene.fake.remove("topic");
        drop(guard);
        sleep(LOOK * 2 + A_MOMENT).await;
        assert_eq!((scene.ended(), scene.feeds()), (vec![end("topic")], vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_is_used_now_and_then_stays() {
    let scene = one_shard();
    for _ in 0..5 {
        drop(scene.subscribed("direct", "a").await);
        sleep(LOOK).await;
    }
    assert_eq!(
        (scene.ended(), scene.feeds()),
        (vec![], vec!["direct".to_owned()])
    );
}

#[tokio::test(start_paused = true)]
async fn a_feed_whose_binding_is_under_way_stays() {
    let scene = one_shard();
    scene.fake.hold();
    let client = Client::new();
    let waiting = scene.subscribing("direct", "a", &client);
    settle().await;
    waiting.abort();
    sleep(LOOK * 3).await;
    assert_eq!(scene.ended(), []);
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_no_feed_is_given_up() {
    let scene = one_shard();
    drop(scene.subscribed("direct", "a").await);
    sleep(LINGER * 2).await;
    scene.fake.refuse(Some(unavailable()));
    sleep(LOOK * 3).await;
    assert_eq!(scene.ended(), []);
    scene.fake.refuse(None);
    sleep(LOOK + A_MOMENT).await;
    assert_eq!(scene.ended(), [end("direct")]);
}

/// Somebody has found the feed, and it is given up before he is in.
#[tokio::test(start_paused = true)]
async fn a_feed_that_was_given_up_takes_nobody() {
    let scene = one_shard();
    drop(scene.subscribed("direct", "a").await);
    let (found, _) = scene.hub.feed("direct", "a").await.unwrap().unwrap();
    sleep(LOOK * 2 + A_MOMENT).await;
    assert_eq!(scene.ended(), [end("direct")]);
    let client = Client::new();
    let subscriber = Subscriber {
        mailbox: Arc::clone(&client.0),
        subscription: SubscriptionId(1),
    };
    assert!(found.add("a", subscriber).is_none());
    let (next, _) = scene.hub.feed("direct", "a").await.unwrap().unwrap();
    assert!(!Arc::ptr_eq(&found, &next));
    let _guard = scene.subscribing("direct", "a", &client).await;
    scene.fake.publish("direct", &["a"], "hello");
    assert_eq!(client.bodies(), ["hello"]);
}

/// One who has found it and is in before it is given up keeps it.
#[tokio::test(start_paused = true)]
async fn a_feed_that_is_used_just_now_is_not_given_up() {
    let scene = one_shard();
    drop(scene.subscribed("direct", "a").await);
    sleep(LOOK + A_MOMENT).await;
    let (feed, _) = scene.hub.feed("direct", "a").await.unwrap().unwrap();
    let _guard = scene.subscribed("direct", "a").await;
    assert!(!feed.give_up());
}
