//! A message to very many clients wakes them a few at a time.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use futures_util::future::join_all;

use super::{super::rouser::MOST, *};

/// Far more than are woken at once.
const MANY: usize = 1_000;

/// Clients that are all subscribed to "all", and each to a key of its own.
async fn crowd(scene: &Scene) -> (Vec<Client>, Vec<SharedSubscription>) {
    let clients: Vec<_> = (0..MANY).map(|_| Client::new()).collect();
    let mut guards = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        for key in ["all", &format!("user_{number}")] {
            let subscribed = scene.subscribing("direct", key, client).await.unwrap();
            guards.push(subscribed.unwrap().unwrap());
        }
    }
    (clients, guards)
}

async fn next(client: &Client) -> String {
    match poll_fn(|context| client.0.poll_take(context)).await {
        Item::Parcel(parcel) => String::from_utf8_lossy(&parcel.message.body).into_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_message_of_its_own_is_woken_before_the_crowd() {
    let scene = scene();
    let (clients, _guards) = crowd(&scene).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..)
        .zip(clients)
        .map(|(number, client): (usize, _)| {
            let order = Arc::clone(&order);
            tokio::spawn(async move {
                let mut got = vec![next(&client).await];
                order.lock().push(number);
                while let Some(Item::Parcel(parcel)) = client.take() {
                    got.push(String::from_utf8_lossy(&parcel.message.body).into_owned());
                }
                got
            })
        })
        .collect();
    settle().await;
    assert_eq!(order.lock().len(), 0);
    scene.fake.publish("direct", &["all"], "to all");
    let favourites = [3, MANY / 2, MANY - 1];
    for number in favourites {
        let key = format!("user_{number}");
        scene.fake.publish("direct", &[&key], "to one");
    }
    for (number, got) in join_all(tasks).await.into_iter().enumerate() {
        // In the order in which they were published.
        let both = ["to all", "to one"];
        let expected = if favourites.contains(&number) {
            &both[..]
        } else {
            &both[..1]
        };
        assert_eq!(got.unwrap(), expected, "client {number}");
    }
    let order = order.lock();
    for favourite in favourites {
        let place = order.iter().position(|number| *number == favourite);
        assert!(place.unwrap() < MANY / 5, "{favourite} at {place:?}");
    }
}

/// The publisher must not outrun the readers: a mailbox would overflow, though its client is not
/// slow.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_many_messages() {
    let scene = scene();
    let (clients, _guards) = crowd(&scene).await;
    let wakes = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&wakes));
    for client in &clients {
        let taken = client.0.poll_take(&Context::from_waker(&waker));
        assert!(taken.is_pending());
    }
    // Without a turn for anybody between them.
    for number in 0..MOST {
        scene.fake.publish("direct", &["all"], &number.to_string());
    }
    assert!(wakes.0.load(Relaxed) < MANY / 5);
    scene.fake.publish("direct", &["all"], "one more");
    assert_eq!(wakes.0.load(Relaxed), MANY);
    for client in &clients {
        assert_eq!(client.bodies().len(), MOST as usize + 1);
    }
    settle().await;
    assert_eq!(wakes.0.load(Relaxed), MANY);
}

/// A client that took it before its wake-up is not woken for nothing; the next message wakes it.
#[tokio::test(start_paused = true)]
async fn nobody_is_woken_for_nothing() {
    let scene = scene();
    let (clients, _guards) = crowd(&scene).await;
    for client in &clients {
        assert!(client.take().is_none());
    }
    scene.fake.publish("direct", &["all"], "first");
    let wakes = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&wakes));
    for client in &clients {
        assert_eq!(client.bodies(), ["first"]);
        let taken = client.0.poll_take(&Context::from_waker(&waker));
        assert!(taken.is_pending());
    }
    settle().await;
    assert_eq!(wakes.0.load(Relaxed), 0);
    scene.fake.publish("direct", &["all"], "second");
    settle().await;
    assert_eq!(wakes.0.load(Relaxed), MANY);
}

#[derive(Default)]
struct Count(AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

/// On several threads, with messages to everybody and to single ones all the time: each gets all
/// of its own, in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost() {
    const ROUNDS: usize = 50;
    let scene = scene();
    let (clients, _guards) = crowd(&scene).await;
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|client| {
            tokio::spawn(async move {
                let (mut all, mut own) = (0, 0);
                while (all, own) != (ROUNDS, ROUNDS) {
                    let body = next(&client).await;
                    let (count, number) = match body.strip_prefix("own ") {
                        Some(number) => (&mut own, number),
                        None => (&mut all, body.as_str()),
                    };
                    assert_eq!(number, count.to_string());
                    *count += 1;
                }
            })
        })
        .collect();
    let publish = async {
        for round in 0..ROUNDS {
            scene.fake.publish("direct", &["all"], &round.to_string());
            for number in 0..MANY {
                let key = format!("user_{number}");
                scene
                    .fake
                    .publish("direct", &[&key], &format!("own {round}"));
            }
            tokio::task::yield_now().await;
        }
        join_all(tasks).await
    };
    let ended = tokio::time::timeout(Duration::from_secs(60), publish).await;
    for task in ended.expect("all messages arrive") {
        task.unwrap();
    }
}
