//! Events that a connection waits for.

use bytes::Bytes;
use stomp_session::Problem;

use super::{link::LinkError, work::Done, write::Stop};

/// The first event that came.
pub(super) enum Event {
    Received(Bytes),
    LinkEnded(Result<(), LinkError>),
    Done(Done),
    Problem(Problem),
    /// Its memory is needed, and its client does not read.
    Cut,
    /// There is more to do at once.
    Progress,
    Timeout,
}

impl From<Result<Option<Bytes>, LinkError>> for Event {
    fn from(received: Result<Option<Bytes>, LinkError>) -> Self {
        match received {
            Ok(Some(bytes)) => Self::Received(bytes),
            Ok(None) => Self::LinkEnded(Ok(())),
            Err(error) => Self::LinkEnded(Err(error)),
        }
    }
}

impl From<Stop> for Event {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Problem(problem) => Self::Problem(problem),
            Stop::Broken(error) => Self::LinkEnded(Err(error)),
            Stop::Cut => Self::Cut,
        }
    }
}
