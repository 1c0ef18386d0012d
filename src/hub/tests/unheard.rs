//! Messages that came in vain, at a broker whose word on them gets lost.

use std::collections::HashSet;

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::{
    broker::{OfflineConfig, STANDING_LANES, lane_of_unheard, offline_of},
    hub::unheard::Unheard,
};

const LONG: Duration = Duration::from_secs(3600);

struct HandingOn {
    fake: Arc<Fake>,
    unheard: Arc<Unheard>,
    _running: AbortOnDropHandle<()>,
}

impl HandingOn {
    fn start() -> Self {
        let fake = Fake::new(&[]);
        let (unheard, running) = Unheard::start("feed", lane_of_unheard(0), Arc::clone(&fake) as _);
        Self {
            fake,
            unheard,
            _running: running,
        }
    }

    /// What is published of messages with these bodies, until none waits; marked ones with a `+`.
    async fn published(&self, bodies: &[&'static str]) -> Vec<String> {
        for body in bodies {
            let (exchange, key, body) = ("feed".into(), "user_a".into(), (*body).into());
            let message = Message::new(exchange, key, Properties::default(), body);
            self.unheard.push(&Arc::new(message), |_| true);
        }
        self.unheard.flush(Instant::now() + LONG).await;
        let published = self.fake.published().into_iter();
        let shown = published.map(|publish| {
            let body = String::from_utf8_lossy(&publish.body).into_owned();
            let headers = &mut publish.properties.headers.iter();
            let is_marked = headers.any(|(name, _)| &**name == "x-possible-duplicate");
            body + if is_marked { "+" } else { "" }
        });
        shown.collect()
    }
}

/// Which of them it came for, nobody can tell.
#[tokio::test(start_paused = true)]
async fn a_message_with_several_keys_is_handed_on_by_each() {
    let on = HandingOn::start();
    let message = Message::new(
        "feed".into(),
        "user_alice".into(),
        Properties::default(),
        "x".into(),
    );
    let message = Arc::new(message.with_cc(vec!["user_bob".into(), "user_alice".into()]));
    on.unheard.push(&message, |_| true);
    on.unheard.flush(Instant::now() + LONG).await;
    let published = on.fake.published();
    let keys = published.iter().map(|publish| &*publish.routing_key);
    assert_eq!(keys.collect::<Vec<_>>(), ["user_alice", "user_bob"]);
    assert!(published.iter().all(|publish| publish.body == "x"));
    // By those alone that were not confirmed, it is handed on again.
    on.fake.confirm_by([Ok(()), lost()]);
    on.unheard.push(&message, |_| true);
    on.unheard.flush(Instant::now() + LONG).await;
    let published = on.fake.published();
    let keys = published.iter().map(|publish| &*publish.routing_key);
    let expected = ["user_alice", "user_bob", "user_bob"];
    assert_eq!(keys.collect::<Vec<_>>(), expected);
}

/// Its keys share one body.
#[tokio::test(start_paused = true)]
async fn a_message_takes_room_once_for_all_its_keys() {
    let on = HandingOn::start();
    let message = Message::new(
        "feed".into(),
        "user_0".into(),
        Properties::default(),
        vec![b'x'; 1 << 20].into(),
    );
    let others = (1..=40).map(|number| format!("user_{number}").into());
    let message = Arc::new(message.with_cc(others.collect()));
    on.unheard.push(&message, |_| true);
    on.unheard.flush(Instant::now() + LONG).await;
    assert_eq!(on.fake.published().len(), 41);
}

fn lost() -> Result<(), BrokerError> {
    Err(BrokerError::Unavailable("the link was cut".into()))
}

#[tokio::test(start_paused = true)]
async fn what_was_not_confirmed_is_handed_on_again_in_order() {
    let on = HandingOn::start();
    let answers = [Ok(()), lost(), Err(BrokerError::Nacked), Ok(())];
    on.fake.confirm_by(answers);
    let published = on.published(&["1", "2", "3", "4"]).await;
    // The broker may have the second one already; the third it has not.
    assert_eq!(published, ["1", "2", "3", "4", "2+", "3"]);
    assert_eq!(on.published(&["5"]).await, ["5"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_for_ever_or_in_vain() {
    let on = HandingOn::start();
    on.fake.confirm_by(std::iter::repeat_with(lost).take(100));
    let published = on.published(&["1"]).await;
    assert_eq!(published[..2], ["1", "1+"]);
    assert_eq!(published.len(), 12);
    let too_large = BrokerError::PreconditionFailed("it is too large".into());
    on.fake.confirm_by([Err(too_large)]);
    assert_eq!(on.published(&["2", "3"]).await, ["2", "3"]);
}

fn config_with(sources: &[&str]) -> FeedConfig {
    let offline = OfflineConfig {
        sources: sources.iter().copied().map(String::from).collect(),
        ..OfflineConfig::default()
    };
    FeedConfig {
        offline: offline.feeds("/"),
        ..config()
    }
}

/// The keys, in order, by which a message with all of `keys` is handed on when the subscribers of
/// these patterns have just left, and the broker has not unbound them yet.
async fn handed_on(source: &'static str, patterns: &[String], keys: &[String]) -> Vec<String> {
    let scene = scene_with(&config_with(&[source]));
    let mut subscriptions = Vec::new();
    for pattern in patterns {
        subscriptions.push(scene.subscribed(source, pattern).await);
    }
    scene.fake.hold();
    drop(subscriptions);
    settle().await;
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    scene.fake.publish(source, &keys, "x");
    settle().await;
    let published = scene.fake.published().into_iter();
    let mut keys: Vec<_> = published.map(|one| one.routing_key.to_string()).collect();
    keys.sort_unstable();
    keys
}

fn of_users(end: &str) -> Vec<String> {
    let keys = (10..42).map(|number| format!("user_{number}{end}"));
    keys.collect()
}

/// Each shard with one of its keys has a copy.
#[tokio::test(start_paused = true)]
async fn a_message_in_several_shards_is_handed_on_once_by_each_key() {
    let keys = of_users("");
    for source in ["direct", "topic"] {
        assert_eq!(handed_on(source, &keys, &keys).await, keys, "{source}");
    }
}

/// Which shard has the pattern of a key, the key does not tell: rather twice than not at all.
#[tokio::test(start_paused = true)]
async fn what_came_by_patterns_is_handed_on_by_all_its_keys() {
    let keys = of_users(".news");
    let mut by = handed_on("topic", &of_users(".*"), &keys).await;
    by.dedup();
    assert_eq!(by, keys);
}

/// Its messages are tried again for a minute.
#[tokio::test(start_paused = true)]
async fn a_source_that_leads_nowhere_holds_up_no_other() {
    let sources = ["direct", "topic"];
    let scene = scene_with(&config_with(&sources));
    for source in sources {
        drop(scene.subscribed(source, "user_a").await);
    }
    settle().await;
    scene.fake.miss(&offline_of("direct"));
    let feeds: Vec<_> = scene.hub.feeds.open.read().keys().cloned().collect();
    for source in sources {
        let feed = feeds.iter().find(|feed| *feed.exchange == *source).unwrap();
        let (exchange, key, body) = (source.into(), "user_a".into(), "x".into());
        let message = Message::new(exchange, key, Properties::default(), body);
        scene.fake.sink().deliver(feed, message);
        settle().await;
    }
    sleep(Duration::from_secs(1)).await;
    let published = scene.fake.published();
    let of = |source: &str| {
        let offline = offline_of(source);
        let of_it = published
            .iter()
            .filter(|publish| *publish.exchange == *offline);
        of_it.count()
    };
    assert!(of("direct") > 1, "it is tried again");
    assert_eq!(of("topic"), 1);
    // Nor does one that is not confirmed: messages of a lane take turns.
    let offline = sources.map(offline_of);
    let handed_on = published
        .iter()
        .filter(|publish| offline.iter().any(|offline| *publish.exchange == **offline));
    let lanes: HashSet<_> = handed_on.map(|publish| publish.lane).collect();
    assert_eq!(lanes.len(), 2);
    assert!(lanes.iter().all(|lane| *lane >= STANDING_LANES));
}

/// Clients may have taken all the time that there was.
#[tokio::test(start_paused = true)]
async fn an_end_without_time_left_hands_on_all_the_same() {
    let (fake, vhosts) = vhosts_with(&config_with(&["direct"]));
    let hub = vhosts.vhost("/").unwrap();
    let scene = Scene { fake, hub };
    drop(scene.subscribed("direct", "user_a").await);
    settle().await;
    let feed = scene.hub.feeds.open.read().keys().next().cloned().unwrap();
    let (exchange, key, body) = ("direct".into(), "user_a".into(), "x".into());
    let message = Message::new(exchange, key, Properties::default(), body);
    scene.fake.sink().deliver(&feed, message);
    vhosts.unbind_feeds(Instant::now()).await;
    assert_eq!(scene.fake.published().len(), 1);
}
