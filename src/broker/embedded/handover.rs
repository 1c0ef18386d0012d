//! Calls to a sink: one after another, in order, with no lock held.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// Items that wait to be handed to a sink.
///
/// [`Handover::add`] gives an item its place; it may be called under other locks. The first caller
/// of [`Handover::run`] then hands over everything, also the items that others add meanwhile;
/// their own `run` returns at once. So does one from within the sink: an item that the sink adds
/// comes after the item that it was called with.
#[derive(Debug)]
pub(super) struct Handover<T> {
    state: Mutex<HandoverState<T>>,
}

#[derive(Debug)]
struct HandoverState<T> {
    waiting: VecDeque<T>,
    busy: bool,
}

impl<T> Handover<T> {
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(HandoverState {
                waiting: VecDeque::new(),
                busy: false,
            }),
        }
    }

    pub(super) fn add(&self, item: T) {
        self.state.lock().waiting.push_back(item);
    }

    /// Hands over what waits, unless somebody is at it. Call it with no lock held.
    pub(super) fn run(&self, hand_over: impl Fn(T)) {
        {
            let mut state = self.state.lock();
            if state.busy || state.waiting.is_empty() {
                return;
            }
            state.busy = true;
        }
        let turn = Turn(self);
        loop {
            let item = {
                let mut state = self.state.lock();
                let Some(item) = state.waiting.pop_front() else {
                    state.busy = false;
                    const SMALL: usize = 64;
                    state.waiting.shrink_to(SMALL);
                    break;
                };
                item
            };
            hand_over(item);
        }
        // It was given up under the lock; by now it may be somebody else's.
        std::mem::forget(turn);
    }
}

/// Gives up the turn if a sink panics, so that the panic stays the affair of that one call.
struct Turn<'a, T>(&'a Handover<T>);

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.0.state.lock().busy = false;
    }
}
