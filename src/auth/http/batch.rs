//! Many questions in one call.

use std::{sync::Arc, time::Duration};

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
    time::{Instant, timeout},
};

use super::{Path, Reply, exchange, fault::Fault, refused_by};
use crate::{
    auth::{
        Refusal,
        turns::{BatchBounds, Payer, Together, Turn, Turns},
    },
    telemetry,
};

/// A batch is no longer, in bytes, unless one question alone is: common servers take 100 KB.
const MAX_BYTES: usize = 64 * 1024;

/// More of the answers is not read: in bytes, for each question.
const MAX_ANSWER: usize = 8 * 1024;

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

    /// The answers, as many as there are questions.
    async fn answers(&self, questions: &[String]) -> Vec<Answered> {
        let count = questions.len();
        let body = encode_batch(questions.iter().map(String::as_str)).into();
        let begun = Instant::now();
        let within = self.request_timeout;
        let answered = timeout(within, self.call(body, count)).await;
        let answered = answered.unwrap_or(Err(Fault::Timeout(within)));
        telemetry::hook_called(BATCH, begun.elapsed(), answered.is_err());
        telemetry::hook_batched(count);
        let path = &self.path;
        match answered {
            Ok(answers) => {
                path.faults.answered(BATCH, &path.shown);
                answers
                    .into_iter()
                    .map(|answer| {
                        let reply = answer.map_err(Fault::from).and_then(reply);
                        reply.map_err(|fault| {
                            path.faults.fault(BATCH, &path.shown, &fault);
                            refused_by(BATCH, &fault)
                        })
                    })
                    .collect()
            }
            Err(fault) => {
                path.faults.fault(BATCH, &path.shown, &fault);
                let refusal = refused_by(BATCH, &fault);
                (0..count).map(|_| Err(refusal.clone())).collect()
            }
        }
    }

    async fn call(
        &self,
        body: Bytes,
        count: usize,
    ) -> Result<Vec<Result<BatchAnswer, AnswerError>>, Fault> {
        let request = || {
            self.client
                .post(self.path.url.clone())
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone())
        };
        let longest = MAX_ANSWER.saturating_mul(count.saturating_add(1));
        let reply = exchange(request, longest).await?;
        Ok(parse_batch_answers(reply.status, &reply.body, count)?)
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
