//! The HTTP authentication contract of RabbitMQ's `rabbitmq_auth_backend_http`, written once.
//!
//! A message broker or gateway asks an application's *hook* four kinds of question over HTTP,
//! and the hook answers in a word. [`Question`] is what is asked, to and from query strings and
//! forms; [`Answer`] is what the hook says. A fifth question, which RabbitMQ does not ask, is
//! answered by a list: [`parse_groups`]. Nor does RabbitMQ ask many questions in one call: see
//! [`encode_batch`]. The side that asks and the side that answers both
//! use these types, so they cannot drift apart.
//!
//! With the feature `service` the crate also holds a reference hook; with `program` (on by
//! default), the binary `auth-hook` that serves it.

mod answer;
mod batch;
mod groups;
mod question;
#[cfg(feature = "service")]
pub mod service;

pub use answer::{Answer, AnswerError};
pub use batch::{
    BatchAnswer, BatchError, BatchQuestion, MAX_BATCH, encode_batch, encode_batch_answers,
    encode_in_batch, parse_batch, parse_batch_answers,
};
pub use groups::{GroupsError, MAX_GROUP_NAME, MAX_GROUPS, parse_groups};
pub use question::{
    Call, GroupsQuestion, Permission, Question, QuestionError, ResourceKind, ResourceQuestion,
    TopicQuestion, UserQuestion, VhostQuestion,
};
