//! Wakes many connections a few at a time.
//!
//! A message to everybody makes as many tasks ready as there are subscribers. Were all woken at
//! once, a message to one of them would wait behind all the others' turns. So its message is put
//! into every mailbox at once, in order as ever, and only the wake-ups are spread: who gets
//! something else meanwhile is woken for that, and finds both.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::task::yield_now;

use super::mailbox::Mailbox;

/// Wake-ups before others have their turn: about as many tasks as a thread of the runtime runs
/// between two looks at its sockets (61). With more, its queue grows beyond the 256 that it holds,
/// and what is taken out of it then waits until it is empty. More threads take from it what they
/// can do at the same time, and the next turn comes the sooner.
const TURN: usize = 64;

/// The mailboxes of one virtual host whose connections have yet to be woken.
#[derive(Default)]
pub(super) struct Rouser {
    /// Each once at most ([`Mailbox::put_shared`]).
    waiting: Mutex<VecDeque<Arc<Mailbox>>>,
}

impl Rouser {
    /// Wakes their connections, in this order, after those that it has to wake already.
    pub(super) fn rouse(self: &Arc<Self>, mailboxes: Vec<Arc<Mailbox>>) {
        if mailboxes.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock();
        let is_running = !waiting.is_empty();
        waiting.extend(mailboxes);
        if !is_running {
            tokio::spawn(Arc::clone(self).run());
        }
    }

    /// Until none is left. A task that yields is run after all that it woke; but it is run, also
    /// where there is always something else.
    async fn run(self: Arc<Self>) {
        while self.take_turn() {
            yield_now().await;
        }
    }

    /// Wakes some; whether there are more.
    fn take_turn(&self) -> bool {
        let sleepers: Vec<_> = self.waiting.lock().iter().take(TURN).cloned().collect();
        for sleeper in &sleepers {
            sleeper.rouse();
        }
        let mut waiting = self.waiting.lock();
        // Only now, for who finds the list empty begins a task of its own.
        waiting.drain(..sleepers.len());
        if waiting.is_empty() {
            *waiting = VecDeque::new();
        }
        !waiting.is_empty()
    }
}
