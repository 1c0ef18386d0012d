//! A broker's methods for a consumer or a publisher, besides messages.

use crate::{Malformed, Table, scan::Scan};

/// A method from the broker. Texts are as they came, and may be no UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method<'a> {
    /// `connection.start`: the broker's first method.
    Start {
        /// The broker's words about itself: `product`, `version`, `capabilities`.
        server: Table<'a>,
        /// The ways to log in, separated by blanks.
        mechanisms: &'a [u8],
    },
    /// `connection.tune`: the most that the broker takes; 0 is no limit (no heart-beat).
    Tune {
        /// The highest number of a channel.
        channel_max: u16,
        /// The length of a frame, with its head and end.
        frame_max: u32,
        /// In seconds.
        heartbeat: u16,
    },
    /// `connection.open-ok`.
    OpenOk,
    /// `connection.close`: the connection ends; to be answered.
    Close {
        /// As in HTTP, more or less: 320 is the broker's own end.
        code: u16,
        /// Why.
        text: &'a [u8],
    },
    /// `connection.close-ok`.
    CloseOk,
    /// `connection.blocked`: the broker is short of memory or disk, and reads no publisher. It says so
    /// only to clients with the capability `connection.blocked`.
    Blocked,
    /// `connection.unblocked`: it reads publishers again.
    Unblocked,
    /// `connection.update-secret-ok`: the login goes on with the new secret.
    UpdateSecretOk,
    /// `channel.open-ok`.
    ChannelOpenOk,
    /// `channel.close`: the channel ends; to be answered.
    ChannelClose {
        /// 403, 404, 405 or 406, mostly.
        code: u16,
        /// Why.
        text: &'a [u8],
    },
    /// `channel.close-ok`.
    ChannelCloseOk,
    /// `exchange.declare-ok`.
    DeclareOk,
    /// `basic.qos-ok`.
    QosOk,
    /// `basic.consume-ok`.
    ConsumeOk,
    /// `basic.cancel`: the broker ended a consumer, for its queue is gone.
    Cancel,
}

/// A method's class and number, and its arguments.
pub(crate) type Parts<'a> = ((u16, u16), Scan<'a>);

/// `basic.deliver`, whose message follows.
pub(crate) const DELIVER: (u16, u16) = (60, 60);

pub(crate) fn parts(payload: &[u8], channel: u16) -> Result<Parts<'_>, Malformed> {
    let mut scan = Scan(payload);
    let (Some(class), Some(method)) = (scan.short(), scan.short()) else {
        return Err(cut_off(channel));
    };
    Ok(((class, method), scan))
}

impl<'a> Method<'a> {
    pub(crate) fn parse(payload: &'a [u8], channel: u16) -> Result<Self, Malformed> {
        let ((class, method), scan) = parts(payload, channel)?;
        if (class == 10) != (channel == 0) {
            let what = "a method of another class";
            return Err(Malformed::OutOfPlace { what, channel });
        }
        let arguments = match (class, method) {
            (10, 10) => start(scan),
            (10, 30) => tune(scan),
            (10, 41) => Some(Self::OpenOk),
            (10, 50) => code_and_text(scan).map(|(code, text)| Self::Close { code, text }),
            (10, 51) => Some(Self::CloseOk),
            (10, 60) => Some(Self::Blocked),
            (10, 61) => Some(Self::Unblocked),
            (10, 71) => Some(Self::UpdateSecretOk),
            (20, 11) => Some(Self::ChannelOpenOk),
            (20, 40) => code_and_text(scan).map(|(code, text)| Self::ChannelClose { code, text }),
            (20, 41) => Some(Self::ChannelCloseOk),
            (40, 11) => Some(Self::DeclareOk),
            (60, 11) => Some(Self::QosOk),
            (60, 21) => Some(Self::ConsumeOk),
            (60, 30) => Some(Self::Cancel),
            _ => {
                return Err(Malformed::Method {
                    class,
                    method,
                    channel,
                });
            }
        };
        arguments.ok_or_else(|| cut_off(channel))
    }
}

fn cut_off(channel: u16) -> Malformed {
    let what = "a method";
    Malformed::CutOff { what, channel }
}

fn start(mut scan: Scan<'_>) -> Option<Method<'_>> {
    let _version = scan.short()?;
    let server = Table(scan.long_text()?);
    let mechanisms = scan.long_text()?;
    Some(Method::Start { server, mechanisms })
}

fn tune(mut scan: Scan<'_>) -> Option<Method<'_>> {
    Some(Method::Tune {
        channel_max: scan.short()?,
        frame_max: scan.long()?,
        heartbeat: scan.short()?,
    })
}

fn code_and_text(mut scan: Scan<'_>) -> Option<(u16, &[u8])> {
    Some((scan.short()?, scan.short_text()?))
}
