//! The table: one arm for each condition that ends a session.
//!
//! An arm is all that a new condition takes. `BLESS=1 cargo test -p stomp-session problem` then
//! writes down its ERROR frame in `problems.txt`, and its row in `docs/errors.md`; read the
//! diff, for clients match on these words.

use stomp_grammar::{Command, DecodeErrorKind, Version};

use super::{Reconnect, Row, clip, quoted};
use crate::CloseCode;

problems! {
    "The login" {
        /// Neither `login` and `passcode` nor anything that stands in for them.
        MissingCredentials => {
            message: "Bad CONNECT", code: "missing-credentials", close: Policy, reconnect: Renew,
            page: "The login carried neither a name with a passcode nor a cookie, a token or a \
                   certificate in their place. Log in first",
            body: "Missing login or passcode header(s)",
            samples: [MissingCredentials],
        }

        /// The hook refused the user.
        AccessRefused {
            /// The user's name, as the client gave it.
            user: Box<str>,
        } => {
            message: "Bad CONNECT", code: "login-refused", close: Policy, reconnect: Renew,
            page: "The authentication backend does not let this user in. The passcode is wrong, or \
                   the token has ended",
            body: format!("Access refused for user '{}'\n", clip(user)),
            samples: [AccessRefused { user: "guest".into() }],
        }

        /// The hook could not be asked, or did not answer in its contract. The words are those of
        /// a refusal; the code says that to try again helps.
        LoginUnavailable {
            /// The user's name, as the client gave it.
            user: Box<str>,
        } => {
            message: "Bad CONNECT", code: "login-unavailable", close: TryAgainLater,
            reconnect: After(5),
            page: "The authentication backend could not be asked, or was too busy. The words are \
                   those of a refusal, but nothing was refused",
            body: format!("Access refused for user '{}'\n", clip(user)),
            samples: [LoginUnavailable { user: "guest".into() }],
        }

        /// As [`Problem::LoginUnavailable`], at the question for the virtual host.
        EntryUnavailable {
            /// The `host` header.
            vhost: Box<str>,
        } => {
            message: "Bad CONNECT", code: "login-unavailable", close: TryAgainLater,
            reconnect: After(5),
            page: "The authentication backend could not be asked, or was too busy. The words are \
                   those of a refusal, but nothing was refused",
            body: format!("Virtual host '{}' access denied", clip(vhost)),
            samples: [EntryUnavailable { vhost: "//".into() }],
        }

        /// No CONNECT within the time allowed, or no answer to it. A slow network's fault, or a
        /// busy hook's, as often as the client's.
        LoginTimeout => {
            message: "login timeout", code: "login-timeout", close: TryAgainLater,
            reconnect: After(5),
            page: "The login was not complete within `limits.login_timeout`. Send CONNECT as soon \
                   as the connection is open",
            body: "The login was not complete within the time allowed. Send CONNECT as soon as \
                   the connection is open\n",
            samples: [LoginTimeout],
        }

        /// The user may not use this virtual host, or there is none of that name.
        VhostDenied {
            /// The `host` header.
            vhost: Box<str>,
        } => {
            message: "Bad CONNECT", code: "vhost-denied", close: Policy, reconnect: No,
            page: "The user may not use this virtual host, or there is none of this name. Correct \
                   the header `host`, which names a virtual host and no machine",
            body: format!("Virtual host '{}' access denied", clip(vhost)),
            samples: [VhostDenied { vhost: "//".into() }],
        }

        /// The same, where the header `host` names a machine, as many client libraries do by
        /// themselves.
        HostIsNoVhost {
            /// The `host` header.
            host: Box<str>,
            /// A virtual host that it could name.
            vhost: Box<str>,
        } => {
            message: "Bad CONNECT", code: "vhost-denied", close: Policy, reconnect: No,
            page: "The user may not use this virtual host, or there is none of this name. Correct \
                   the header `host`, which names a virtual host and no machine",
            body: format!(
                "Virtual host '{}' access denied\n\
                 The header \"host\" names a virtual host of RabbitMQ, not a machine. Send \
                 \"host:{}\", or leave it out\n",
                clip(host), clip(vhost)
            ),
            samples: [HostIsNoVhost { host: "push.example.com".into(), vhost: "/".into() }],
        }

        /// The user is logged in already, and may not be more often; in what way.
        AlreadyLoggedInElsewhere(how: Box<str>) => {
            message: "already logged in", code: "already-logged-in", close: TryAgainLater,
            reconnect: After(30),
            page: "The user has as many sessions as are allowed. Log out elsewhere",
            body: format!("{}. Log out there, or try again after a while\n", clip(how)),
            samples: [AlreadyLoggedInElsewhere("'alice' is logged in already".into())],
        }

        /// The server has as many connections as it takes.
        TooManyConnections => {
            message: "too many connections", code: "too-many-connections", close: TryAgainLater,
            reconnect: After(30),
            page: "This server has as many connections as it takes",
            body: "This server has as many connections as it takes. Reconnect after a while, or \
                   to another\n",
            samples: [TooManyConnections],
        }

        /// More clients log in than the server takes at a time; others are on their way in or out.
        TooManyLogins => {
            message: "too many connections", code: "too-many-logins", close: TryAgainLater,
            reconnect: After(1),
            page: "More clients are logging in than this server takes at a time \
                   (`listen.max_unauthenticated`). There may be room in a moment",
            body: "More clients are logging in than this server takes at a time. Reconnect in a \
                   moment\n",
            samples: [TooManyLogins],
        }

        /// One address has as many connections as one may have.
        TooManyFromAddress {
            /// How many one may have.
            limit: usize,
        } => {
            message: "too many connections", code: "address-connections", close: TryAgainLater,
            reconnect: After(30),
            page: "The client's address has as many connections as one may have \
                   (`limits.max_address_connections`)",
            body: format!(
                "Your address has {limit} connections to this server, as many as one may have. \
                 Close some, or reconnect after a while\n"
            ),
            samples: [TooManyFromAddress { limit: 10_000 }],
        }

        /// Connections come too fast, from one address or in all.
        ConnectingTooFast {
            /// After how many seconds one more may come.
            seconds: u16,
        } => {
            message: "too many connections", code: "connect-rate", close: TryAgainLater,
            reconnect: After(*seconds),
            page: "More connections a second than one address may open \
                   (`limits.max_address_connects_per_second`), or all together \
                   (`limits.max_connects_per_second`)",
            body: format!(
                "Connections come faster than this server takes them. Reconnect after {seconds} \
                 s\n"
            ),
            samples: [ConnectingTooFast { seconds: 1 }],
        }

        /// Too many logins of this user failed from this address. The hook is not asked.
        TooManyFailedLogins {
            /// The user's name, as the client gave it.
            user: Box<str>,
            /// After how many seconds it may try again.
            seconds: u16,
        } => {
            message: "Bad CONNECT", code: "failed-logins", close: TryAgainLater,
            reconnect: After(*seconds),
            page: "Too many logins of this user from this address failed \
                   (`limits.max_failed_logins`)",
            body: format!(
                "Too many logins of user '{}' failed from this address. Try again after {seconds} \
                 s\n",
                clip(user)
            ),
            samples: [TooManyFailedLogins { user: "guest".into(), seconds: 30 }],
        }

        /// The login waited too long for its turn at the hook, for there are too many others; or too
        /// many of its user are being tried from its address.
        LoginBusy => {
            message: "busy", code: "login-busy", close: TryAgainLater, reconnect: After(5),
            page: "Too many logins at a time: this one had to wait for longer than \
                   `auth.request_timeout` before the authentication backend could be asked. Or as \
                   many logins of this user from this address are being tried as may fail \
                   (`limits.max_failed_logins`)",
            body: "Too many clients log in at the moment. Reconnect after some seconds\n",
            samples: [LoginBusy],
        }

        /// The user has as many connections as one may have.
        TooManyOfUser {
            /// How many one may have.
            limit: u32,
        } => {
            message: "too many connections", code: "user-connections", close: TryAgainLater,
            reconnect: After(30),
            page: "The user has as many connections as one may have \
                   (`limits.max_user_connections`)",
            body: format!(
                "This user has {limit} connections, as many as one may have. Close some, or \
                 reconnect after a while\n"
            ),
            samples: [TooManyOfUser { limit: 10_000 }],
        }

        /// The server has no room for what the client wants: it is short of memory, or others
        /// send as much as it takes.
        Overloaded => {
            message: "server overloaded", code: "server-overloaded", close: TryAgainLater,
            reconnect: After(30),
            page: "This server is short of memory, or other clients' messages fill its room \
                   (`limits.max_total_publishing_bytes`)",
            body: "This server has no room for more at the moment. Reconnect after a while, or \
                   to another\n",
            samples: [Overloaded],
        }

        /// No version in common (STOMP 1.2, "Protocol Negotiation").
        VersionMismatch => {
            message: "Version mismatch", code: "version-mismatch", close: Protocol, reconnect: No,
            page: "Client and server have no version of STOMP in common. Offer 1.2 in \
                   `accept-version`",
            body: format!("Supported versions are {}\n", Version::SUPPORTED),
            samples: [VersionMismatch],
        }

        /// Another frame came before CONNECT, or before CONNECT was answered (STOMP 1.2,
        /// "Connecting").
        NotLoggedIn => {
            message: "Illegal command", code: "not-logged-in", close: Protocol, reconnect: No,
            page: "A frame came before CONNECT, or before CONNECTED. Wait for CONNECTED",
            body: "You must log in using CONNECT first",
            samples: [NotLoggedIn],
        }

        /// CONNECT came a second time.
        AlreadyLoggedIn => {
            message: "Illegal command", code: "second-connect", close: Protocol, reconnect: No,
            page: "CONNECT came a second time. Send it once",
            body: "You are logged in already. CONNECT (or STOMP) comes once, as the first \
                   frame\n",
            samples: [AlreadyLoggedIn],
        }
    }

    "Permissions" {
        /// The hook refused the use of a resource.
        PermissionDenied {
            /// The whole body of the ERROR frame: the resource, and the user.
            detail: Box<str>,
        } => {
            message: "access_refused", code: "permission-denied", close: Policy, reconnect: No,
            page: "The user may not do this. The body names the resource",
            body: detail.clone(),
            samples: [PermissionDenied { detail: "ACCESS_REFUSED - …".into() }],
        }

        /// The hook could not be asked for the use of a resource, or did not answer in its
        /// contract. The words are those of a refusal; the code says that to try again helps.
        PermissionUnavailable {
            /// The whole body of the ERROR frame: the resource, and the user.
            detail: Box<str>,
        } => {
            message: "access_refused", code: "permission-unavailable", close: TryAgainLater,
            reconnect: After(5),
            page: "The authentication backend could not be asked whether the user may do this",
            body: detail.clone(),
            samples: [PermissionUnavailable { detail: "ACCESS_REFUSED - …".into() }],
        }

        /// The hook, asked again, does not let a subscription read any more what it reads.
        PermissionWithdrawn {
            /// The whole body of the ERROR frame: the resource, and the user.
            detail: Box<str>,
        } => {
            message: "access_refused", code: "permission-withdrawn", close: Policy, reconnect: No,
            page: "The user may no longer read the key of a subscription (`auth.recheck`). With \
                   the header `subscription` only that subscription has ended, after a renewal, \
                   and the connection stays open",
            body: detail.clone(),
            samples: [PermissionWithdrawn { detail: "ACCESS_REFUSED - …".into() }],
        }

        /// The hook, asked again, does not let the user in any more: a token ran out, or somebody
        /// closed the account.
        Revoked {
            /// The whole body of the ERROR frame: what is refused, and the user.
            detail: Box<str>,
        } => {
            message: "access_refused", code: "login-revoked", close: Policy, reconnect: Renew,
            page: "The authentication backend no longer lets the user in (`auth.recheck`): the \
                   token has ended, or the account is closed",
            body: detail.clone(),
            samples: [Revoked { detail: "ACCESS_REFUSED - …".into() }],
        }

        /// The token of the login, or the time that the hook gave it, is over.
        TokenExpired => {
            message: "token expired", code: "token-expired", close: Policy, reconnect: Renew,
            page: "The time of the login is over, which CONNECTED told as `expires-in`. Get a new \
                   token, and come back with it at once. [Renew](jwt.md#renewal) in time to stay \
                   connected",
            body: "The time of your login is over. Get a new token, and reconnect with it. To stay \
                   connected, SEND it to /auth/renew in time\n",
            samples: [TokenExpired],
        }

        /// A renewal was refused; why. The session goes on until its own time is over, unless this
        /// was one denial too many.
        RenewalRefused(why: Box<str>) => {
            message: "renewal refused", code: "renewal-refused", close: Policy, reconnect: Renew,
            page: "The token that was sent to `/auth/renew` is not taken. The connection stays \
                   open until its own time is over (but see `limits.max_denials`): get another \
                   token, and send that",
            body: format!("The login was not renewed: {why}\n"),
            samples: [RenewalRefused("the token is another user's".into())],
        }

        /// Nobody could say whether a renewal is right.
        RenewalUnavailable => {
            message: "renewal unavailable", code: "renewal-unavailable", close: TryAgainLater,
            reconnect: After(5),
            page: "The token that was sent to `/auth/renew` could not be checked, or too many were \
                   refused. The connection stays open until its own time is over: send it again \
                   later",
            body: "The login was not renewed: it cannot be checked now. Try again after some \
                   seconds\n",
            samples: [RenewalUnavailable],
        }

        /// The hook, asked again, does not let the user in any more as who it was: it has another
        /// name or other tags now.
        LoginChanged => {
            message: "login changed", code: "login-changed", close: TryAgainLater,
            reconnect: After(1),
            page: "The user's name or tags have changed (`auth.recheck`). Log in again",
            body: "What the server knows of you has changed. Reconnect, and log in again\n",
            samples: [LoginChanged],
        }

        /// The broker does not let the gateway itself do this, or lets somebody else alone; the
        /// whole body, which is the broker's own words. Other than [`Problem::PermissionDenied`]
        /// it may come when half of an operation is done.
        BrokerRefused(text: Box<str>) => {
            message: "access_refused", code: "broker-refused", close: Policy, reconnect: No,
            page: "RabbitMQ does not let the gateway's own account do this. The operator must \
                   permit it",
            body: text.clone(),
            samples: [BrokerRefused("ACCESS_REFUSED - …".into())],
        }
    }

    "Sessions" {
        /// Somebody ended the session; why, in the words that the client is to see. Empty: no
        /// reason was given.
        Kicked(reason: Box<str>) => {
            message: "kicked", code: "kicked", close: Policy, reconnect: No,
            page: "An operator ended the session. The body has the reason",
            body: match &**reason {
                "" => "This session was ended by an operator\n".to_owned(),
                reason => format!("{}\n", clip(reason)),
            },
            samples: [Kicked("not paid".into()), Kicked("".into())],
        }

        /// Somebody ended a subscription, and its session goes on; why, in the words that the client
        /// is to see. Empty: no reason was given.
        Unsubscribed(reason: Box<str>) => {
            message: "unsubscribed", code: "subscription-ended", close: Policy, reconnect: No,
            page: "An operator ended the subscription that the header `subscription` names. The \
                   body has the reason. The connection stays open, and other subscriptions go on",
            body: match &**reason {
                "" => "This subscription was ended by an operator\n".to_owned(),
                reason => format!("{}\n", clip(reason)),
            },
            samples: [Unsubscribed("removed".into()), Unsubscribed("".into())],
        }

        /// The user, its address or its device is banned; why, as far as this client may be told.
        /// Empty: it may not be, or no reason was given.
        Banned(reason: Box<str>) => {
            message: "banned", code: "banned", close: Policy, reconnect: No,
            page: "An operator has banned the user, the address or the device. The body has the \
                   reason, if this client may be told",
            body: match &**reason {
                "" => "You are banned from this server\n".to_owned(),
                reason => format!("You are banned from this server: {}\n", clip(reason)),
            },
            samples: [Banned("spam".into()), Banned("".into())],
        }

        /// The user has logged in again, and only the newest session stays.
        Replaced => {
            message: "session replaced", code: "session-replaced", close: Policy, reconnect: No,
            page: "The user has logged in elsewhere, and only the newest session stays. Coming \
                   back would end the other one: ask the user first",
            body: "You have logged in elsewhere, and only the newest session stays. Do not \
                   reconnect by yourself: the other one would end\n",
            samples: [Replaced],
        }

        /// The server is shutting down.
        ShuttingDown => {
            message: "server shutting down", code: "shutting-down", close: Restart,
            reconnect: After(1),
            page: "This server goes away. Another one takes over",
            body: "This server goes away. Reconnect after a moment, to reach another\n",
            samples: [ShuttingDown],
        }

        /// Nothing was heard of the client for longer than its heart-beat promised.
        HeartbeatMissed => {
            message: "heart-beat missed", code: "heart-beat-missed", close: TryAgainLater,
            reconnect: After(1),
            page: "The client was silent for longer than its heart-beat promised",
            body: "Nothing was received for longer than the heart-beat that was agreed on. \
                   Reconnect\n",
            samples: [HeartbeatMissed],
        }

        /// Nothing was heard of the client, which promised no heart-beat, and it did not answer
        /// pings.
        PingsUnanswered => {
            message: "pings unanswered", code: "pings-unanswered", close: TryAgainLater,
            reconnect: After(1),
            page: "The client promised no heart-beat, was silent, and left two pings of the \
                   WebSocket unanswered",
            body: "Nothing was received for long, and pings were not answered. Reconnect\n",
            samples: [PingsUnanswered],
        }

        /// The client reads more slowly than messages arrive for it.
        SlowConsumer => {
            message: "slow consumer", code: "slow-consumer", close: TryAgainLater,
            reconnect: After(5),
            page: "Messages arrive faster than the client reads. Read faster, or subscribe to less",
            body: "Messages arrive faster than they are read. Reconnect, and read faster or \
                   subscribe to less\n",
            samples: [SlowConsumer],
        }

        /// The client sends faster than it may, where the configuration ends the session for it.
        TooFast {
            /// Of which it sends too many.
            what: &'static str,
            /// After how many seconds it might have gone on.
            seconds: u16,
        } => {
            message: "too fast", code: "too-fast", close: TryAgainLater, reconnect: After(*seconds),
            page: "The client sends faster than `limits.max_messages_per_second`, \
                   `max_bytes_per_second`, `max_subscribes_per_second` or \
                   `max_user_subscribes_per_second`, and `limits.too_fast` is `disconnect`. The \
                   body says of which there were too many",
            body: format!(
                "You send more {what} a second than one may. Reconnect after {seconds} s, and send \
                 more slowly\n"
            ),
            samples: [TooFast { what: "messages", seconds: 2 }],
        }

        /// A message for the client is not UTF-8, and its transport carries only text. It is
        /// skipped.
        NotUtf8 => {
            message: "message not text", code: "message-not-text", close: Internal,
            reconnect: After(1),
            page: "A message is not UTF-8, and SockJS carries only text. Stentor left it out. Use \
                   a WebSocket to receive it",
            body: "A message that was for you is not UTF-8, and this transport, SockJS, carries \
                   only text. It is left out. Connect by WebSocket to receive it\n",
            samples: [NotUtf8],
        }
    }

    "The broker" {
        /// The broker cannot be reached now; the whole body: what to know of it.
        BrokerUnavailable(text: Box<str>) => {
            message: "broker unavailable", code: "broker-unavailable", close: TryAgainLater,
            reconnect: After(5),
            page: "RabbitMQ is away, blocked, or did not answer in time. RabbitMQ may or may not \
                   have taken a message that was sent",
            body: text.clone(),
            samples: [BrokerUnavailable("why\n".into())],
        }

        /// The broker fails over a queue, as it is now; what it says of it.
        QueueFailed(text: Box<str>) => {
            message: "broker unavailable", code: "queue-unavailable", close: TryAgainLater,
            reconnect: After(30),
            page: "RabbitMQ fails over this queue, and closes the connection of whoever asks for \
                   it: a quorum queue without a majority, say. Its operator has to restore it",
            body: format!("{text}\n"),
            samples: [QueueFailed("the queue \"q\" cannot be used now: INTERNAL_ERROR".into())],
        }

        /// Not all that a client wants to catch up with is there any more.
        ResumeGap {
            /// Why.
            reason: Box<str>,
            /// The first position that is there.
            first: Option<u64>,
        } => {
            message: "resume gap", code: "resume-gap", close: TryAgainLater, reconnect: After(1),
            page: "Messages between the cursor of `resume-after` and what the journal has are \
                   missing. The header `reason` says why: `expired` (they were kept as long as \
                   `[journal]` says), `replaced` or `ahead` (the journal was deleted and made \
                   anew), `too-large` (the next message is larger than the server takes). Load \
                   the state anew, then subscribe without a cursor, or with \
                   `resume-gap:earliest` ([catching up](catching-up.md))",
            body: format!(
                "Messages after that cursor are missing ({reason}). Load what you show anew, then \
                 subscribe without \"resume-after\", or with \"resume-gap:earliest\" or \
                 \"resume-gap:next\"\n"
            ),
            samples: [
                ResumeGap { reason: "expired".into(), first: Some(1234) },
                ResumeGap { reason: "ahead".into(), first: None },
            ],
        }

        /// A client wants to catch up where nothing is kept.
        NoJournal => {
            message: "no journal", code: "no-journal", close: Policy, reconnect: No,
            page: "The server keeps no journal of this destination (`[journal] exchanges`), so \
                   nobody can catch up there",
            body: "The server keeps no journal of this destination, so there is nothing to catch up \
                   with. Leave out \"resume-after\", \"resume-gap\", \"since\" and \"last\"\n",
            samples: [NoJournal],
        }

        /// The same, where a client asks for messages of before without a subscription.
        NoHistory => {
            message: "no journal", code: "no-journal", close: Policy, reconnect: No,
            page: "The server keeps no journal of this destination (`[journal] exchanges`), so \
                   nobody can catch up there",
            body: "The server keeps no journal of this exchange, so there are no messages of before \
                   to give\n",
            samples: [NoHistory],
        }

        /// A cursor of another destination.
        ForeignCursor => {
            message: "foreign cursor", code: "foreign-cursor", close: Policy, reconnect: No,
            page: "The cursor of `resume-after` is of another exchange or virtual host. Keep a \
                   cursor for each exchange",
            body: "The cursor is of another exchange or virtual host. Keep a cursor for each \
                   exchange\n",
            samples: [ForeignCursor],
        }

        /// A numbered SEND whose predecessor is missing.
        SequenceGap {
            /// The next number.
            expected: u64,
            /// The frame's.
            number: u64,
        } => {
            message: "sequence gap", code: "sequence-gap", close: TryAgainLater,
            reconnect: After(1),
            page: "The `client-seq` of a SEND is not the next one. The body names the number that \
                   was expected; CONNECTED says the last one after a reconnect \
                   ([sending once](sending-once.md))",
            body: format!(
                "The header \"client-seq\" is {number}, but {expected} was expected. Reconnect, and \
                 go on with the number after \"last-client-seq\" of CONNECTED\n"
            ),
            samples: [SequenceGap { expected: 17, number: 19 }],
        }

        /// Another connection of the same device numbers its SENDs now.
        SequenceTaken => {
            message: "sequence taken over", code: "sequence-taken", close: Policy, reconnect: No,
            page: "Another connection of the same user with the same `device-id` has logged in with \
                   `client-seq`. Give each device, and each tab of a browser, an id of its own",
            body: "Another connection with this device-id has logged in, and only the newest may \
                   number its messages. Do not reconnect by yourself: it would take the sequence \
                   back\n",
            samples: [SequenceTaken],
        }

        /// The store has forgotten the sequence of a connection.
        SequenceLost => {
            message: "sequence lost", code: "sequence-lost", close: TryAgainLater,
            reconnect: After(1),
            page: "The server has forgotten the client's sequence: it was unused for \
                   `sequences.keep`, or the user has more than `sequences.max_devices` devices, or \
                   Redis lost it",
            body: "The server has forgotten this device's sequence. Reconnect with \"client-seq\" \
                   and the last number that you had a receipt for, and send the later ones again\n",
            samples: [SequenceLost],
        }

        /// The store of sequences cannot be reached; why.
        SequenceUnavailable(why: Box<str>) => {
            message: "sequences unavailable", code: "sequences-unavailable", close: TryAgainLater,
            reconnect: After(5),
            page: "The store of sequences (Redis) is away, or did not answer in time. SENDs without \
                   a RECEIPT are to be sent again after a reconnect, with the same `client-seq` or \
                   `idempotency-key`",
            body: format!(
                "The store of sequences cannot be reached ({}). Come back, and send again, with the \
                 same numbers or keys, what had no receipt\n",
                clip(why)
            ),
            samples: [SequenceUnavailable("Redis did not answer in 1s".into())],
        }

        /// A numbered SEND of a session whose CONNECT asked for no sequence.
        SequenceNotOpen => {
            message: "sequence not open", code: "sequence-not-open", close: Policy, reconnect: No,
            page: "A SEND has `client-seq`, but CONNECT had none. Send `client-seq` and `device-id` \
                   with CONNECT",
            body: "Numbered messages need \"client-seq\" (0, or the last number that you had a \
                   receipt for) and \"device-id\" in CONNECT\n",
            samples: [SequenceNotOpen],
        }

        /// The broker did not take a message; the whole body: why.
        NotPublished(text: Box<str>) => {
            message: "message not published", code: "not-published", close: TryAgainLater,
            reconnect: After(5),
            page: "RabbitMQ did not take the message: a queue is full, or nothing is bound to its \
                   key (`mandatory`)",
            body: text.clone(),
            samples: [NotPublished("why\n".into())],
        }

        /// Messages of a subscription were lost on the server's side; the whole body: which, and
        /// why.
        FeedInterrupted(text: Box<str>) => {
            message: "feed interrupted", code: "feed-interrupted", close: Internal,
            reconnect: After(1),
            page: "Messages of a subscription were lost. Come back, and load the state anew",
            body: text.clone(),
            samples: [FeedInterrupted("which\n".into())],
        }

        /// The broker ended a subscription, as it does when somebody deletes the queue; why.
        SubscriptionCancelled(why: Box<str>) => {
            message: "Server cancelled subscription", code: "subscription-cancelled",
            close: Internal, reconnect: After(5),
            page: "The queue of a subscription was deleted",
            body: format!(
                "The server has canceled a subscription.\n\
                 No more messages will be delivered: {why}\n"
            ),
            samples: [SubscriptionCancelled("the queue was deleted".into())],
        }

        /// Another client has the queue exclusively; the whole body, which is the broker's own
        /// words.
        ResourceLocked(text: Box<str>) => {
            message: "resource_locked", code: "resource-locked", close: TryAgainLater,
            reconnect: After(5),
            page: "Another client has the queue for itself",
            body: text.clone(),
            samples: [ResourceLocked("RESOURCE_LOCKED - queue".into())],
        }

        /// The broker has no such exchange or queue; the whole body, which is its own words
        /// (`NOT_FOUND - no queue …`).
        NotFound(text: Box<str>) => {
            message: "not_found", code: "not-found", close: Policy, reconnect: No,
            page: "The exchange or queue does not exist",
            body: text.clone(),
            samples: [NotFound("NOT_FOUND - …".into())],
        }

        /// The broker refused a declaration (a queue of other properties, say); the whole body,
        /// which is its own words.
        PreconditionFailed(text: Box<str>) => {
            message: "precondition_failed", code: "precondition-failed", close: Policy,
            reconnect: No,
            page: "The exchange or queue exists with other properties",
            body: text.clone(),
            samples: [PreconditionFailed("PRECONDITION_FAILED - …".into())],
        }
    }

    "Destinations and subscriptions" {
        /// `destination` is missing.
        MissingDestination(command: Command) => {
            message: "Missing destination", code: "missing-destination", close: Protocol,
            reconnect: No,
            page: "The frame needs a `destination`",
            body: format!("\"{command}\" must include a 'destination' header\n"),
            samples: [MissingDestination(Send)],
        }

        /// The destination is of a known kind, but cannot be used; the whole body: why. Made by
        /// [`Problem::invalid_destination`], [`Problem::blank_destination`] or
        /// [`Problem::destination_not_for`], which know the plug-in's words.
        InvalidDestination(text: Box<str>) => {
            message: "Invalid destination", code: "invalid-destination", close: Policy,
            reconnect: No,
            page: "The destination cannot be read, or is not for this command",
            body: text.clone(),
            samples: [Problem::invalid_destination("queue", "/a/b")],
        }

        /// The destination is of no known kind; the destination.
        UnknownDestination(destination: Box<str>) => {
            message: "Unknown destination", code: "unknown-destination", close: Policy,
            reconnect: No,
            page: "The destination begins with no known word. The body lists the known words",
            body: format!(
                "'{}' is not a valid destination.\n\
                 Valid destination types are: /temp-queue, /exchange, /topic, /queue, \
                 /amq/queue, /reply-queue/.\n",
                clip(destination)
            ),
            samples: [UnknownDestination("/foo/bar".into())],
        }

        /// UNSUBSCRIBE names no subscription, neither by `id` nor by `destination`.
        MissingIdOrDestination => {
            message: "Missing destination or id", code: "missing-id", close: Protocol,
            reconnect: No,
            page: "UNSUBSCRIBE needs an `id`",
            body: "UNSUBSCRIBE must include a 'destination' or 'id' header",
            samples: [MissingIdOrDestination],
        }

        /// `durable:true` needs an `id`, in every version: the queue's name is made of it. The
        /// capital H in the words is the plug-in's own, other than in `MissingHeader`.
        DurableWithoutId(_command: Command) => {
            message: "Missing Header", code: "durable-without-id", close: Protocol, reconnect: No,
            page: "A durable subscription needs an `id`",
            body: "Header 'id' is required for durable subscriptions",
            samples: [DurableWithoutId(Subscribe)],
        }

        /// An `id` that starts with `/temp-queue/`: those name the subscriptions to replies.
        ReservedId(command: Command) => {
            message: "Invalid id", code: "reserved-id", close: Protocol, reconnect: No,
            page: "An `id` may not begin with `/temp-queue/`",
            body: format!("{command} 'id' may not start with /temp-queue/\n"),
            samples: [ReservedId(Subscribe)],
        }

        /// A SUBSCRIBE whose id is in use: `T_` and the `id`, or `Q_` and the destination where a
        /// 1.0 client gave no id (the plug-in's names).
        DuplicateSubscription(name: Box<str>) => {
            message: "Duplicated subscription identifier", code: "duplicate-subscription",
            close: Protocol, reconnect: No,
            page: "A subscription with this `id` is open already",
            body: format!("A subscription identified by '{}' already exists.", clip(name)),
            samples: [DuplicateSubscription("T_1".into())],
        }

        /// An UNSUBSCRIBE of what is not subscribed: `id='…'` or `destination='…'`.
        UnknownSubscription(which: Box<str>) => {
            message: "No subscription found", code: "unknown-subscription", close: Protocol,
            reconnect: No,
            page: "UNSUBSCRIBE names a subscription that is not open",
            body: format!(
                "UNSUBSCRIBE must refer to an existing subscription.\n\
                 Subscription to {} not found.\n",
                quoted(which)
            ),
            samples: [UnknownSubscription("id='9'".into())],
        }

        /// [`crate::Config::max_subscriptions`] are open.
        TooManySubscriptions {
            /// How many may be open.
            limit: usize,
        } => {
            message: "Too many subscriptions", code: "too-many-subscriptions", close: Policy,
            reconnect: No,
            page: "More than `limits.max_subscriptions`",
            body: format!(
                "At most {limit} subscriptions may be open at once. UNSUBSCRIBE from some first\n"
            ),
            samples: [TooManySubscriptions { limit: 100 }],
        }

        /// The connections of one user have as many subscriptions together as they may.
        TooManySubscriptionsOfUser {
            /// How many they may have.
            limit: u32,
        } => {
            message: "Too many subscriptions", code: "user-subscriptions", close: TryAgainLater,
            reconnect: After(30),
            page: "All connections of the user together have more than \
                   `limits.max_user_subscriptions`",
            body: format!(
                "All connections of this user may have {limit} subscriptions together. \
                 UNSUBSCRIBE from some first, or reconnect after a while\n"
            ),
            samples: [TooManySubscriptionsOfUser { limit: 100_000 }],
        }

        /// The subscriptions of one user have as many queues of their own as they may.
        TooManyQueuesOfUser {
            /// How many they may have.
            limit: u32,
        } => {
            message: "Too many subscriptions", code: "user-queues", close: TryAgainLater,
            reconnect: After(30),
            page: "The user's subscriptions with queues of their own are more than \
                   `limits.max_user_queues`",
            body: format!(
                "All connections of this user may have {limit} subscriptions with queues of their \
                 own. UNSUBSCRIBE from some first, or reconnect after a while\n"
            ),
            samples: [TooManyQueuesOfUser { limit: 10_000 }],
        }

        /// The room that the subscription is to has as many members as it may.
        RoomFull {
            /// How many it may have.
            limit: u64,
        } => {
            message: "room is full", code: "room-full", close: TryAgainLater, reconnect: After(30),
            page: "The key is a room, and has as many members as one may have \
                   (`presence.max_members`). There is a place when a member leaves",
            body: format!(
                "The room has {limit} members, as many as one may have. Try again when a member \
                 has left, or subscribe to another\n"
            ),
            samples: [RoomFull { limit: 500 }],
        }

        /// The node has as many rooms as it may.
        TooManyRooms {
            /// How many it may have.
            limit: usize,
        } => {
            message: "Too many subscriptions", code: "node-rooms", close: TryAgainLater,
            reconnect: After(5),
            page: "This server has as many rooms as it may (`presence.max_rooms`), and the \
                   subscription would begin another. Another server may take it",
            body: format!(
                "This server has {limit} rooms, as many as it may. Reconnect in a moment; another \
                 server may take it\n"
            ),
            samples: [TooManyRooms { limit: 1_000_000 }],
        }

        /// Presence could not say who is in a room.
        RoomsUnavailable(why: Box<str>) => {
            message: "rooms unavailable", code: "rooms-unavailable", close: TryAgainLater,
            reconnect: After(5),
            page: "The store of presence did not say who is in the room. Ask again in a moment",
            body: format!("Nobody can say who is in the room: {}\n", clip(why)),
            samples: [RoomsUnavailable("unreachable: Redis did not answer in 1s".into())],
        }
    }

    "Acknowledgements and transactions" {
        /// An ACK or NACK whose message id is none of this server's making.
        InvalidMessageId {
            /// ACK or NACK.
            command: Command,
            /// The header that carries the id in the version spoken.
            header: &'static str,
        } => {
            message: "Invalid header", code: "invalid-message-id", close: Protocol, reconnect: No,
            page: "ACK or NACK does not carry an id that this server gave",
            body: format!("\"{command}\" must include a valid \"{header}\" header\n"),
            samples: [InvalidMessageId { command: Ack, header: "id" }],
        }

        /// An ACK or NACK of a message whose subscription is long over, or was another session's;
        /// the message id.
        NoSubscription(id: Box<str>) => {
            message: "Subscription not found", code: "no-subscription", close: Protocol,
            reconnect: No,
            page: "ACK or NACK of a message of another session, or of a subscription that has \
                   ended and of which nothing awaits acknowledgement any more",
            body: format!("Message with id {} has no subscription", quoted(id)),
            samples: [NoSubscription("T_1@@session-x@@5".into())],
        }

        /// An ACK or NACK of a message that is settled already, that was never sent, or that came
        /// by an `ack:auto` subscription; the last part of the message id.
        UnknownDelivery(sequence: u64) => {
            message: "precondition_failed", code: "unknown-delivery", close: Protocol,
            reconnect: No,
            page: "ACK or NACK of a message that is settled already, or that needs none",
            body: format!("PRECONDITION_FAILED - unknown delivery tag {sequence}"),
            samples: [UnknownDelivery(7)],
        }

        /// A COMMIT acknowledges a message that the broker took back before, or that was given up.
        TakenBack => {
            message: "message taken back", code: "taken-back", close: TryAgainLater,
            reconnect: After(1),
            page: "COMMIT acknowledges a message that is not the client's any more: RabbitMQ has \
                   taken it back, for the server's connection to it was lost meanwhile; its \
                   subscription was taken from the client; or it was given up (`redeliver-then`). \
                   No part of the transaction was done. If the message comes again, it has \
                   `redelivered:true`: begin a new transaction then",
            body: "The transaction acknowledges a message that is not this client's any more: the \
                   broker has taken it back, or it was given up. No part of the transaction was \
                   done. Reconnect, and begin a new one if the message comes again\n",
            samples: [TakenBack],
        }

        /// `transaction` is missing.
        MissingTransaction(command: Command) => {
            message: "Missing transaction", code: "missing-transaction", close: Protocol,
            reconnect: No,
            page: "The frame needs a `transaction`",
            body: format!("\"{command}\" must include a 'transaction' header\n"),
            samples: [MissingTransaction(Begin)],
        }

        /// A transaction of that name is open already (STOMP 1.2, "BEGIN").
        DuplicateTransaction(id: Box<str>) => {
            message: "Duplicated transaction identifier", code: "duplicate-transaction",
            close: Protocol, reconnect: No,
            page: "A transaction of this name is open already",
            body: format!(
                "The transaction {} is open already. COMMIT or ABORT it first, or choose another \
                 name\n",
                quoted(id)
            ),
            samples: [DuplicateTransaction("t".into())],
        }

        /// No transaction of that name is open.
        UnknownTransaction(id: Box<str>) => {
            message: "Bad transaction", code: "unknown-transaction", close: Protocol,
            reconnect: No,
            page: "No transaction of this name is open",
            body: format!("Invalid transaction identifier: {}\n", quoted(id)),
            samples: [UnknownTransaction("t".into())],
        }

        /// [`crate::Config::max_transactions`] are open.
        TooManyTransactions {
            /// How many may be open.
            limit: usize,
        } => {
            message: "Too many transactions", code: "too-many-transactions", close: Policy,
            reconnect: No,
            page: "More than `limits.max_transactions`",
            body: format!(
                "At most {limit} transactions may be open at once. COMMIT or ABORT some first\n"
            ),
            samples: [TooManyTransactions { limit: 16 }],
        }

        /// A transaction holds [`crate::Config::max_transaction_frames`].
        TransactionTooLong {
            /// How many frames one may hold.
            limit: usize,
        } => {
            message: "Transaction too large", code: "transaction-too-long", close: Policy,
            reconnect: No,
            page: "More than `limits.max_transaction_frames`. COMMIT more often",
            body: format!("A transaction may hold at most {limit} frames. COMMIT more often\n"),
            samples: [TransactionTooLong { limit: 1024 }],
        }

        /// Open transactions hold [`crate::Config::max_transaction_bytes`].
        TransactionTooBig {
            /// How many bytes all of a session's may hold.
            limit: usize,
        } => {
            message: "Transaction too large", code: "transaction-too-big", close: Policy,
            reconnect: No,
            page: "More than `limits.max_transaction_bytes`. COMMIT more often",
            body: format!(
                "All open transactions together may hold at most {limit} bytes. COMMIT more \
                 often\n"
            ),
            samples: [TransactionTooBig { limit: 4096 }],
        }
    }

    "Frames" {
        /// The bytes are not STOMP, or exceed a limit. Of an unknown command, too, the decoder's
        /// words are the plug-in's.
        Malformed(kind: DecodeErrorKind) => {
            if matches!(kind, DecodeErrorKind::UnknownCommand(_)) =>
            message: "Bad command", code: "unknown-command", close: Protocol, reconnect: No,
            page: "STOMP has no such command",
            if !kind.is_too_big() =>
            message: "Malformed frame", code: "malformed-frame", close: Protocol, reconnect: No,
            page: "The bytes are not STOMP. The body says where",
            message: "Frame too large", code: "frame-too-large", close: TooBig, reconnect: No,
            page: "The frame exceeds a limit. The body names it",
            body: format!("{kind}\n"),
            samples: [
                Malformed(DecodeErrorKind::UnknownCommand("WRONG".into())),
                Malformed(DecodeErrorKind::EmptyHeaderName),
                Malformed(DecodeErrorKind::FrameTooBig { limit: 9, announced: None }),
            ],
        }

        /// A message's headers are longer together than the broker's protocol can carry, even if each of
        /// them is within the limits of STOMP.
        HeadersTooBig {
            /// How many bytes they take.
            length: usize,
            /// How many they may take.
            limit: usize,
        } => {
            message: "Frame too large", code: "frame-too-large", close: TooBig, reconnect: No,
            page: "The frame exceeds a limit. The body names it",
            body: format!(
                "the headers of the message take {length} bytes together; at most {limit} are \
                 allowed\n"
            ),
            samples: [HeadersTooBig { length: 10, limit: 9 }],
        }

        /// A frame that only servers send.
        ServerCommand(command: Command) => {
            message: "Bad command", code: "server-command", close: Protocol, reconnect: No,
            page: "Only servers send this command",
            body: format!("Could not interpret command \"{command}\"\n"),
            samples: [ServerCommand(Message)],
        }

        /// A header is missing that the frame must carry.
        MissingHeader {
            /// The frame's command.
            command: Command,
            /// The header that it lacks.
            header: &'static str,
        } => {
            message: "Missing header", code: "missing-header", close: Protocol, reconnect: No,
            page: "The frame needs the header that the body names",
            body: format!("\"{command}\" must include the \"{header}\" header\n"),
            samples: [MissingHeader { command: Ack, header: "id" }],
        }

        /// A header's value cannot be understood; what would be.
        InvalidHeader {
            /// The frame's command.
            command: Command,
            /// The header in question.
            header: &'static str,
            /// What may stand there, in words that can follow "expected".
            expected: &'static str,
        } => {
            message: "Invalid header", code: "invalid-header", close: Protocol, reconnect: No,
            page: "A header cannot be read. The body says what is expected",
            body: format!(
                "\"{command}\" has an invalid \"{header}\" header: expected {expected}\n"
            ),
            samples: [InvalidHeader {
                command: Connect,
                header: "heart-beat",
                expected: "two numbers",
            }],
        }

        /// A SEND to `/auth/renew` that something else depends on; by which header.
        RenewalNotAlone {
            /// The header in question.
            header: &'static str,
        } => {
            message: "Invalid header", code: "renewal-not-alone", close: Protocol, reconnect: No,
            page: "A SEND to `/auth/renew` is no message: it may not have this header",
            body: format!("'{header}' is not allowed on SEND to /auth/renew. Leave it out\n"),
            samples: [RenewalNotAlone { header: "transaction" }],
        }

        /// A header that the frame must not carry (`message-id` on SEND: the server gives it).
        ForbiddenHeader {
            /// The frame's command.
            command: Command,
            /// The header in question.
            header: &'static str,
        } => {
            message: "Invalid header", code: "forbidden-header", close: Protocol, reconnect: No,
            page: "The frame may not carry this header: the server sets it",
            body: format!("'{header}' is not allowed on '{command}'.\n"),
            samples: [ForbiddenHeader { command: Send, header: "message-id" }],
        }
    }
}
