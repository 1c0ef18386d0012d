//! Against a hook that counts, and answers when it is told to.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::*;
use crate::auth::{Permission, ResourceKind};

/// Counts questions; each takes one of the answers it is given.
struct Hook {
    asked: AtomicUsize,
    logins: AtomicUsize,
    /// Questions that may be answered.
    open: Semaphore,
    answer: Mutex<Result<(), Refusal>>,
}

impl Hook {
    fn new(open: usize, answer: Result<(), Refusal>) -> Arc<Self> {
        Arc::new(Hook {
            asked: AtomicUsize::new(0),
            logins: AtomicUsize::new(0),
            open: Semaphore::new(open),
            answer: Mutex::new(answer),
        })
    }

    /// One that answers at once.
    fn ready(answer: Result<(), Refusal>) -> Arc<Self> {
        Self::new(Semaphore::MAX_PERMITS, answer)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Authenticator for Hook {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        self.logins.fetch_add(1, Ordering::SeqCst);
        async move {
            Ok(User {
                name: (&*login.user).into(),
                tags: "".into(),
                source: None,
            })
        }
        .boxed()
    }

    fn allow<'a>(&'a self, _: &'a User, _: &'a Access) -> BoxFuture<'a, Result<(), Refusal>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            self.open.acquire().await.unwrap().forget();
            self.answer.lock().clone()
        }
        .boxed()
    }

    fn groups<'a>(&'a self, user: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        self.logins.fetch_add(1, Ordering::SeqCst);
        async move { Ok(vec![Arc::clone(&user.name)]) }.boxed()
    }
}

const LONG: Duration = Duration::from_secs(600);

fn user(name: &str) -> User {
    User {
        name: name.into(),
        tags: "".into(),
        source: None,
    }
}

fn topic(routing_key: &str) -> Access {
    Access::Topic {
        vhost: "/".into(),
        exchange: "feed".into(),
        permission: Permission::Read,
        routing_key: routing_key.into(),
    }
}

fn ask(cache: &Arc<CachedAuthenticator>, routing_key: &str) -> JoinHandle<Result<(), Refusal>> {
    let (cache, access) = (Arc::clone(cache), topic(routing_key));
    tokio::spawn(async move { cache.allow(&user("alice"), &access).await })
}

/// Waits until something holds.
async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < deadline, "it never came about");
        tokio::task::yield_now().await;
    }
}

fn flights(cache: &CachedAuthenticator) -> &Flights {
    &cache.cache.as_ref().unwrap().flights
}

/// Lets every task run until it waits for something.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_permission_is_remembered_for_its_question_alone() {
    let hook = Hook::ready(Ok(()));
    let cache = CachedAuthenticator::new(hook.clone(), LONG, 100);
    let resource = |kind, permission| Access::Resource {
        vhost: "/".into(),
        kind,
        name: "feed".into(),
        permission,
    };
    let ip = |ip: &str| Access::Vhost {
        vhost: "/".into(),
        ip: ip.parse().unwrap(),
    };
    let tagged = User {
        name: "alice".into(),
        tags: "ops".into(),
        source: None,
    };
    let different = [
        (user("alice"), topic("a")),
        (user("alice"), topic("b")),
        (user("bob"), topic("a")),
        (tagged, topic("a")),
        (
            user("alice"),
            resource(ResourceKind::Exchange, Permission::Read),
        ),
        (
            user("alice"),
            resource(ResourceKind::Exchange, Permission::Write),
        ),
        (
            user("alice"),
            resource(ResourceKind::Queue, Permission::Read),
        ),
        (user("alice"), ip("192.0.2.1")),
        (user("alice"), ip("192.0.2.2")),
    ];
    for _ in 0..3 {
        for (user, access) in &different {
            assert_eq!(cache.allow(user, access).await, Ok(()));
        }
    }
    assert_eq!(hook.asked(), different.len());
}

#[tokio::test(start_paused = true)]
async fn a_permission_is_forgotten_in_time() {
    let hook = Hook::ready(Ok(()));
    let ttl = Duration::from_secs(15);
    let cache = CachedAuthenticator::new(hook.clone(), ttl, 100);
    for (later, asked) in [
        (Duration::ZERO, 1),
        (ttl - Duration::from_millis(1), 1),
        // To be asked for does not prolong it.
        (Duration::from_millis(1), 2),
        (ttl, 3),
    ] {
        tokio::time::advance(later).await;
        cache.allow(&user("alice"), &topic("a")).await.unwrap();
        assert_eq!(hook.asked(), asked, "{later:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_freed_though_nobody_asks() {
    let hook = Hook::ready(Ok(()));
    let ttl = Duration::from_secs(15);
    let cache = Arc::new(CachedAuthenticator::new(hook, ttl, 100_000));
    let permitted = || &cache.cache.as_ref().unwrap().permitted;
    let sweep = tokio::spawn(CachedAuthenticator::sweep(Arc::downgrade(&cache)));
    for n in 0..10_000 {
        let access = topic(&n.to_string());
        cache.allow(&user("alice"), &access).await.unwrap();
    }
    tokio::time::sleep(ttl - SWEEP).await;
    cache.allow(&user("alice"), &topic("late")).await.unwrap();
    assert_eq!(permitted().len(), 10_001);
    tokio::time::sleep(ttl / 2).await;
    assert_eq!(permitted().len(), 1);
    assert!(permitted().capacity() < 100, "{}", permitted().capacity());
    tokio::time::sleep(ttl).await;
    assert_eq!((permitted().len(), permitted().capacity()), (0, 0));
    drop(cache);
    testkit::within(testkit::DEADLINE, "the sweep ends", sweep)
        .await
        .unwrap();
}

#[tokio::test]
async fn no_more_than_so_many_are_remembered() {
    for size in [1, 10, 100, 1_000] {
        let hook = Hook::ready(Ok(()));
        let cache = CachedAuthenticator::new(hook.clone(), LONG, size);
        for n in 0..10 * size {
            let access = topic(&n.to_string());
            cache.allow(&user("alice"), &access).await.unwrap();
            // What came last is there, whatever had to go.
            let asked = hook.asked();
            cache.allow(&user("alice"), &access).await.unwrap();
            assert_eq!(hook.asked(), asked);
        }
        let remembered = cache.cache.as_ref().unwrap().permitted.len() as u64;
        assert!(
            remembered <= size && remembered > size / 2,
            "{remembered} of {size}"
        );
    }
}

/// Room is made first of what is no longer remembered.
#[tokio::test(start_paused = true)]
async fn what_is_remembered_stays_where_there_is_room() {
    let hook = Hook::ready(Ok(()));
    let ttl = Duration::from_secs(15);
    let cache = CachedAuthenticator::new(hook.clone(), ttl, 10);
    let ask = async |n: u32| {
        let access = topic(&n.to_string());
        cache.allow(&user("alice"), &access).await.unwrap();
    };
    for n in 0..10 {
        ask(n).await;
    }
    tokio::time::advance(ttl).await;
    for n in (10..20).chain(10..20) {
        ask(n).await;
    }
    assert_eq!(hook.asked(), 20);
}

#[tokio::test]
async fn refusals_are_not_remembered() {
    for refusal in [
        Refusal::Denied(Some("no".into())),
        Refusal::Faulty("down".into()),
    ] {
        let hook = Hook::ready(Err(refusal.clone()));
        let cache = CachedAuthenticator::new(hook.clone(), LONG, 100);
        for asked in 1..=3 {
            let answer = cache.allow(&user("alice"), &topic("a")).await;
            assert_eq!((answer, hook.asked()), (Err(refusal.clone()), asked));
        }
        *hook.answer.lock() = Ok(());
        assert_eq!(cache.allow(&user("alice"), &topic("a")).await, Ok(()));
    }
}

#[tokio::test]
async fn logins_are_always_asked_for() {
    let hook = Hook::ready(Ok(()));
    let cache = CachedAuthenticator::new(hook.clone(), LONG, 100);
    let login = Login {
        user: "alice".into(),
        password: Some("x".into()),
        vhost: "/".into(),
        more: Vec::new(),
        address: std::net::Ipv4Addr::LOCALHOST.into(),
        is_known: false,
    };
    for logins in 1..=3 {
        cache.user(&login).await.unwrap();
        assert_eq!(hook.logins.load(Ordering::SeqCst), logins);
    }
}

#[tokio::test]
async fn equal_questions_in_flight_are_one_call() {
    for answer in [Ok(()), Err(Refusal::Denied(None))] {
        let hook = Hook::new(0, answer.clone());
        let cache = Arc::new(CachedAuthenticator::new(hook.clone(), LONG, 100));
        let equal: Vec<_> = (0..50).map(|_| ask(&cache, "a")).collect();
        let other = ask(&cache, "b");
        until(|| hook.asked() == 2).await;
        settle().await;
        assert_eq!(hook.asked(), 2);
        hook.open.add_permits(100);
        for question in equal {
            assert_eq!(question.await.unwrap(), answer);
        }
        assert_eq!(other.await.unwrap(), answer);
        assert_eq!(hook.asked(), 2);
        assert!(flights(&cache).is_empty());
    }
}

#[tokio::test]
async fn those_who_wait_survive_the_one_who_asked() {
    let hook = Hook::new(0, Ok(()));
    let cache = Arc::new(CachedAuthenticator::new(hook.clone(), LONG, 100));
    let asking = ask(&cache, "a");
    until(|| hook.asked() == 1).await;
    let waiting: Vec<_> = (0..10).map(|_| ask(&cache, "a")).collect();
    settle().await;
    assert_eq!(hook.asked(), 1);

    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    until(|| hook.asked() == 2).await;
    hook.open.add_permits(100);
    for question in waiting {
        let answer = tokio::time::timeout(Duration::from_secs(30), question).await;
        assert_eq!(answer.unwrap().unwrap(), Ok(()));
    }
    assert_eq!(hook.asked(), 2);
    assert!(flights(&cache).is_empty());
}

#[tokio::test]
async fn nothing_stays_of_those_who_went_away() {
    let hook = Hook::new(0, Ok(()));
    let cache = Arc::new(CachedAuthenticator::new(hook.clone(), LONG, 100));
    let gone: Vec<_> = (0..10).map(|_| ask(&cache, "a")).collect();
    until(|| hook.asked() == 1).await;
    settle().await;
    assert!(!flights(&cache).is_empty());
    for question in gone {
        question.abort();
        assert!(question.await.unwrap_err().is_cancelled());
    }
    assert!(flights(&cache).is_empty());
}

#[tokio::test]
async fn a_ttl_of_zero_asks_every_time() {
    let hook = Hook::ready(Ok(()));
    let cache = CachedAuthenticator::new(hook.clone(), Duration::ZERO, 100);
    for asked in 1..=3 {
        cache.allow(&user("alice"), &topic("a")).await.unwrap();
        assert_eq!(hook.asked(), asked);
    }
}

#[test]
fn parts_of_a_question_do_not_run_together() {
    let permitted = Permitted::new(LONG, 100);
    let of = |name: &str, tags: &str, exchange: &str, routing_key: &str| {
        let user = User {
            name: name.into(),
            tags: tags.into(),
            source: None,
        };
        let access = Access::Topic {
            vhost: "/".into(),
            exchange: exchange.into(),
            permission: Permission::Read,
            routing_key: routing_key.into(),
        };
        permitted.question(&user, &access)
    };
    assert_eq!(of("ab", "", "e", "k"), of("ab", "", "e", "k"));
    assert_ne!(of("ab", "", "e", "k"), of("a", "b", "e", "k"));
    assert_ne!(of("ab", "", "e", "k"), of("ab", "e", "", "k"));
    assert_ne!(of("ab", "", "e", "k"), of("ab", "", "ek", ""));
}

/// Otherwise one could calculate two questions that are taken for one.
#[test]
fn hashes_are_of_each_process_its_own() {
    let one = Permitted::new(LONG, 100);
    let other = Permitted::new(LONG, 100);
    let question = |permitted: &Permitted| permitted.question(&user("alice"), &topic("a"));
    assert_ne!(question(&one), question(&other));
}

#[tokio::test]
async fn what_is_forgotten_of_a_user_is_asked_for() {
    let hook = Hook::ready(Ok(()));
    let cache = CachedAuthenticator::new(Arc::clone(&hook) as _, Duration::from_secs(60), 100);
    let (al, alice) = (user("al"), user("alice"));
    for user in [&al, &alice] {
        for key in ["a", "b"] {
            cache.allow(user, &topic(key)).await.unwrap();
        }
    }
    assert_eq!(hook.asked(), 4);
    assert_eq!(cache.forget("al").await, 2);
    assert_eq!(cache.forget("al").await, 0);
    cache.allow(&alice, &topic("a")).await.unwrap();
    assert_eq!(hook.asked(), 4, "another's is not forgotten");
    cache.allow(&al, &topic("a")).await.unwrap();
    assert_eq!(hook.asked(), 5);
}

#[tokio::test]
async fn an_answer_that_was_on_its_way_is_not_remembered_after_forgetting() {
    let hook = Hook::new(0, Ok(()));
    let ttl = Duration::from_secs(60);
    let cache = Arc::new(CachedAuthenticator::new(Arc::clone(&hook) as _, ttl, 100));
    let asking = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { cache.allow(&user("alice"), &topic("a")).await }
    });
    while hook.asked() == 0 {
        tokio::task::yield_now().await;
    }
    cache.forget("alice").await;
    hook.open.add_permits(10);
    assert_eq!(asking.await.unwrap(), Ok(()));
    cache.allow(&user("alice"), &topic("a")).await.unwrap();
    assert_eq!(hook.asked(), 2);
}

/// The hook may have answered the first call before the user's role changed.
#[tokio::test]
async fn a_question_after_forgetting_does_not_wait_for_a_call_of_before() {
    let hook = Hook::new(0, Ok(()));
    let cache = Arc::new(CachedAuthenticator::new(hook.clone(), LONG, 100));
    let before = ask(&cache, "a");
    until(|| hook.asked() == 1).await;
    let shares = ask(&cache, "a");
    settle().await;
    assert_eq!(hook.asked(), 1);
    cache.forget("alice").await;
    let after = ask(&cache, "a");
    settle().await;
    assert_eq!(hook.asked(), 2, "it waits for the call of before");
    hook.open.add_permits(1);
    assert_eq!(before.await.unwrap(), Ok(()));
    assert_eq!(shares.await.unwrap(), Ok(()));
    *hook.answer.lock() = Err(Refusal::Denied(None));
    hook.open.add_permits(1);
    assert_eq!(after.await.unwrap(), Err(Refusal::Denied(None)));
    assert!(flights(&cache).is_empty());
}

#[tokio::test]
async fn to_ask_anew_is_to_ask() {
    let hook = Hook::ready(Ok(()));
    let cache = CachedAuthenticator::new(Arc::clone(&hook) as _, Duration::from_secs(60), 100);
    let (alice, key) = (user("alice"), topic("a"));
    cache.allow_anew(&alice, &key).await.unwrap();
    cache.allow(&alice, &key).await.unwrap();
    assert_eq!(hook.asked(), 1, "its answer is remembered");
    *hook.answer.lock() = Err(Refusal::Faulty("status 500".into()));
    assert!(cache.allow_anew(&alice, &key).await.is_err());
    assert_eq!(
        cache.allow(&alice, &key).await,
        Ok(()),
        "a fault takes nothing back"
    );
    *hook.answer.lock() = Err(Refusal::Denied(None));
    assert!(cache.allow_anew(&alice, &key).await.is_err());
    assert!(cache.allow(&alice, &key).await.is_err());
    assert_eq!(hook.asked(), 4);
}
