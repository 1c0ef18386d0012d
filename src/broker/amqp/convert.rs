//! Between lapin's types and the gateway's (pure).

use lapin::{
    BasicProperties, ErrorKind,
    message::Delivery as Lapin,
    types::{AMQPValue, FieldTable, LongString, ShortString},
};

use crate::broker::{Argument, BrokerError, Cause, Death, Message, Properties, for_each_property};

/// What the broker said, in the gateway's terms.
pub(super) fn broker_error(error: &lapin::Error) -> BrokerError {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => reply_error(amqp.get_id(), amqp.get_message().as_str()),
        ErrorKind::IOError(_) | ErrorKind::MissingHeartbeatError => {
            BrokerError::Unavailable(Cause::abrupt(error.to_string()))
        }
        _ => BrokerError::Unavailable(Cause::foreign(error.to_string())),
    }
}

/// What the broker means by a code and a text.
pub(super) fn reply_error(code: u16, text: &str) -> BrokerError {
    match code {
        403 => BrokerError::AccessRefused(text.into()),
        404 if is_out_of_reach(text) => BrokerError::QueueFailed(text.into()),
        404 => BrokerError::NotFound(text.into()),
        405 => BrokerError::ResourceLocked(text.into()),
        406 => BrokerError::PreconditionFailed(text.into()),
        530 if is_vhost_refusal(text) => BrokerError::VhostRefused(text.into()),
        501.. => BrokerError::Unavailable(Cause::verdict(text)),
        _ => BrokerError::Unavailable(Cause::foreign(text)),
    }
}

/// `NOT_ALLOWED - vhost v not found`, or `NOT_ALLOWED - access to vhost 'v' refused for user 'u'`;
/// but not `NOT_ALLOWED - connection to vhost 'v' refused: connection limit (1) is reached`, which
/// may get better. RabbitMQ cuts a text that is too long, and ends it by dots.
fn is_vhost_refusal(text: &str) -> bool {
    let text = text.strip_prefix("NOT_ALLOWED - ").unwrap_or_default();
    let is_unknown = text.starts_with("vhost ");
    text.starts_with("access to vhost '")
        || is_unknown && (text.ends_with(" not found") || text.ends_with("..."))
}

/// RabbitMQ's words for a queue that is there, but cannot be used now, most often because its node of
/// the cluster is down: `NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or
/// inaccessible`, and its likes.
fn is_out_of_reach(text: &str) -> bool {
    const ENDS: [&str; 4] = [
        "due to timeout",
        "has crashed and failed to restart",
        "is stopped by supervisor",
        "is down or inaccessible",
    ];
    let text = text.strip_prefix("NOT_FOUND - ").unwrap_or_default();
    // A name may read like the words, and stands in quotes.
    ENDS.iter().any(|end| text.ends_with(end))
}

/// A text as AMQP's short string, which holds at most 255 bytes.
pub(super) fn short(what: &str, text: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(text).map_err(|_| {
        let detail = format!("{what} is {} bytes long; AMQP allows 255", text.len());
        BrokerError::PreconditionFailed(detail.into())
    })
}

/// A message that a client publishes.
pub(super) fn to_amqp(properties: &Properties) -> Result<BasicProperties, BrokerError> {
    let length = properties.encoded_len();
    if length > Properties::MAX_LEN {
        let text = format!(
            "the message's properties and headers take {length} bytes; {} are allowed",
            Properties::MAX_LEN
        );
        return Err(BrokerError::PreconditionFailed(text.into()));
    }
    let mut amqp = set(properties)?;
    if !properties.headers.is_empty() {
        let mut table = FieldTable::default();
        for (name, value) in &properties.headers {
            let value = AMQPValue::LongString(LongString::from(value.as_bytes()));
            table.insert(short("a header's name", name)?, value);
        }
        amqp = amqp.with_headers(table);
    }
    Ok(amqp)
}

/// Arguments of a queue or a consumer.
pub(super) fn table(arguments: &[(Box<str>, Argument)]) -> Result<FieldTable, BrokerError> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(LongString::from(text.as_bytes())),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
            Argument::Switch(switch) => AMQPValue::Boolean(*switch),
            Argument::Texts(texts) => {
                let texts = texts
                    .iter()
                    .map(|text| AMQPValue::LongString(text.as_bytes().into()));
                AMQPValue::FieldArray(texts.collect::<Vec<_>>().into())
            }
            Argument::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        };
        table.insert(short("an argument's name", name)?, value);
    }
    Ok(table)
}

/// A message that the broker delivered; takes the body out of it.
pub(super) fn from_amqp(delivery: &mut Lapin) -> Message {
    let amqp = &delivery.properties;
    let mut properties = get(amqp);
    let (mut cc, mut deaths) = (Vec::new(), Vec::new());
    for (name, value) in amqp.headers().iter().flatten() {
        if let (AMQPValue::FieldArray(keys), "CC") = (value, name.as_str()) {
            cc.extend(
                keys.as_slice()
                    .iter()
                    .filter_map(as_text)
                    .map(String::into_boxed_str),
            );
        } else if let (AMQPValue::FieldArray(all), "x-death") = (value, name.as_str()) {
            deaths.extend(all.as_slice().iter().filter_map(death));
        } else if let Some(value) = as_text(value) {
            properties
                .headers
                .push((name.as_str().into(), value.into()));
        }
    }
    let mut message = Message::new(
        delivery.exchange.as_str().into(),
        delivery.routing_key.as_str().into(),
        properties,
        std::mem::take(&mut delivery.data).into(),
    );
    message.deaths = deaths.into();
    message.with_cc(cc)
}

/// An entry of the header `x-death`.
fn death(entry: &AMQPValue) -> Option<Death> {
    let AMQPValue::FieldTable(entry) = entry else {
        return None;
    };
    let entry = entry.inner();
    let text = |name: &str| {
        entry
            .get(name)
            .and_then(as_text)
            .map(String::into_boxed_str)
    };
    let AMQPValue::FieldArray(keys) = entry.get("routing-keys")? else {
        return None;
    };
    let keys = keys.as_slice().iter().filter_map(as_text);
    Some(Death {
        queue: text("queue")?,
        reason: text("reason")?,
        routing_keys: keys.map(String::into_boxed_str).collect(),
        expiration: text("original-expiration").and_then(|text| text.parse().ok()),
    })
}

macro_rules! by_lapin {
    ($($(#[$doc:meta])+ $field:ident: $type:ty, $header:literal, $get:ident, $set:ident;)+) => {
        /// The properties in lapin's terms, without headers.
        fn set(properties: &Properties) -> Result<BasicProperties, BrokerError> {
            let mut amqp = BasicProperties::default();
            $(if let Some(value) = properties.$field.to_lapin($header)? {
                amqp = amqp.$set(value);
            })+
            Ok(amqp)
        }

        /// The properties in the gateway's terms, without headers.
        fn get(amqp: &BasicProperties) -> Properties {
            Properties {
                $($field: FromAmqp::from_amqp(amqp.$get().as_ref()),)+
                headers: Vec::new(),
            }
        }
    };
}

for_each_property!(by_lapin);

/// What lapin makes of a property's value, by its type.
trait ToLapin {
    type Value;

    /// `None`: it is not set.
    fn to_lapin(&self, name: &str) -> Result<Option<Self::Value>, BrokerError>;
}

impl ToLapin for Option<Box<str>> {
    type Value = ShortString;

    fn to_lapin(&self, name: &str) -> Result<Option<ShortString>, BrokerError> {
        self.as_deref().map(|text| short(name, text)).transpose()
    }
}

impl ToLapin for bool {
    type Value = u8;

    fn to_lapin(&self, _: &str) -> Result<Option<u8>, BrokerError> {
        Ok(self.then_some(PERSISTENT))
    }
}

impl ToLapin for Option<u8> {
    type Value = u8;

    fn to_lapin(&self, _: &str) -> Result<Option<u8>, BrokerError> {
        Ok(*self)
    }
}

impl ToLapin for Option<u64> {
    type Value = u64;

    fn to_lapin(&self, _: &str) -> Result<Option<u64>, BrokerError> {
        Ok(*self)
    }
}

/// The delivery mode of a message that survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// A property's value as a codec has it; `None`: it is not set.
pub(super) trait FromAmqp<T> {
    fn from_amqp(value: Option<&T>) -> Self;
}

impl FromAmqp<ShortString> for Option<Box<str>> {
    fn from_amqp(value: Option<&ShortString>) -> Self {
        value.map(|text| text.as_str().into())
    }
}

impl FromAmqp<&[u8]> for Option<Box<str>> {
    fn from_amqp(value: Option<&&[u8]>) -> Self {
        value.map(|text| String::from_utf8_lossy(text).into())
    }
}

impl FromAmqp<u8> for bool {
    fn from_amqp(mode: Option<&u8>) -> Self {
        mode == Some(&PERSISTENT)
    }
}

impl FromAmqp<u8> for Option<u8> {
    fn from_amqp(value: Option<&u8>) -> Self {
        value.copied()
    }
}

impl FromAmqp<u64> for Option<u64> {
    fn from_amqp(value: Option<&u64>) -> Self {
        value.copied()
    }
}

/// A header's value as text; nested values have none.
fn as_text(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        AMQPValue::DecimalValue(value) => decimal(value.scale, value.value)?,
        AMQPValue::ShortString(value) => value.to_string(),
        AMQPValue::LongString(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        _ => return None,
    })
}

/// `value` divided by ten, `scale` times.
pub(super) fn decimal(scale: u8, value: u32) -> Option<String> {
    let scale = usize::from(scale);
    let digits = format!("{value:0width$}", width = scale.saturating_add(1));
    let point = digits.len().saturating_sub(scale);
    let (whole, fraction) = digits.split_at_checked(point)?;
    Some(match fraction.is_empty() {
        true => whole.to_owned(),
        false => format!("{whole}.{fraction}"),
    })
}

#[cfg(test)]
mod tests {
    use lapin::types::DecimalValue;

    use super::*;

    #[test]
    fn decimals_are_written_with_a_point() {
        for (scale, value, text) in [
            (0, 0, "0"),
            (0, 1990, "1990"),
            (2, 1990, "19.90"),
            (4, 1990, "0.1990"),
            (5, 1990, "0.01990"),
        ] {
            let value = AMQPValue::DecimalValue(DecimalValue { scale, value });
            assert_eq!(as_text(&value).as_deref(), Some(text));
        }
        let least = decimal(u8::MAX, u32::MAX).unwrap();
        assert_eq!(least.len(), "0.".len() + 255);
        assert!(least.ends_with("04294967295"));
    }

    /// A key of a dead letter's own takes the place of all that it had.
    #[test]
    fn a_death_has_all_keys() {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let keys = ["user_alice", "user_bob"].map(text);
        let mut entry = FieldTable::default();
        for (name, value) in [("queue", text("q")), ("reason", text("expired"))] {
            entry.insert(name.into(), value);
        }
        let without = death(&AMQPValue::FieldTable(entry.clone()));
        assert_eq!(without, None);
        let keys = AMQPValue::FieldArray(keys.to_vec().into());
        entry.insert("routing-keys".into(), keys);
        let found = death(&AMQPValue::FieldTable(entry)).unwrap();
        let keys = ["user_alice", "user_bob"].map(Box::from);
        assert_eq!(*found.routing_keys, keys);
    }

    #[test]
    fn a_queue_whose_node_is_down_is_not_missing() {
        let failed = |text: &str| BrokerError::QueueFailed(text.into());
        for text in [
            "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or \
             inaccessible",
            "NOT_FOUND - failed to perform operation on queue 'q' in vhost '/' due to timeout",
            "NOT_FOUND - queue 'q' in vhost '/' process is stopped by supervisor",
        ] {
            assert_eq!(reply_error(404, text), failed(text));
        }
        let missing = "NOT_FOUND - no queue 'is down or inaccessible' in vhost '/'";
        let error = BrokerError::NotFound(missing.into());
        assert_eq!(reply_error(404, missing), error);
    }

    #[test]
    fn a_refused_virtual_host_is_told_from_one_that_is_full() {
        for (text, refused) in [
            ("NOT_ALLOWED - vhost nope not found", true),
            ("NOT_ALLOWED - vhost no, one of a long name...", true),
            (
                "NOT_ALLOWED - access to vhost 'v' refused for user 'u'",
                true,
            ),
            (
                "NOT_ALLOWED - connection to vhost 'v' refused: connection limit (1) is reached",
                false,
            ),
            (
                "NOT_ALLOWED - connection refused for user 'u': user connection limit (1) is \
                 reached",
                false,
            ),
        ] {
            assert_eq!(is_vhost_refusal(text), refused, "{text}");
        }
    }
}
