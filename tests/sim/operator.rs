//! An operator who kicks, bans and takes rights away, and backends that publish.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use stentor::control::{Ban, Change, Command, Subject, Target, Unsubscribe};
use tokio::time::{sleep, timeout};

use crate::{
    broker::CONTROL,
    entropy::Draws,
    hook::Right,
    ledger::{LOG, body_of},
    trace::WORLD,
    world::{KEYS, PATTERNS, QUEUES, TOPICS, World},
};

/// The ids of a client's messages begin at its number times this; backends come behind all clients.
pub(crate) const IDS: u64 = 1_000_000;

/// Kicks users, bans them for a while, ends subscriptions of theirs, and has rights and groups asked for anew.
pub(crate) async fn rule(world: Arc<World>) {
    let mut draws = Draws::of(&[world.plan.seed, 0x0b0e]);
    while world.is_busy() {
        let longest = world.plan.think * 3;
        sleep(draws.millis(longest / 4, longest)).await;
        if !world.is_busy() {
            return;
        }
        let user = draws.pick(&world.users).clone();
        match draws.below(10) {
            0 => {
                world.kick(&user, true);
                let target = Target::User(user.as_str().into());
                let reason = "simulated".into();
                run(&world, Command::Kick { target, reason }).await;
            }
            1 => {
                // A backend, by the exchange; its command may be lost on the way.
                world.kick(&user, false);
                let command = format!(r#"{{"command":"kick","user":"{user}"}}"#);
                world.broker.publish(CONTROL, "", &command);
            }
            2 => {
                // Somebody who is about to be logged in, for so long that it would be noticed.
                let entering = &world.hook.entering;
                let count = entering.get().count;
                let next = entering.wait_for(|entering| entering.count > count);
                if let Ok(next) = timeout(Duration::from_millis(longest), next).await {
                    sleep(Duration::from_millis(draws.below(3))).await;
                    exclude(&world, &next.user, draws.millis(27_000, 40_000)).await;
                }
            }
            3 | 4 => withdraw(&world, &user, &mut draws).await,
            5 | 6 => {
                run(&world, Command::Forget { user: user.into() }).await;
            }
            7 => {
                run(&world, Command::RefreshGroups { user: user.into() }).await;
            }
            _ => {
                let duration = draws.millis(longest / 8, longest / 2);
                exclude(&world, &user, duration).await;
            }
        }
    }
}

/// Ends a user's subscriptions to a destination.
async fn withdraw(world: &World, user: &str, draws: &mut Draws) {
    let (exchange, pattern) = match draws.below(3) {
        0 => ("feed", *draws.pick(&KEYS)),
        1 => ("news", *draws.pick(&PATTERNS)),
        _ => ("amq.topic", *draws.pick(&PATTERNS)),
    };
    world.withdraw(user, exchange, pattern);
    let destination = Unsubscribe::destination(&format!("/exchange/{exchange}/{pattern}"));
    let order = Unsubscribe {
        user: user.into(),
        vhost: None,
        destination: destination.unwrap(),
        reason: "simulated".into(),
    };
    run(world, Command::Unsubscribe(Arc::new(order))).await;
}

/// Takes rights from users, each for a while. Then the operator has the user's sessions asked about
/// again, or leaves that to their renewals.
pub(crate) async fn withhold(world: Arc<World>) {
    let mut draws = Draws::of(&[world.plan.seed, 0x7a4e]);
    let longest = world.plan.think * 3;
    // Long enough for all to be asked about again, and shorter than trouble is remembered.
    let most = (world.plan.think * 2).clamp(6_000, 40_000);
    while world.is_busy() {
        sleep(draws.millis(longest / 4, longest)).await;
        if !world.is_busy() {
            return;
        }
        let user = draws.pick(&world.users).clone();
        let key = *draws.pick(&KEYS);
        let right = match draws.below(5) {
            0 => Right::LogIn,
            _ => Right::Read(key),
        };
        world
            .trace
            .tell(WORLD, || format!("{user} loses {right:?}"));
        world.hook.take(&user, right);
        let is_looked_at = draws.percent(60);
        if is_looked_at {
            let target = Target::User(user.as_str().into());
            run(&world, Command::Recheck(target)).await;
        }
        sleep(draws.millis(5_000, most)).await;
        // A hook that is at fault takes nothing from anybody.
        if is_looked_at && !world.is_troubled() {
            world.revoke(&user, right);
        }
        world
            .trace
            .tell(WORLD, || format!("{user} has {right:?} again"));
        world.hook.give_back(&user, right);
    }
}

/// The journal forgets what is oldest, now and then.
pub(crate) async fn forget(world: Arc<World>) {
    let mut draws = Draws::of(&[world.plan.seed, 0xf0e6]);
    let longest = world.plan.think * 4;
    while world.is_busy() {
        sleep(draws.millis(longest / 8, longest)).await;
        if world.is_busy() {
            world.broker.feeds.journal().expire(&mut draws);
        }
    }
}

/// Bans a user for a while.
async fn exclude(world: &World, user: &str, duration: Duration) {
    world.ban(user, true);
    run(world, ban(world, user, true)).await;
    sleep(duration).await;
    world.ban(user, false);
    run(world, ban(world, user, false)).await;
}

fn ban(world: &World, user: &str, is_set: bool) -> Command {
    let subject = Subject::user(user).unwrap();
    let ban = is_set.then(|| Ban {
        until: None,
        reason: "simulated".into(),
    });
    let bans = world.services.registry.bans();
    Command::Ban(bans.change(SystemTime::now(), subject, ban))
}

async fn run(world: &World, command: Command) {
    // Without the time of a ban, which is the machine's.
    world.trace.tell(WORLD, || match &command {
        Command::Ban(Change { subject, ban, .. }) => format!("operator: {subject:?} {ban:?}"),
        command => format!("operator: {command:?}"),
    });
    // It waits for other nodes, which are not there; the operator does not.
    let ran = world.services.control.run(command).await;
    ran.unwrap();
}

/// Publishes, past the gateway, messages for everybody and now and then a flood.
pub(crate) async fn publish(world: Arc<World>, number: u64) {
    let mut draws = Draws::of(&[world.plan.seed, 0xbac0 + number]);
    let first = (u64::from(world.plan.clients) + 1 + number) * IDS;
    let mut id = first;
    while world.is_busy() {
        sleep(draws.millis(1, world.plan.think / 4)).await;
        let (exchange, key) = somewhere(&mut draws);
        let (count, padding) = if draws.percent(3) {
            (draws.between(20, 150), 4_000)
        } else {
            (1, usize::try_from(draws.below(200)).unwrap())
        };
        for _ in 0..count {
            // Nobody who reads is outrun.
            sleep(draws.millis(2, 4)).await;
            world.broker.publish(exchange, key, &body_of(id, padding));
            id += 1;
        }
    }
}

/// An exchange and a key.
pub(crate) fn somewhere(draws: &mut Draws) -> (&'static str, &'static str) {
    match draws.below(13) {
        0..=4 => ("feed", *draws.pick(&KEYS)),
        5 | 6 => ("news", *draws.pick(&TOPICS)),
        7 => ("all", "any"),
        8 => ("amq.topic", *draws.pick(&TOPICS)),
        9..=11 => (LOG, *draws.pick(&TOPICS)),
        _ => ("", *draws.pick(&QUEUES)),
    }
}
