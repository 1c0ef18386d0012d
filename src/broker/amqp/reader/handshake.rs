//! The login, and what is agreed on.

use std::time::Duration;

use amqp_wire::{
    Decoder, Event, Limits, Malformed, Method, PROTOCOL_HEADER, Table, Value,
    encode::{self, Fields, Short},
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::connect::Stream;
use crate::broker::{
    BrokerError, Cause,
    amqp::{FRAME_MAX, account::Credentials, convert::reply_error, link::LinkConfig},
};

/// A connection that is logged in.
pub(in crate::broker::amqp) struct Connected {
    pub(super) stream: Box<dyn Stream>,
    pub(super) decoder: Decoder,
    pub(super) channel_max: u16,
    /// The broker, as it calls itself.
    pub(in crate::broker::amqp) product: Product,
    /// Both sides are heard of at least that often, twice.
    pub(super) heartbeat: Duration,
}

/// A broker, as it calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Product {
    /// `RabbitMQ`; empty if it does not say.
    pub name: Box<str>,
    /// Its version.
    pub version: Box<str>,
}

impl Product {
    fn of(server: &Table<'_>) -> Self {
        let text = |name: &[u8]| match server.get(name) {
            Some(Value::Text(text)) => {
                let text = String::from_utf8_lossy(text);
                text.chars()
                    .filter(|char| !char.is_control())
                    .take(60)
                    .collect()
            }
            _ => Box::default(),
        };
        Self {
            name: text(b"product"),
            version: text(b"version"),
        }
    }
}

/// The protocol allows no less to be agreed on.
const FRAME_MIN: u32 = 4_096;
const CHANNEL_MAX: u16 = 2_047;
/// The broker's first frame, with what it says of itself, comes before there is an agreement.
const FIRST_FRAME_MAX: u32 = 16 << 10;

/// Logs in. Bounded by the caller's time.
pub(in crate::broker::amqp) async fn handshake(
    stream: Box<dyn Stream>,
    config: &LinkConfig,
    credentials: &Credentials,
    max_body: u64,
) -> Result<Connected, BrokerError> {
    let limits = Limits {
        frame_max: FIRST_FRAME_MAX,
        channel_max: 0,
        max_body,
    };
    let mut talk = Talk {
        stream,
        decoder: Decoder::new(limits),
    };
    talk.write(&PROTOCOL_HEADER).await?;
    let started = talk.answer(|method| match method {
        Method::Start { server, mechanisms } => {
            let offered = offers(mechanisms, credentials.mechanism);
            Some(offered.map(|()| Product::of(&server)))
        }
        _ => None,
    });
    let product = started.await??;
    let mut out = Vec::new();
    encode::start_ok(
        &mut out,
        &about_us(&config.name()),
        Short::cut(credentials.mechanism),
        &credentials.response,
    );
    talk.write(&out).await?;

    let wanted = config.uri.query.heartbeat.unwrap_or_default();
    let (channel_max, frame_max, heartbeat) = talk
        .answer(|method| match method {
            Method::Tune {
                channel_max,
                frame_max,
                heartbeat,
            } => Some((
                agree(channel_max, CHANNEL_MAX),
                agree(frame_max, FRAME_MAX).max(FRAME_MIN),
                agree(heartbeat, wanted),
            )),
            _ => None,
        })
        .await?;
    out.clear();
    encode::tune_ok(&mut out, channel_max, frame_max, heartbeat);
    let Some(vhost) = Short::new(&config.uri.vhost) else {
        let text = "the virtual host's name is longer than AMQP's 255 bytes";
        return Err(BrokerError::Unavailable(text.into()));
    };
    encode::open(&mut out, vhost);
    talk.write(&out).await?;
    talk.decoder.limit(Limits {
        frame_max,
        channel_max,
        max_body,
    });
    talk.answer(|method| matches!(method, Method::OpenOk).then_some(()))
        .await?;
    let Talk { stream, decoder } = talk;
    Ok(Connected {
        stream,
        decoder,
        channel_max,
        product,
        heartbeat: Duration::from_secs(heartbeat.into()),
    })
}

/// The less of both; 0 is no limit.
fn agree<N: Ord + Default>(theirs: N, ours: N) -> N {
    let none = N::default();
    if theirs == none || ours == none {
        theirs.max(ours)
    } else {
        theirs.min(ours)
    }
}

fn offers(mechanisms: &[u8], wanted: &str) -> Result<(), BrokerError> {
    let mut offered = mechanisms.split(|byte| *byte == b' ');
    if offered.any(|one| one == wanted.as_bytes()) {
        return Ok(());
    }
    let offered = String::from_utf8_lossy(mechanisms);
    let what = match wanted {
        "EXTERNAL" => {
            "certificate (EXTERNAL; its plug-in is rabbitmq_auth_mechanism_ssl, to be named in \
             auth_mechanisms)"
        }
        _ => "password (PLAIN)",
    };
    let text = format!("the broker takes no {what}: it offers {offered}");
    Err(BrokerError::Unavailable(Cause::foreign(text)))
}

/// The client's properties: the broker shows them on its management page, and learns this
/// client's abilities.
fn about_us(name: &str) -> Fields {
    let short = Short::cut;
    let able = Fields::default()
        .switch(short("consumer_cancel_notify"), true)
        .switch(short("authentication_failure_close"), true);
    Fields::default()
        .text(short("product"), "Stentor")
        .text(short("version"), env!("CARGO_PKG_VERSION"))
        .text(short("connection_name"), name)
        .table(short("capabilities"), &able)
}

struct Talk {
    stream: Box<dyn Stream>,
    decoder: Decoder,
}

impl Talk {
    async fn write(&mut self, bytes: &[u8]) -> Result<(), BrokerError> {
        let writing = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        writing.await.map_err(|error| unavailable(&error))
    }

    /// The value that `pick` finds in the broker's next method; without one the connection ends.
    async fn answer<A>(
        &mut self,
        pick: impl Fn(Method<'_>) -> Option<A>,
    ) -> Result<A, BrokerError> {
        loop {
            match self.decoder.poll().map_err(|error| unavailable(&error))? {
                Some(Event::Method {
                    method: Method::Close { code, text },
                    ..
                }) => {
                    let reason = reply_error(code, &String::from_utf8_lossy(text));
                    let mut out = Vec::new();
                    encode::close_ok(&mut out);
                    // If the broker no longer reads it, the reason is the same.
                    let _ = self.write(&out).await;
                    return Err(reason);
                }
                Some(Event::Method { channel, method }) => {
                    let what = "a method of the login";
                    let error = Malformed::OutOfPlace { what, channel };
                    return pick(method).ok_or_else(|| unavailable(&error));
                }
                Some(_) => {}
                None => {
                    let reading = self.stream.read(self.decoder.space());
                    let count = reading.await.map_err(|error| unavailable(&error))?;
                    if count == 0 {
                        return Err(unavailable(
                            &"the broker closed the connection at the login",
                        ));
                    }
                    self.decoder.filled(count);
                }
            }
        }
    }
}

fn unavailable(error: &dyn ToString) -> BrokerError {
    BrokerError::Unavailable(Cause::foreign(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_less_of_both_is_agreed_on() {
        assert_eq!(agree(60, 10), 10);
        assert_eq!(agree(5, 10), 5);
        assert_eq!(agree(0, 10), 10);
        assert_eq!(agree(5, 0), 5);
    }

    #[test]
    fn a_broker_that_takes_no_such_login_is_told_from_others() {
        assert_eq!(offers(b"AMQPLAIN PLAIN", "PLAIN"), Ok(()));
        assert_eq!(offers(b"PLAIN EXTERNAL", "EXTERNAL"), Ok(()));
        assert!(offers(b"AMQPLAIN EXTERNAL", "PLAIN").is_err());
        let fault = offers(b"AMQPLAIN PLAIN", "EXTERNAL").unwrap_err();
        assert!(
            fault.to_string().contains("rabbitmq_auth_mechanism_ssl"),
            "{fault}"
        );
    }
}
