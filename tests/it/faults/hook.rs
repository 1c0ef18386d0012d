//! The hook hangs, comes back and goes again, while thousands wait to log in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stomp_grammar::Command;
use testkit::{Answer, Call, Login, StompClient};
use tokio::{task::JoinSet, time::timeout};

use super::{Witness, crowd};
use crate::house::{House, PASSCODE};

/// Of calls of the hook at a time; less than the default, so that it counts with few logins, too.
const MAX_CALLS: usize = 16;

/// A login that is refused for now comes again, as its ERROR says; how often it had to try.
async fn log_in(house: Arc<House>, user: String) -> (StompClient, usize) {
    for attempt in 1.. {
        let client = StompClient::tcp(house.gateway.stomp_address()).await;
        let mut client = client.with_deadline(Duration::from_secs(60));
        let login = Login::new(&user, PASSCODE, house.vhost.name());
        client.send(&login.frame()).await;
        match client.next_frame().await {
            Ok(frame) if frame.command == Command::Connected => return (client, attempt),
            Ok(frame) => {
                let wait = frame
                    .header("reconnect")
                    .expect("it says when to come back");
                let seconds = wait.strip_suffix('s').expect("a time, not `no`");
                let wait = Duration::from_secs(seconds.parse().unwrap());
                assert!(wait <= Duration::from_secs(60), "{wait:?}");
                // A client that obeys: nothing is waited for but its time.
                let begun = Instant::now();
                let _ = timeout(wait, client.next_frame()).await;
                let left = wait.saturating_sub(begun.elapsed());
                tokio::time::sleep(left).await;
            }
            Err(closed) => panic!("closed without a word: {closed}"),
        }
    }
    unreachable!("the loop has no end")
}

/// The hook never has more calls than it may, a live session is served all the time, and in the end
/// everybody is in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_wait_for_a_hook_that_comes_and_goes() {
    let logins = crowd(500);
    let opening = House::open_with(|builder| {
        builder
            .set("auth.max_calls", MAX_CALLS)
            .set("auth.request_timeout", "2s")
            .set("limits.login_timeout", "10s")
            .set("limits.max_address_connects_per_second", 5_000)
    });
    let house = Arc::new(opening.await);
    let mut witness = Witness::new(&house, "witness").await;
    for _ in 0..50 {
        witness.is_served().await;
    }
    let calm = witness.p99();

    house.hook.answer(Call::User, Answer::Never);
    let begun = Instant::now();
    let mut waiting = JoinSet::new();
    for number in 0..logins {
        waiting.spawn(log_in(Arc::clone(&house), format!("user{number}")));
    }
    // It hangs, answers, fails, answers slowly, and is well.
    let slow = Answer::After(Duration::from_millis(5), Box::new(Answer::Allow));
    for answer in [
        Answer::Never,
        Answer::Allow,
        Answer::Status(500, "a mistake".to_owned()),
        Answer::Close,
        slow,
    ] {
        house.hook.answer(Call::User, answer);
        for _ in 0..30 {
            witness.is_served().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let (mut clients, mut most) = (Vec::new(), 0);
    while let Some(done) = waiting.join_next().await {
        let (client, attempts) = done.unwrap();
        most = most.max(attempts);
        clients.push(client);
        if clients.len().is_multiple_of(50) {
            witness.is_served().await;
        }
    }
    let at_a_time = house.hook.most_at_a_time();
    let p99 = witness.p99();
    println!(
        "{logins} logins in {:?}, with {most} attempts at most; {} calls of the hook, {at_a_time} at a \
         time; the witness: {p99:?} (p99), {calm:?} before",
        begun.elapsed(),
        house.hook.calls_of(Call::User).len(),
    );
    assert_eq!(clients.len(), logins);
    // A call that the gateway gave up counts at the hook until that has noticed.
    assert!(at_a_time < 2 * MAX_CALLS, "{at_a_time} calls at a time");
    assert!(p99 < Duration::from_secs(1), "the witness waited: {p99:?}");
}
