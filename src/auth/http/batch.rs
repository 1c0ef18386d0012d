//! Many questions in one call.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use auth_hook::{
    AnswerError, BatchAnswer, BatchError, Call, encode_batch, encode_in_batch, parse_batch_answers,
};
use bytes::Bytes;
use reqwest::{
    Client,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{
    runtime::Handle,
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use super::{Path, Reply, exchange, fault::Fault, refused_by};
use crate::{
    auth::{
        Refusal,
        turns::{BatchBounds, Payer, Together, Turn, Turns},
    },
    deadline::after,
    telemetry,
};

/// A batch is no longer, in bytes, unless one question alone is: common servers take 100 KB.
const MAX_BYTES: usize = 64 * 1024;

/// More of the answers is not read: in bytes, for each question.
const MAX_ANSWER: usize = 8 * 1024;

/// Calls of a batch that fail one after the other, until the hook is taken to fail whatever it is
/// asked: two clients whose questions make it fail are not yet enough.
pub(super) const MOST_IN_VAIN: usize = 5;

/// The name of its calls in metrics and in the log.
const BATCH: &str = "batch";

pub(super) const fn bounds(questions: usize) -> BatchBounds {
    BatchBounds {
        questions,
        bytes: MAX_BYTES,
    }
}

/// A question that waits for its batch. Has no `Debug`: it may hold a password.
pub(in crate::auth) struct Asked {
    question: String,
    /// Gets the place of the answer when the batch goes.
    begin: oneshot::Sender<oneshot::Receiver<Answered>>,
}

type Answered = Result<Reply, Refusal>;

impl Together for Asked {
    fn bytes(&self) -> usize {
        // And a comma.
        self.question.len().saturating_add(1)
    }

    fn is_waited_for(&self) -> bool {
        !self.begin.is_closed()
    }
}

impl Asked {
    /// Asks in a batch. Waits for as long as `longest` for its turn, and then for the answer: as
    /// the call has the same bound, that comes.
    pub(super) async fn ask(
        turns: &Arc<Turns<Self>>,
        payer: &Payer,
        (call, form): (Call, &str),
        longest: Duration,
    ) -> Answered {
        let (begin, begun) = oneshot::channel();
        let question = encode_in_batch(call, form);
        turns.join(payer, Self { question, begin });
        let Ok(Ok(answer)) = timeout(longest, begun).await else {
            return Err(Refusal::Busy);
        };
        // Its call ended without an answer: the program ends.
        answer.await.unwrap_or(Err(Refusal::Busy))
    }
}

/// Sends batches.
#[derive(Debug)]
pub(super) struct Batches {
    pub(super) client: Client,
    pub(super) path: Path,
    pub(super) request_timeout: Duration,
}

impl Batches {
    /// Asks them in one call, on a task of its own: those who asked may go away, one by one. Gives
    /// the turn back if all have.
    pub(super) fn send(
        self: &Arc<Self>,
        questions: Vec<Asked>,
        turn: Turn<Asked>,
    ) -> Option<Turn<Asked>> {
        let Ok(runtime) = Handle::try_current() else {
            return Some(turn);
        };
        let mut bodies = Vec::with_capacity(questions.len());
        let mut askers = Vec::with_capacity(questions.len());
        for Asked { question, begin } in questions {
            let (answer, place) = oneshot::channel();
            if begin.send(place).is_ok() {
                bodies.push(question);
                askers.push(answer);
            }
        }
        if askers.is_empty() {
            return Some(turn);
        }
        let batches = Arc::clone(self);
        runtime.spawn(async move {
            let answers = batches.answers(&bodies).await;
            drop(turn);
            for (asker, answer) in askers.into_iter().zip(answers) {
                // An error means that it went away meanwhile.
                let _ = asker.send(answer);
            }
        });
        None
    }

    /// The answers, as many as there are questions. A call that failed over one of its questions
    /// is made again in halves, in the same turn and time: the others are of other clients.
    async fn answers(&self, questions: &[String]) -> Vec<Answered> {
        let end = after(self.request_timeout);
        let mut answers: BTreeMap<usize, Answered> = BTreeMap::new();
        let mut parts = VecDeque::new();
        parts.push_back(0..questions.len());
        let mut spare = spare_calls(questions.len());
        let mut failed_in_a_row: usize = 0;
        while let Some(part) = parts.pop_front() {
            let asked = questions.get(part.clone()).unwrap_or_default();
            let fault = match self.call(asked, end).await {
                Ok(given) => {
                    failed_in_a_row = 0;
                    let given = given.into_iter().map(|answer| self.answered(answer));
                    answers.extend(part.zip(given));
                    continue;
                }
                Err(fault) => fault,
            };
            failed_in_a_row = failed_in_a_row.saturating_add(1);
            let is_hopeless = failed_in_a_row >= MOST_IN_VAIN;
            if !is_hopeless && part.len() > 1 && may_be_of_one(&fault) && spare >= 2 {
                spare = spare.saturating_sub(2);
                let middle = usize::midpoint(part.start, part.end);
                parts.extend([part.start..middle, middle..part.end]);
                continue;
            }
            let refused = self.refused(&fault);
            let mut unanswered = vec![part];
            if is_hopeless {
                unanswered.extend(parts.drain(..));
            }
            let unanswered = unanswered.into_iter().flatten();
            answers.extend(unanswered.map(|question| (question, Err(refused.clone()))));
        }
        let faults = answers.values().filter(|answer| answer.is_err()).count();
        telemetry::hook_faults(BATCH, faults);
        answers.into_values().collect()
    }

    fn answered(&self, answer: Result<BatchAnswer, AnswerError>) -> Answered {
        let reply = answer.map_err(Fault::from).and_then(reply);
        reply.map_err(|fault| self.refused(&fault))
    }

    fn refused(&self, fault: &Fault) -> Refusal {
        self.path.faults.fault(BATCH, &self.path.shown, fault);
        refused_by(BATCH, fault)
    }

    /// One call, which ends by then.
    async fn call(
        &self,
        questions: &[String],
        end: Instant,
    ) -> Result<Vec<Result<BatchAnswer, AnswerError>>, Fault> {
        let count = questions.len();
        let body: Bytes = encode_batch(questions.iter().map(String::as_str)).into();
        let request = || {
            self.client
                .post(self.path.url.clone())
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone())
        };
        let longest = MAX_ANSWER.saturating_mul(count.saturating_add(1));
        let begun = Instant::now();
        let answered = timeout_at(end, exchange(request, longest)).await;
        // Whether it went wrong is counted by question: each is of another client.
        telemetry::hook_called(BATCH, begun.elapsed(), false);
        telemetry::hook_batched(count);
        let reply = answered.unwrap_or(Err(Fault::Timeout(self.request_timeout)))?;
        Ok(parse_batch_answers(reply.status, &reply.body, count)?)
    }
}

/// Calls more than one that a batch may take: enough to find one question that makes its call fail.
pub(super) fn spare_calls(questions: usize) -> usize {
    let halvings = usize::BITS.saturating_sub(questions.saturating_sub(1).leading_zeros());
    usize::try_from(halvings).map_or(0, |halvings| halvings.saturating_mul(2))
}

/// Whether one question alone may have made the call fail, and it may go well without. A hook that
/// is away, slow or short of something is not to be asked more.
fn may_be_of_one(fault: &Fault) -> bool {
    match fault {
        Fault::Batch(BatchError::Status(status)) => !matches!(*status, 429 | 503 | 504),
        Fault::Batch(BatchError::NoAnswers | BatchError::Count { .. }) | Fault::TooLong(_) => true,
        _ => false,
    }
}

impl From<BatchError> for Fault {
    fn from(error: BatchError) -> Self {
        Self::Batch(error)
    }
}

/// What the call alone would have been answered with.
fn reply(answer: BatchAnswer) -> Result<Reply, Fault> {
    let mut headers = HeaderMap::new();
    for (name, value) in &answer.headers {
        let name = HeaderName::try_from(name).map_err(|_| Fault::NoHeader)?;
        let value = HeaderValue::try_from(value).map_err(|_| Fault::NoHeader)?;
        headers.append(name, value);
    }
    Ok(Reply {
        status: 200,
        headers,
        body: answer.text.into_bytes(),
    })
}
