//! Messages that are published once (pure): `client-seq` and `idempotency-key`.

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

use super::{Context, fields::Fields};
use crate::{
    broker::Properties,
    messaging::{Keys, MAX_NUMBER, Once, is_reserved, message_id},
};

/// The number of a SEND; and, in CONNECT, the last one of which the client had the receipt.
pub(crate) const NUMBER: &str = "client-seq";
/// The key of a SEND; and, in its RECEIPT, that it is remembered.
pub(crate) const KEY: &str = "idempotency-key";

/// The property that bears the message's name; a client may set it.
const MESSAGE_ID: &str = "amqp-message-id";

/// The last number of which the client had the receipt, by its CONNECT; `None`: it does not
/// number its messages.
///
/// # Errors
/// [`Problem::InvalidHeader`]; [`Problem::MissingHeader`]: there is no device.
pub(crate) fn told(
    headers: &Headers,
    user: &str,
    device: Option<&str>,
) -> Result<Option<u64>, Problem> {
    let command = Command::Connect;
    let Some(text) = headers.get(NUMBER) else {
        return Ok(None);
    };
    let number = number(text).ok_or(Problem::InvalidHeader {
        command,
        header: NUMBER,
        expected: "a whole number from 0 to 9007199254740991: the last one that you had a receipt \
                   for, or 0",
    })?;
    let header = "device-id";
    let device = device.ok_or(Problem::MissingHeader { command, header })?;
    match message_id(user, device, &Once::Number(MAX_NUMBER)) {
        Some(_) => Ok(Some(number)),
        None => Err(Problem::InvalidHeader {
            command,
            header,
            expected: "a shorter one: messages bear the user's name and the device's together, in \
                       at most 255 bytes",
        }),
    }
}

/// What makes the message one that is published once. It gets its name, and nothing else may get
/// such a name.
///
/// # Errors
/// [`Problem::InvalidHeader`].
pub(super) fn read(
    fields: &Fields<'_>,
    properties: &mut Properties,
    context: &Context<'_>,
) -> Result<Option<Once>, Problem> {
    if !context.sequences {
        return Ok(None);
    }
    let has = |header| fields.headers.get(header);
    let once = match (has(NUMBER), has(KEY)) {
        (None, None) => {
            let claimed = properties.message_id.as_deref();
            return match claimed {
                Some(id) if is_reserved(id) => {
                    Err(fields.invalid(MESSAGE_ID, "none that begins with seq/ or key/"))
                }
                _ => Ok(None),
            };
        }
        (Some(_), Some(_)) => {
            return Err(fields.invalid(KEY, "no client-seq beside it: one of both is enough"));
        }
        (Some(text), None) => {
            let expected = "a whole number from 1 to 9007199254740991";
            let number = number(text).filter(|number| *number > 0);
            Once::Number(number.ok_or_else(|| fields.invalid(NUMBER, expected))?)
        }
        (None, Some(key)) if Keys::fits(key) => Once::Key(key.into()),
        (None, Some(_)) => return Err(fields.invalid(KEY, "1 to 128 bytes")),
    };
    let (header, expected) = match once {
        Once::Number(_) => (
            NUMBER,
            "no transaction: a numbered message stands by itself",
        ),
        Once::Key(_) => (KEY, "no transaction: a message with a key stands by itself"),
    };
    if has("transaction").is_some() {
        return Err(fields.invalid(header, expected));
    }
    if has(MESSAGE_ID).is_some() {
        return Err(fields.invalid(MESSAGE_ID, "none beside client-seq or idempotency-key"));
    }
    let Some(id) = message_id(context.user, context.device, &once) else {
        let expected = "a shorter one: it and the user's name have 255 bytes together";
        return Err(fields.invalid(header, expected));
    };
    properties.message_id = Some(id);
    Ok(Some(once))
}

/// A frame that is no message has no number and no key.
///
/// # Errors
/// [`Problem::InvalidHeader`].
pub(super) fn refuse(headers: &Headers, context: &Context<'_>) -> Result<(), Problem> {
    let given = [NUMBER, KEY].into_iter().filter(|_| context.sequences);
    match given.into_iter().find(|name| headers.get(name).is_some()) {
        Some(header) => Err(Problem::InvalidHeader {
            command: Command::Send,
            header,
            expected: "a message to an exchange, a topic or a queue",
        }),
        None => Ok(()),
    }
}

/// Nothing but digits: no sign, no blanks.
pub(crate) fn number(text: &str) -> Option<u64> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|_| is_plain)?;
    (number <= MAX_NUMBER).then_some(number)
}
