//! Faults: which, when, and for how long.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    broker::{Mood, Return},
    entropy::Draws,
    hook,
    ledger::{EXCHANGES, LOG},
    trace::WORLD,
    world::World,
};

#[derive(Clone, Copy, Debug)]
enum Fault {
    LinkLost(Return),
    Interrupted,
    BindingsLost,
    LostWhileBinding,
    SlowBroker,
    Nacks,
    Alarm,
    CallsFail,
    FeedsLate,
    JournalOvertaken,
    JournalAnew,
    HookSlow,
    HookFaulty,
}

const FAULTS: [Fault; 16] = [
    Fault::LinkLost(Return::Whole),
    Fault::LinkLost(Return::Anew),
    Fault::LinkLost(Return::Bare),
    Fault::Interrupted,
    Fault::BindingsLost,
    Fault::LostWhileBinding,
    Fault::LostWhileBinding,
    Fault::SlowBroker,
    Fault::Nacks,
    Fault::Alarm,
    Fault::CallsFail,
    Fault::FeedsLate,
    Fault::JournalOvertaken,
    Fault::JournalAnew,
    Fault::HookSlow,
    Fault::HookFaulty,
];

/// For somebody to subscribe meanwhile.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// Makes the seed's faults happen, one after another.
pub(crate) async fn make(world: Arc<World>) {
    let mut draws = Draws::of(&[world.plan.seed, 0xfa17]);
    let count = world.plan.faults;
    let apart = u64::try_from(world.plan.busy.as_millis()).unwrap() / (count + 1);
    for _ in 0..count {
        sleep(draws.millis(apart / 3, apart * 9 / 10)).await;
        let fault = *draws.pick(&FAULTS);
        let longest = (apart / 2).clamp(1_000, 40_000);
        world
            .trace
            .tell(WORLD, || format!("fault begins: {fault:?}"));
        cause(&world, fault, &mut draws, longest).await;
        world.trace.tell(WORLD, || format!("fault ends: {fault:?}"));
    }
}

async fn cause(world: &World, fault: Fault, draws: &mut Draws, longest: u64) {
    let broker = &world.broker;
    let duration = draws.millis(200, longest);
    let exchange = match fault {
        Fault::JournalOvertaken => LOG,
        _ => draws.pick(&EXCHANGES).0,
    };
    match fault {
        Fault::LinkLost(how) => {
            world.trouble();
            broker.lose_link();
            sleep(duration).await;
            world.rush();
            broker.return_link(how);
        }
        Fault::Interrupted | Fault::JournalOvertaken => {
            broker.feeds.hold();
            sleep(duration).await;
            broker.feeds.interrupt(exchange);
            world.rush();
            broker.feeds.release();
        }
        Fault::BindingsLost => {
            broker.feeds.lose_exchange(&**broker.host(), exchange);
        }
        // Again and again just behind a bind, of which the gateway has not heard.
        Fault::LostWhileBinding => {
            broker.feeds.be_fragile(true);
            sleep(duration.max(LONG_ENOUGH)).await;
            broker.feeds.be_fragile(false);
        }
        Fault::SlowBroker => {
            // Slower than a publisher waits, now and then.
            world.trouble();
            broker.set_mood(Mood {
                slowness: draws.between(500, 8_000),
                ..Mood::default()
            });
            sleep(duration).await;
        }
        Fault::Nacks => {
            world.trouble();
            broker.set_mood(Mood {
                nacks: draws.between(10, 60),
                ..Mood::default()
            });
            sleep(duration).await;
        }
        Fault::Alarm => {
            world.trouble();
            broker.set_alarm(true);
            sleep(duration).await;
            broker.set_alarm(false);
        }
        Fault::CallsFail => {
            world.trouble();
            broker.set_mood(Mood {
                failures: draws.between(20, 80),
                slowness: draws.between(0, 2_000),
                ..Mood::default()
            });
            sleep(duration).await;
        }
        Fault::FeedsLate => {
            broker.feeds.hold();
            sleep(duration).await;
            world.rush();
            broker.feeds.release();
        }
        Fault::JournalAnew => {
            world.trouble();
            broker.feeds.lose_journal(&**broker.host());
        }
        Fault::HookSlow => {
            world.trouble();
            world.hook.set_mood(hook::Mood {
                slowness: draws.between(1_000, 6_000),
                faults: 0,
            });
            sleep(duration).await;
        }
        Fault::HookFaulty => {
            world.trouble();
            world.hook.set_mood(hook::Mood {
                slowness: 0,
                faults: draws.between(20, 100),
            });
            sleep(duration).await;
        }
    }
    broker.set_mood(Mood::default());
    world.hook.set_mood(hook::Mood::default());
    world.trouble_ends();
}
