//! Exchanges that are deleted and made anew, and bindings that somebody takes away: the broker says
//! nothing.

use std::ops::RangeInclusive;

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

fn verifying(rate: u32) -> FeedConfig {
    FeedConfig {
        verify_interval: INTERVAL,
        verify_rate: rate,
        ..config()
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_bound_to_the_exchange_as_it_is_now() {
    let scene = scene();
    let others = [Client::new(), Client::new()];
    let _shares = scene.subscribing("direct", "shared", &others[0]).await;
    drop(scene.subscribed("direct", "lingers").await);
    scene.fake.rebuild("direct", ExchangeKind::Direct);
    let [lingers, shares] = [Client::new(), Client::new()];
    let _guards = (
        scene.subscribing("direct", "lingers", &lingers).await,
        scene.subscribing("direct", "shared", &shares).await,
    );
    scene.fake.publish("direct", &["lingers"], "one");
    scene.fake.publish("direct", &["shared"], "two");
    assert_eq!(lingers.bodies(), ["one"]);
    assert_eq!(shares.bodies(), ["two"]);
    // And with them those who had been there.
    assert_eq!(others[0].bodies(), ["two"]);
    sleep(LINGER * 3).await;
    for key in ["lingers", "shared"] {
        assert!(scene.fake.is_bound("direct", key), "{key}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_of_many_is_asked_for_a_few_times_only() {
    let scene = scene();
    let _first = scene.subscribed("direct", "hot").await;
    scene.fake.calls();
    scene.fake.hold();
    let client = Client::new();
    let mut subscribing = Vec::new();
    for _ in 0..1_000 {
        subscribing.push(scene.subscribing("direct", "hot", &client));
    }
    sleep(Duration::from_millis(10)).await;
    assert_eq!((scene.fake.binds(), scene.fake.waiting()), (1, 1));
    scene.fake.answer(Ok(()));
    for subscribing in subscribing.drain(..) {
        subscribing.await.unwrap().unwrap().unwrap();
    }
    // The broker took 10 ms, and is left alone for four times as long.
    for _ in 0..3 {
        sleep(Duration::from_millis(10)).await;
        subscribing.push(scene.subscribing("direct", "hot", &client));
        settle().await;
        assert_eq!(scene.fake.binds(), 0);
    }
    sleep(Duration::from_millis(10)).await;
    assert_eq!(scene.fake.binds(), 1);
    assert!(
        subscribing
            .iter()
            .all(|subscribing| !subscribing.is_finished())
    );
    scene.fake.answer(Ok(()));
    for subscribing in subscribing {
        subscribing.await.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_fails_is_the_fault_of_nobody_who_was_there_before() {
    let scene = scene();
    let before = Client::new();
    let _before = scene.subscribing("direct", "key", &before).await;
    scene.fake.refuse(Some(unavailable()));
    let client = Client::new();
    let refused = scene.subscribing("direct", "key", &client).await;
    assert_eq!(refused.unwrap().unwrap_err(), unavailable());
    scene.fake.publish("direct", &["key"], "hello");
    assert_eq!(before.bodies(), ["hello"]);
    assert!(client.take().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_for_a_check_is_bound_after_a_loss() {
    let scene = scene_with(&FeedConfig {
        shards: 1,
        ..config()
    });
    let [before, waits] = [Client::new(), Client::new()];
    let _before = scene.subscribing("direct", "key", &before).await;
    scene.fake.hold();
    let waiting = scene.subscribing("direct", "key", &waits);
    settle().await;
    let feed = FeedId {
        exchange: "direct".into(),
        shard: 0,
    };
    scene.fake.sink().lost(&feed, "lost");
    assert!(before.was_interrupted() && waits.take().is_none());
    scene.fake.answer(Ok(()));
    settle().await;
    // That one may have come before the loss.
    assert!(!waiting.is_finished());
    scene.fake.answer(Ok(()));
    let _waits = waiting.await.unwrap().unwrap().unwrap();
    scene.fake.publish("direct", &["key"], "hello");
    assert_eq!(
        (waits.bodies(), before.bodies()),
        (vec!["hello".to_owned()], Vec::new())
    );
}

/// While it rested, all was lost, and set up anew with what was listed then.
#[tokio::test(start_paused = true)]
async fn a_pattern_that_is_lost_while_it_rests_leaves_nothing() {
    let scene = scene_with(&FeedConfig {
        shards: 1,
        ..config()
    });
    let first = scene.subscribed("direct", "key").await;
    scene.fake.hold();
    let second = scene.subscribing("direct", "key", &Client::new());
    sleep(Duration::from_millis(100)).await;
    scene.fake.answer(Ok(()));
    drop((first, second.await));
    let feed = FeedId {
        exchange: "direct".into(),
        shard: 0,
    };
    scene.fake.sink().lost(&feed, "lost");
    scene.fake.restart();
    assert_eq!(scene.fake.bound(), ["key"]);
    scene.fake.release();
    sleep(LINGER * 3).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_fanout_exchange_that_was_made_anew_is_bound_within_an_interval() {
    let scene = scene_with(&verifying(1));
    let client = Client::new();
    let _guard = scene.subscribing("fanout", "", &client).await;
    // Keys of others are many, and do not hold it up.
    let mut guards = Vec::new();
    for number in 0..100 {
        guards.push(scene.subscribed("direct", &number.to_string()).await);
    }
    sleep(INTERVAL * 3).await;
    scene.fake.rebuild("fanout", ExchangeKind::Fanout);
    sleep(INTERVAL + A_MOMENT).await;
    scene.fake.publish("fanout", &["any"], "hello");
    assert_eq!(client.bodies(), ["hello"]);
}

#[tokio::test(start_paused = true)]
async fn so_is_the_binding_to_everything() {
    let scene = scene_with(&FeedConfig {
        binding: Binding::All,
        shards: 0,
        ..verifying(1)
    });
    let client = Client::new();
    let _guard = scene.subscribing("topic", "a.*", &client).await;
    scene.fake.rebuild("topic", ExchangeKind::Topic);
    sleep(INTERVAL + A_MOMENT).await;
    scene.fake.publish("topic", &["a.b"], "hello");
    assert_eq!(client.bodies(), ["hello"]);
}

#[tokio::test(start_paused = true)]
async fn keys_are_bound_again_in_turn_at_a_bounded_rate() {
    in_turn("topic", 900..=1_100).await;
}

/// There a sentinel notices that the exchange was made anew.
#[tokio::test(start_paused = true)]
async fn keys_of_a_direct_exchange_are_bound_again_at_a_sixteenth_of_the_rate() {
    in_turn("direct", 32..=96).await;
}

/// When all users come at once, or many nodes share it.
#[tokio::test(start_paused = true)]
async fn a_broker_that_takes_long_is_left_alone() {
    let scene = scene_with(&verifying(100));
    let mut guards = Vec::new();
    for number in 0..100 {
        guards.push(scene.subscribed("topic", &number.to_string()).await);
    }
    scene.fake.hold();
    while scene.fake.waiting() == 0 {
        sleep(A_MOMENT).await;
    }
    sleep(Duration::from_secs(1)).await;
    scene.fake.release();
    while scene.fake.waiting() > 0 {
        scene.fake.answer(Ok(()));
    }
    scene.fake.calls();
    sleep(Duration::from_secs(19)).await;
    assert_eq!(scene.fake.binds(), 0);
    sleep(Duration::from_secs(2)).await;
    assert!(scene.fake.binds() > 0);
}

/// Of 2,000 keys, of which all bindings are taken away, so many are asked for in 10 s; and nobody
/// is left out.
async fn in_turn(exchange: &'static str, in_10_s: RangeInclusive<usize>) {
    let scene = scene_with(&verifying(100));
    let clients: Vec<_> = (0..2_000).map(|_| Client::new()).collect();
    let mut guards = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        let subscribing = scene.subscribing(exchange, &number.to_string(), client);
        guards.push(subscribing.await.unwrap().unwrap().unwrap());
    }
    sleep(INTERVAL).await;
    for number in 0..clients.len() {
        scene.fake.take_away(&number.to_string());
    }
    scene.fake.calls();
    sleep(Duration::from_secs(10)).await;
    let asked = scene.fake.binds();
    assert!(in_10_s.contains(&asked), "{asked} in 10 s");
    // All keys divided by the rate, after what was under way when they were taken.
    let rate = u64::try_from(asked / 10).unwrap();
    sleep(Duration::from_secs(6_000 / rate)).await;
    assert_eq!(scene.fake.bound().len(), clients.len());
    for (number, client) in clients.iter().enumerate() {
        scene
            .fake
            .publish(exchange, &[&number.to_string()], "hello");
        assert_eq!(client.bodies(), ["hello"], "{number}");
    }
    // Nobody is subscribed: nothing is bound again.
    drop(guards);
    sleep(LINGER * 3).await;
    assert_eq!(scene.fake.bound(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_few_keys_are_not_asked_for_more_often_than_once_an_interval() {
    let scene = scene_with(&verifying(250));
    let _guard = scene.subscribed("topic", "a.b").await;
    scene.fake.calls();
    sleep(INTERVAL * 20).await;
    let asked = scene.fake.binds();
    assert!((19..=21).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn while_the_broker_is_away_nothing_is_asked_for() {
    let scene = scene_with(&verifying(250));
    let guards = (
        scene.subscribed("topic", "a.b").await,
        scene.subscribed("fanout", "").await,
    );
    scene.fake.refuse(Some(unavailable()));
    scene.fake.calls();
    sleep(INTERVAL * 20).await;
    assert_eq!(scene.fake.calls(), []);
    scene.fake.refuse(None);
    sleep(INTERVAL * 2).await;
    assert!(scene.fake.binds() >= 2);
    drop(guards);
}

#[tokio::test(start_paused = true)]
async fn a_type_that_changed_is_noticed_and_told() {
    let scene = scene_with(&verifying(250));
    let [wild, other] = [Client::new(), Client::new()];
    let _wild = scene.subscribing("topic", "a.*", &wild).await;
    let _other = scene.subscribing("direct", "a", &other).await;
    scene.fake.rebuild("topic", ExchangeKind::Direct);
    sleep(INTERVAL * 61).await;
    assert!(wild.was_interrupted() && other.take().is_none());
    // Her former pattern matches nothing in the new type.
    let again = Client::new();
    let _again = scene.subscribing("topic", "a.*", &again).await;
    scene.fake.publish("topic", &["a.b"], "no");
    scene.fake.publish("topic", &["a.*"], "yes");
    assert_eq!(again.bodies(), ["yes"]);
}

#[tokio::test(start_paused = true)]
async fn a_type_that_changed_while_nobody_was_there_is_learnt_by_the_next() {
    let scene = scene();
    drop(scene.subscribed("topic", "a.*").await);
    sleep(LINGER * 2).await;
    scene.fake.rebuild("topic", ExchangeKind::Other);
    let next = scene.subscribing("topic", "a.*", &Client::new()).await;
    assert!(
        next.unwrap().unwrap().is_none(),
        "only the broker can match it"
    );
    // That it is of such a type is asked for once in ten minutes at most.
    scene.fake.rebuild("topic", ExchangeKind::Fanout);
    let next = scene.subscribing("topic", "a.*", &Client::new()).await;
    assert!(next.unwrap().unwrap().is_none());
    sleep(Duration::from_secs(600)).await;
    let client = Client::new();
    let _next = scene.subscribing("topic", "a.*", &client).await;
    scene.fake.publish("topic", &["any"], "hello");
    assert_eq!(client.bodies(), ["hello"]);
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_is_gone_is_told() {
    let scene = scene_with(&verifying(250));
    let client = Client::new();
    let _guard = scene.subscribing("topic", "a.*", &client).await;
    scene.fake.remove("topic");
    sleep(INTERVAL * 61).await;
    assert!(client.was_interrupted());
    let error = scene.subscribing("topic", "a.*", &client).await;
    assert!(matches!(error.unwrap(), Err(BrokerError::NotFound(_))));
}

fn one_shard() -> FeedConfig {
    FeedConfig {
        shards: 1,
        ..config()
    }
}

fn feed() -> FeedId {
    FeedId {
        exchange: "topic".into(),
        shard: 0,
    }
}

/// The exchange may have been made anew while the link was lost.
#[tokio::test(start_paused = true)]
async fn after_a_lost_link_all_is_asked_for_again() {
    for binding in [Binding::Key, Binding::All] {
        let scene = scene_with(&FeedConfig {
            shards: u16::from(binding == Binding::Key),
            binding,
            ..config()
        });
        let client = Client::new();
        let mut guards = Vec::new();
        for key in 0..200 {
            guards.push(scene.subscribing("topic", &key.to_string(), &client).await);
        }
        // It left, and lingers.
        drop(scene.subscribed("topic", "lingers").await);
        scene.fake.rebuild("topic", ExchangeKind::Topic);
        scene.fake.sink().resumed(&feed(), false);
        settle().await;
        assert!(!scene.fake.is_bound("topic", "lingers"));
        for key in 0..200 {
            let key = key.to_string();
            scene.fake.publish("topic", &[&key], &key);
            assert_eq!(client.bodies(), [key]);
        }
    }
}

/// A subscription just began, so the broker is left alone for a moment.
#[tokio::test(start_paused = true)]
async fn after_a_lost_link_a_key_that_rests_is_asked_for_as_well() {
    let scene = scene_with(&one_shard());
    let client = Client::new();
    let _first = scene.subscribing("topic", "a", &client).await;
    scene.fake.hold();
    let second = scene.subscribing("topic", "a", &Client::new());
    sleep(Duration::from_millis(100)).await;
    scene.fake.answer(Ok(()));
    let _second = second.await;
    scene.fake.release();
    scene.fake.rebuild("topic", ExchangeKind::Topic);
    scene.fake.sink().resumed(&feed(), false);
    sleep(Duration::from_secs(1)).await;
    scene.fake.publish("topic", &["a"], "hello");
    assert_eq!(client.bodies(), ["hello"]);
}

/// The broker is slow, and keys are left while it binds them again.
#[tokio::test(start_paused = true)]
async fn what_is_left_while_it_is_asked_for_again_is_taken_away() {
    let scene = scene_with(&FeedConfig {
        linger: Duration::ZERO,
        ..one_shard()
    });
    let mut guards = Vec::new();
    for key in 0..100 {
        guards.push(scene.subscribed("topic", &key.to_string()).await);
    }
    scene.fake.hold();
    scene.fake.sink().resumed(&feed(), false);
    settle().await;
    assert!(scene.fake.waiting() > 0);
    drop(guards);
    for _ in 0..1_000 {
        settle().await;
        // The newest first: calls on different channels overtake each other.
        match scene.fake.waiting() {
            0 => break,
            waiting => scene.fake.answer_nth(waiting - 1, Ok(()), true),
        }
    }
    scene.fake.release();
    sleep(Duration::from_secs(5)).await;
    assert_eq!((scene.fake.waiting(), scene.fake.bound()), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_went_with_the_link_is_told() {
    let scene = scene_with(&one_shard());
    let client = Client::new();
    let _guard = scene.subscribing("topic", "a", &client).await;
    scene.fake.hold();
    scene.fake.sink().resumed(&feed(), false);
    settle().await;
    // As the broker does that finds it gone.
    scene.fake.lose("topic");
    scene.fake.answer(Err(BrokerError::NotFound("gone".into())));
    settle().await;
    assert!(client.was_interrupted());
}

/// RabbitMQ was killed. What it had bound just before, it may not have written.
#[tokio::test(start_paused = true)]
async fn who_is_bound_just_before_the_broker_is_killed_is_told() {
    for (binding, told) in [
        (Binding::Key, [false, true, true]),
        (Binding::All, [true; 3]),
    ] {
        let scene = scene_with(&FeedConfig {
            binding,
            ..one_shard()
        });
        let clients = [Client::new(), Client::new(), Client::new()];
        let mut guards = Vec::new();
        if binding == Binding::Key {
            guards.push(scene.subscribing("topic", "old", &clients[0]).await);
            sleep(Duration::from_secs(5)).await;
            // That it is asked for again makes it no younger.
            scene.fake.sink().resumed(&feed(), false);
            settle().await;
        } else {
            guards.push(scene.subscribing("topic", "old", &clients[0]).await);
        }
        for (key, client) in [("young", &clients[1]), ("youngest", &clients[2])] {
            guards.push(scene.subscribing("topic", key, client).await);
        }
        scene.fake.sink().cut(&feed());
        settle().await;
        for client in &clients {
            assert!(!client.was_interrupted(), "not before it is known");
        }
        scene.fake.sink().resumed(&feed(), true);
        settle().await;
        let interrupted = clients.each_ref().map(Client::was_interrupted);
        assert_eq!(interrupted, told, "{binding:?}");
    }
}

/// It was the network, or RabbitMQ said that it stops.
#[tokio::test(start_paused = true)]
async fn a_lost_link_alone_is_no_reason_to_tell_anybody() {
    let scene = scene_with(&one_shard());
    let client = Client::new();
    let _guard = scene.subscribing("topic", "young", &client).await;
    scene.fake.sink().cut(&feed());
    scene.fake.sink().resumed(&feed(), false);
    settle().await;
    // What was in doubt then is in none at the next cut.
    sleep(Duration::from_secs(5)).await;
    scene.fake.sink().cut(&feed());
    scene.fake.sink().resumed(&feed(), true);
    settle().await;
    assert!(!client.was_interrupted());
}
