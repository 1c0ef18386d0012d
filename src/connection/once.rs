//! Messages that are published once: a client's sequence, from its CONNECT on, and its keys.

use std::sync::Arc;

use futures_util::FutureExt;
use stomp_grammar::Headers;
use stomp_session::Problem;

use super::{
    context::{Context, Identity},
    mapping::numbering,
    work::Awaited,
};
use crate::{
    broker::{Confirm, Properties},
    hub::Told,
    messaging::{self, KeyAdmitted, Keys, Once, Sequence, SequenceName, mark_duplicate},
};

/// What becomes of a message that is to be published once.
pub(super) enum Admitted {
    /// It is not published; what its receipt waits for.
    Repeat(Vec<Awaited>),
    /// It is published now.
    Publish(Ticket),
}

/// A message that is about to be published.
pub(super) struct Ticket {
    of: Of,
    possible_duplicate: bool,
}

enum Of {
    Number(u64),
    Key(Keys, Box<str>),
}

/// What the RECEIPT of such a message says: its key. So its client knows that keys count here; of
/// numbers CONNECTED tells.
pub(super) fn receipt(asked: &Once) -> Option<Told> {
    match asked {
        Once::Number(_) => None,
        Once::Key(key) => Some(Told::from([(numbering::KEY, key.clone())])),
    }
}

/// The last number of which the client had the receipt, if its CONNECT asks for its sequence.
///
/// # Errors
/// Its ERROR.
pub(super) fn told(
    context: &Context,
    identity: &Identity,
    headers: &Headers,
) -> Result<Option<u64>, Problem> {
    if context.services.sequences.is_none() {
        return Ok(None);
    }
    numbering::told(headers, &identity.user.name, device(identity))
}

fn device(identity: &Identity) -> Option<&str> {
    identity.device_id().filter(|id| !id.is_empty())
}

/// Takes over the sequence of a client that has `told` where it is. Answers the last number that the
/// broker has.
///
/// # Errors
/// Its ERROR.
pub(super) async fn open(
    context: &Context,
    identity: &mut Identity,
    told: Option<u64>,
) -> Result<Option<u64>, Problem> {
    let (Some(store), Some(told)) = (&context.services.sequences, told) else {
        return Ok(None);
    };
    let name = SequenceName {
        holder: identity.holder(),
        device: device(identity).unwrap_or_default().into(),
    };
    let is_there = || context.is_there();
    let (sequence, last) = Sequence::open(Arc::clone(store), name, told, is_there).await?;
    identity.set_sequence(sequence);
    Ok(Some(last))
}

/// The turn of a message that is to be published once.
///
/// # Errors
/// Its ERROR.
pub(super) async fn admit(
    context: &Context,
    identity: &Identity,
    asked: Once,
) -> Result<Admitted, Problem> {
    let (of, possible_duplicate) = match asked {
        Once::Number(number) => {
            let sequence = identity.sequence().ok_or(Problem::SequenceNotOpen)?;
            match sequence.admit(number).await? {
                messaging::Admitted::Known => return Ok(Admitted::Repeat(Vec::new())),
                messaging::Admitted::UnderWay(confirming) => {
                    return Ok(Admitted::Repeat(vec![Awaited::Once(confirming)]));
                }
                messaging::Admitted::Publish { possible_duplicate } => {
                    (Of::Number(number), possible_duplicate)
                }
            }
        }
        Once::Key(key) => {
            let store = context.services.sequences.as_ref();
            let store = store.ok_or(Problem::SequenceNotOpen)?;
            let keys = Keys::new(Arc::clone(store), identity.holder());
            match keys.admit(&key).await? {
                KeyAdmitted::Known => return Ok(Admitted::Repeat(Vec::new())),
                KeyAdmitted::Publish { possible_duplicate } => {
                    (Of::Key(keys, key), possible_duplicate)
                }
            }
        }
    };
    Ok(Admitted::Publish(Ticket {
        of,
        possible_duplicate,
    }))
}

impl Ticket {
    /// Marks the message, if the broker may have it.
    pub(super) fn mark(&self, properties: &mut Properties) {
        if self.possible_duplicate {
            mark_duplicate(properties);
        }
    }

    /// The message was handed to the broker; what its receipt waits for.
    pub(super) fn published(self, identity: &Identity, confirm: Confirm) -> messaging::Confirming {
        let confirm = async move { confirm.await.map_err(Problem::from) }.boxed();
        match (self.of, identity.sequence()) {
            (Of::Number(number), Some(sequence)) => sequence.published(number, confirm),
            // It was admitted by its sequence.
            (Of::Number(_), None) => confirm,
            (Of::Key(keys, key), _) => keys.published(key, confirm),
        }
    }
}
