//! The properties of a message: the one list of them, and what it is read for.

use std::borrow::Cow;

/// Hands the list of all properties to a macro. Of each: its field and type, the STOMP header that
/// bears it, the codecs' name for it, and lapin's function to set it.
///
/// A property that is added here is read from SEND, is shown in MESSAGE, and is carried by AMQP, by
/// whichever link. Only where it means more than its text is there more to do: in
/// `connection::mapping::properties`, and in the HTTP API, if that is to offer it.
macro_rules! for_each_property {
    ($then:ident) => {
        $then! {
            /// `content-type`.
            content_type: Option<Box<str>>, "content-type", content_type, with_content_type;
            /// `content-encoding`.
            content_encoding: Option<Box<str>>, "content-encoding", content_encoding, with_content_encoding;
            /// Delivery mode 2.
            persistent: bool, "persistent", delivery_mode, with_delivery_mode;
            /// `priority`.
            priority: Option<u8>, "priority", priority, with_priority;
            /// `correlation-id`.
            correlation_id: Option<Box<str>>, "correlation-id", correlation_id, with_correlation_id;
            /// `reply-to`, in AMQP's terms: a queue's name.
            reply_to: Option<Box<str>>, "reply-to", reply_to, with_reply_to;
            /// `expiration`: milliseconds, as text.
            expiration: Option<Box<str>>, "expiration", expiration, with_expiration;
            /// `message-id`.
            message_id: Option<Box<str>>, "amqp-message-id", message_id, with_message_id;
            /// `timestamp`: seconds since 1970.
            timestamp: Option<u64>, "timestamp", timestamp, with_timestamp;
            /// `type`.
            kind: Option<Box<str>>, "type", kind, with_type;
            /// `user-id`.
            user_id: Option<Box<str>>, "user-id", user_id, with_user_id;
            /// `app-id`.
            app_id: Option<Box<str>>, "app-id", app_id, with_app_id;
        }
    };
}
pub(crate) use for_each_property;

macro_rules! define {
    ($($(#[$doc:meta])+ $field:ident: $type:ty, $header:literal, $get:ident, $set:ident;)+) => {
        /// The AMQP basic properties that STOMP clients can see or set, and headers as texts.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Properties {
            $($(#[$doc])+ pub $field: $type,)+
            /// Headers: texts as they are, numbers and booleans as text, nested values left out.
            pub headers: Vec<(Box<str>, Box<str>)>,
        }

        impl Properties {
            /// The STOMP headers that bear properties.
            pub const HEADERS: &'static [&'static str] = &[$($header),+];

            /// Each property with its STOMP header, in AMQP's order.
            pub(super) fn shown(&self) -> [(&'static str, Option<Cow<'_, str>>); Properties::HEADERS.len()] {
                [$(($header, self.$field.shown())),+]
            }

            /// Those that are texts and set.
            pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
                [$(self.$field.text()),+].into_iter().flatten()
            }
        }
    };
}

for_each_property!(define);

impl Properties {
    /// What a message's properties and headers may take together. AMQP puts them into one frame,
    /// and RabbitMQ closes a connection that sends a greater one than its `frame_max`, which is
    /// 131,072 bytes unless it is configured.
    pub const MAX_LEN: usize = 120 * 1024;

    /// What they take in AMQP, a few bytes more at most.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        // Numbers, the flags, and the lengths of the table and of each text, generously.
        const FIXED: usize = 64;
        const PER_HEADER: usize = 6;
        let headers = self
            .headers
            .iter()
            .flat_map(|(name, value)| [PER_HEADER, name.len(), value.len()]);
        let texts = self.texts().map(str::len);
        std::iter::once(FIXED).chain(texts).chain(headers).sum()
    }
}

/// A property's value, by its type.
trait Value {
    /// As text; `None`: it is not set.
    fn shown(&self) -> Option<Cow<'_, str>>;

    /// The same, if it is a text.
    fn text(&self) -> Option<&str> {
        None
    }
}

impl Value for Option<Box<str>> {
    fn shown(&self) -> Option<Cow<'_, str>> {
        self.as_deref().map(Cow::Borrowed)
    }

    fn text(&self) -> Option<&str> {
        self.as_deref()
    }
}

impl Value for bool {
    fn shown(&self) -> Option<Cow<'_, str>> {
        self.then_some(Cow::Borrowed("true"))
    }
}

impl Value for Option<u8> {
    fn shown(&self) -> Option<Cow<'_, str>> {
        self.map(|number| number.to_string().into())
    }
}

impl Value for Option<u64> {
    fn shown(&self) -> Option<Cow<'_, str>> {
        self.map(|number| number.to_string().into())
    }
}
