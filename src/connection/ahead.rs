//! Questions to the hook that are asked ahead of their turn: while one frame of a client waits for
//! the hook, the questions of the next ones are asked, too. Only the answers are awaited so; what
//! the frames do at the broker, and their receipts, keep the order of the frames.

use std::{
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use stomp_session::{Action, Operation, Subscribe};

use super::{
    answers::Answers,
    context::Context,
    mapping::{self, Plan, Sending, Sent},
    permission::Permissions,
};
use crate::broker::{Consume, QueueSpec, destination::Destination};

/// Frames whose questions are asked ahead at a time. Each asks one question after the other, as the
/// frame that has its turn does: so a connection has four calls of the hook under way at most.
pub(super) const FRAMES: usize = 3;

/// The questions of a frame that waits for its turn.
pub(super) struct Ahead {
    answers: Arc<Answers>,
    /// `None`: all are answered, or one was refused.
    asking: Option<BoxFuture<'static, ()>>,
}

impl Ahead {
    /// The questions of this action; `None`: it has none, or only its turn can tell.
    /// `is_declared`: the queue was declared by a frame before, so nobody is asked.
    pub(super) fn new(
        action: &Action,
        is_declared: impl Fn(&QueueSpec) -> bool,
        context: &Arc<Context>,
    ) -> Option<Self> {
        let orders = context.services.registry.rechecks();
        let answers = Answers::new(context.rechecks(), orders);
        let questions = match action {
            Action::Subscribe(_, subscribe) => subscribing(subscribe, answers.unique, context)?,
            Action::Perform(_, operations) => sending(operations, is_declared, context)?,
            _ => return None,
        };
        let asking = ask(Arc::clone(context), questions, Arc::clone(&answers)).boxed();
        Some(Self {
            answers,
            asking: Some(asking),
        })
    }

    /// Goes on asking.
    pub(super) fn poll(&mut self, task: &mut TaskContext<'_>) {
        if let Some(asking) = &mut self.asking
            && let Poll::Ready(()) = asking.poll_unpin(task)
        {
            self.asking = None;
        }
    }

    /// The answers, as soon as they are there.
    pub(super) async fn answered(self, context: &Context) -> Arc<Answers> {
        if let Some(asking) = self.asking {
            context.set_asking(true);
            asking.await;
            context.set_asking(false);
        }
        self.answers
    }
}

/// What the hook is to be asked about.
enum Question {
    Listen(Box<str>, Box<str>),
    Consume(Box<Consume>),
    Declare(Box<QueueSpec>),
    Publish(Box<Sending>),
}

fn subscribing(subscribe: &Subscribe, unique: u128, context: &Context) -> Option<Vec<Question>> {
    let identity = context.identity()?;
    let destination = Destination::parse(&subscribe.destination).ok()?;
    let mapping = context.mapping(identity);
    let (ack, headers) = (subscribe.ack, &subscribe.headers);
    let plan = mapping::subscribe(&destination, ack, headers, unique, &mapping).ok()?;
    Some(vec![match plan {
        Plan::Shared {
            exchange, pattern, ..
        } => Question::Listen(exchange, pattern),
        Plan::Dedicated(request) => Question::Consume(Box::new(request)),
    }])
}

/// Of a frame whose replies need a queue, only the rest is asked: its turn makes the queue's name.
fn sending(
    operations: &[Operation],
    is_declared: impl Fn(&QueueSpec) -> bool,
    context: &Context,
) -> Option<Vec<Question>> {
    let identity = context.identity()?;
    let mapping = context.mapping(identity);
    let mut questions = Vec::new();
    for operation in operations {
        let Operation::Publish(publish) = operation else {
            continue;
        };
        let (destination, headers) = (&publish.destination, &publish.headers);
        let sent = mapping::send(destination, headers, Bytes::new(), &mapping).ok()?;
        if let Sent::Message(mut sending) = sent {
            let declare = sending.declare.take();
            let declare = declare.filter(|queue| !is_declared(queue));
            questions.extend(declare.map(|queue| Question::Declare(Box::new(queue))));
            questions.push(Question::Publish(sending));
        }
    }
    (!questions.is_empty()).then_some(questions)
}

/// Asks until one is refused: then the frame fails, and the rest is not asked.
async fn ask(context: Arc<Context>, questions: Vec<Question>, answers: Arc<Answers>) {
    let Some(identity) = context.identity() else {
        return;
    };
    let permissions = Permissions::ahead(&context, identity, &answers);
    for question in &questions {
        let answer = match question {
            Question::Listen(exchange, pattern) => permissions.listen(exchange, pattern).await,
            Question::Consume(request) => permissions.consume(request).await,
            Question::Declare(queue) => permissions.declare(queue).await,
            Question::Publish(sending) => permissions.publish(&sending.publish).await,
        };
        if answer.is_err() {
            return;
        }
    }
}
