//! The codes that a transport closes with.

/// Why a transport closes: WebSocket close codes (RFC 6455, 7.4.1, and IANA's registry).
/// A transport without codes just closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseCode {
    /// 1000: the client sent DISCONNECT.
    Normal,
    /// 1002: the client broke the protocol. Reconnecting to do the same does not help.
    Protocol,
    /// 1007: the client sent a text that is not UTF-8. Reconnecting to do the same does not help.
    NotUtf8,
    /// 1008: the client's request was refused. Reconnecting to do the same does not help.
    Policy,
    /// 1009: a frame over the limits. Reconnecting to do the same does not help.
    TooBig,
    /// 1011: a fault on the server's side. Reconnecting helps.
    Internal,
    /// 1012: this server goes away. Reconnecting helps, after a moment.
    Restart,
    /// 1013: overload, an unreachable broker, or a client that fell silent. Reconnecting helps,
    /// later.
    TryAgainLater,
}

impl CloseCode {
    /// The number in a WebSocket Close frame.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::Normal => 1000,
            Self::Protocol => 1002,
            Self::NotUtf8 => 1007,
            Self::Policy => 1008,
            Self::TooBig => 1009,
            Self::Internal => 1011,
            Self::Restart => 1012,
            Self::TryAgainLater => 1013,
        }
    }

    /// The reason in a WebSocket Close frame: ASCII, far below the 123 bytes that fit there.
    /// The ERROR frame before it says more.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Normal => "disconnected",
            Self::Protocol => "protocol error",
            Self::NotUtf8 => "not UTF-8",
            Self::Policy => "not allowed",
            Self::TooBig => "frame too large",
            Self::Internal => "server error",
            Self::Restart => "server shutting down",
            Self::TryAgainLater => "try again later",
        }
    }

    /// Whether a client that reconnects and does the same again may fare better.
    #[must_use]
    pub const fn should_reconnect(self) -> bool {
        matches!(self, Self::Internal | Self::Restart | Self::TryAgainLater)
    }
}
