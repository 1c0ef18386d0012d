//! Calls under way, so that equal questions share one.

use std::{
    collections::HashMap,
    ptr,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;

use crate::auth::Refusal;

type Answer = Result<(), Refusal>;

/// Calls under way, by what they ask; empty most of the time.
#[derive(Default)]
pub(super) struct Flights(Arc<Mutex<Open>>);

/// Those that may still be waited for.
type Open = HashMap<Question, Weak<Flight>>;

/// What is asked, and how often something had been taken back by then: an answer from before that
/// is none to a question after it.
type Question = (u128, u64);

/// One call, for as long as somebody waits for it.
struct Flight {
    question: Question,
    /// The lock is held by the one who asks.
    answer: tokio::sync::Mutex<Option<Answer>>,
    open: Arc<Mutex<Open>>,
}

impl Flights {
    /// Waits for the answer to an equal question, if there is one under way; else, or if whoever
    /// asked it went away, asks by `call`.
    pub(super) async fn share(
        &self,
        question: Question,
        call: impl Future<Output = Answer>,
    ) -> Answer {
        let flight = self.board(question);
        let mut answer = flight.answer.lock().await;
        if let Some(answer) = &*answer {
            return answer.clone();
        }
        let own = call.await;
        *answer = Some(own.clone());
        // Later questions are asked anew: a refusal is not remembered.
        flight.close();
        own
    }

    fn board(&self, question: Question) -> Arc<Flight> {
        let mut open = self.0.lock();
        if let Some(flight) = open.get(&question).and_then(Weak::upgrade) {
            return flight;
        }
        let flight = Arc::new(Flight {
            question,
            answer: tokio::sync::Mutex::default(),
            open: Arc::clone(&self.0),
        });
        open.insert(question, Arc::downgrade(&flight));
        flight
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

impl Flight {
    fn close(&self) {
        let mut open = self.open.lock();
        let last = open.get(&self.question);
        if last.is_some_and(|last| ptr::eq(last.as_ptr(), self)) {
            open.remove(&self.question);
            // Not after every call; but what a storm took is given back.
            if open.len() < open.capacity() / 8 {
                let room = open.len().saturating_mul(2);
                open.shrink_to(room);
            }
        }
    }
}

/// Also when all who waited have gone away.
impl Drop for Flight {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    /// A refusal is for those who waited for it, and for nobody after: also not while one of
    /// them has yet to take it.
    #[tokio::test]
    async fn a_question_after_the_answer_is_asked_anew() {
        let flights = Flights::default();
        let (answer, asked) = oneshot::channel::<Answer>();
        let mut first = Box::pin(flights.share((1, 0), asked.map(Result::unwrap)));
        assert!(first.as_mut().now_or_never().is_none());
        let never = async { panic!("it shares the first one's call") };
        let mut second = Box::pin(flights.share((1, 0), never));
        assert!(second.as_mut().now_or_never().is_none());
        let refusal = Err(Refusal::Denied(Some("no".into())));
        answer.send(refusal.clone()).unwrap();
        assert_eq!(first.await, refusal);
        assert_eq!(flights.share((1, 0), ready(Ok(()))).await, Ok(()));
        assert_eq!(second.await, refusal);
        assert!(flights.is_empty());
    }
}
