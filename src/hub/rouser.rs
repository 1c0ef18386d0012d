//! Wakes many connections a few at a time.
//!
//! A message to everybody makes as many tasks ready as there are subscribers. Were all woken at
//! once, a message to one of them would wait behind all the others' turns. So its message is put
//! into every mailbox at once, in order as ever, and only the wake-ups are spread: a client that
//! gets another message meanwhile is woken for that, and finds both.
//!
//! The feed's task gets turns between the wake-ups, too, and must not fill mailboxes faster than
//! their clients empty them. So wake-ups lag at most [`MOST`] messages behind: a client that would
//! wait longer is woken at once, and the feed then waits for the turns of all of them.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::task::yield_now;

use super::mailbox::Mailbox;

/// Wake-ups before others have their turn: about as many tasks as a thread of the runtime runs
/// between two looks at its sockets (61). With more, its queue grows beyond the 256 that it holds,
/// and what is taken out of it then waits until it is empty. More threads take from it what they
/// can do at the same time, and the next turn comes the sooner.
const TURN: usize = 64;

/// So many messages to many may come while a connection waits for its wake-up: few beside the
/// hundreds that a mailbox takes.
pub(super) const MOST: u64 = 16;

/// The mailboxes of one virtual host whose connections have yet to be woken.
#[derive(Default)]
pub(super) struct Rouser(Mutex<RouserState>);

#[derive(Default)]
struct RouserState {
    /// Each once at most ([`Mailbox::put_shared`]), with the message for which it came here.
    waiting: VecDeque<(u64, Arc<Mailbox>)>,
    /// Messages so far.
    messages: u64,
    /// True if a task wakes them.
    is_running: bool,
}

impl Rouser {
    /// There was a message to many: wakes those of its receivers that nobody is to wake yet, in
    /// this order, after the ones before.
    pub(super) fn rouse(self: &Arc<Self>, sleepers: Vec<Arc<Mailbox>>) {
        let mut state = self.0.lock();
        state.messages = state.messages.wrapping_add(1);
        let now = state.messages;
        let have_waited = |(since, _): &(u64, _)| now.wrapping_sub(*since) >= MOST;
        let late = state
            .waiting
            .iter()
            .take_while(|one| have_waited(one))
            .count();
        let late: Vec<_> = state.waiting.drain(..late).collect();
        let sleepers = sleepers.into_iter().map(|sleeper| (now, sleeper));
        state.waiting.extend(sleepers);
        if !state.is_running && !state.waiting.is_empty() {
            state.is_running = true;
            tokio::spawn(Arc::clone(self).run());
        }
        drop(state);
        for (_, mailbox) in late {
            mailbox.rouse();
        }
    }

    /// Runs until nobody is left. A task that yields runs again after all that it woke; and it does
    /// run, even if other tasks are always ready.
    async fn run(self: Arc<Self>) {
        while self.take_turn() {
            yield_now().await;
        }
    }

    /// Wakes some; returns true if more may wait.
    fn take_turn(&self) -> bool {
        let mut state = self.0.lock();
        let count = state.waiting.len().min(TURN);
        let sleepers: Vec<_> = state.waiting.drain(..count).collect();
        if sleepers.is_empty() {
            state.waiting = VecDeque::new();
            state.is_running = false;
        }
        drop(state);
        for (_, mailbox) in &sleepers {
            mailbox.rouse();
        }
        !sleepers.is_empty()
    }
}
