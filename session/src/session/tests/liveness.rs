//! Clients that vanish, and clients that only seem to: pings beside heart-beats.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Both directions of heart-beats may be a second apart, as by the gateway's default.
fn config() -> Config {
    Config {
        heartbeat_send: SECOND,
        heartbeat_receive: SECOND,
        ..super::config()
    }
}

/// On a transport with pings.
fn on_websocket(config: Config, heartbeat: &str) -> Peer {
    let mut peer = Peer::new(config);
    peer.session.allow_pings();
    peer.send(&format!(
        "CONNECT\naccept-version:1.2\nheart-beat:{heartbeat}"
    ));
    peer.log_in();
    peer
}

fn on_tcp(heartbeat: &str) -> Peer {
    let mut peer = Peer::new(config());
    peer.send(&format!(
        "CONNECT\naccept-version:1.2\nheart-beat:{heartbeat}"
    ));
    peer.log_in();
    peer
}

impl Peer {
    /// Lets the time pass, in steps of `step`, with the timer kept as the surroundings keep it. What
    /// the client does at each step is said by `client`.
    fn live(&mut self, duration: Duration, step: Duration, mut client: impl FnMut(&mut Self)) {
        let end = self.now + duration;
        while self.now < end && self.closed.is_none() {
            let next_step = self.now + step;
            while let Some(due) = self.session.poll_timeout()
                && due <= next_step
                && self.closed.is_none()
            {
                assert!(due >= self.now, "it asks to be called again and again");
                self.now = due;
                self.timeout();
            }
            self.now = next_step;
            client(self);
        }
    }

    /// How many pings were sent since the last look.
    fn pings(&mut self) -> usize {
        let before = self.asked.len();
        self.asked.retain(|action| !matches!(action, Action::Ping));
        before - self.asked.len()
    }

    /// Answers pings, if there are any.
    fn answer(&mut self) {
        if self.pings() > 0 {
            self.session.handle_pong(self.now);
        }
    }

    #[track_caller]
    fn expect_ping(&mut self) {
        assert_eq!(self.pings(), 1, "a ping");
    }
}

#[test]
fn a_second_is_granted_and_nobody_is_given_up_before_ten() {
    let mut peer = Peer::new(config());
    peer.send("CONNECT\naccept-version:1.2\nheart-beat:1000,1000");
    peer.session.handle_authenticated(peer.now, Ok(None));
    peer.poll();
    let connected = peer.written().remove(0);
    assert_eq!(header(&connected, "heart-beat"), Some("1000,1000"));

    let mut peer = on_tcp("1000,0");
    peer.wait(10 * SECOND - SECOND / 1000);
    peer.timeout();
    peer.assert_silent();
    peer.wait(SECOND / 1000);
    peer.timeout();
    peer.assert_error("heart-beat missed");
}

#[test]
fn a_client_with_longer_intervals_has_two_of_them() {
    let peer = on_tcp("20000,0");
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + 40 * SECOND));
}

#[test]
fn a_silent_connection_is_pinged_and_what_vanished_is_closed_after_two() {
    let mut peer = on_websocket(config(), "0,0");
    assert_eq!(peer.session.poll_timeout(), Some(peer.now + 25 * SECOND));
    peer.wait(25 * SECOND);
    peer.timeout();
    peer.expect_ping();
    peer.session.handle_pong(peer.now);

    let vanished = peer.now;
    for _ in 0..2 {
        peer.wait(25 * SECOND);
        peer.timeout();
        peer.expect_ping();
        peer.assert_silent();
    }
    assert_eq!(peer.session.poll_timeout(), Some(vanished + 75 * SECOND));
    peer.wait(25 * SECOND);
    peer.timeout();
    peer.assert_error("pings unanswered");
    assert_eq!(peer.closed, Some(CloseCode::TryAgainLater));
}

/// Timers keep to strokes that all sessions share, so they fire a little early.
#[test]
fn a_timer_that_fires_early_does_not_put_off_the_end() {
    let mut peer = on_websocket(config(), "0,0");
    peer.wait(25 * SECOND);
    peer.timeout();
    peer.answer();
    let vanished = peer.now;
    while peer.closed.is_none() {
        let due = peer.session.poll_timeout().unwrap();
        for time in [due - SECOND / 20, due] {
            peer.now = time;
            peer.timeout();
        }
    }
    assert!(peer.now <= vanished + 75 * SECOND);
    assert_eq!(peer.pings(), 2);
    peer.assert_error("pings unanswered");
}

/// Programs that do not know pings live all the same; and proxies stay open for them.
#[test]
fn a_client_that_never_answered_a_ping_is_never_given_up_for_it() {
    let mut peer = on_websocket(config(), "0,0");
    let mut pings = 0;
    peer.live(24 * 3600 * SECOND, SECOND, |peer| pings += peer.pings());
    assert_eq!(peer.closed, None);
    assert_eq!(pings, 24 * 3600 / 25);
    peer.assert_silent();
}

#[test]
fn whatever_is_heard_is_a_sign_of_life() {
    let mut peer = on_websocket(config(), "0,0");
    peer.wait(25 * SECOND);
    peer.timeout();
    peer.answer();
    for _ in 0..2 {
        peer.wait(25 * SECOND);
        peer.timeout();
        peer.expect_ping();
    }
    peer.wait(24 * SECOND);
    peer.session.handle_activity(peer.now);
    peer.wait(24 * SECOND);
    peer.timeout();
    peer.expect_ping();
    peer.wait(30 * SECOND);
    peer.timeout();
    assert_eq!(peer.closed, None);
}

/// Browsers let a hidden page's timers run once a minute, and answer pings by themselves.
#[test]
fn a_hidden_page_is_not_closed_while_it_answers_pings() {
    for heartbeat in ["1000,1000", "10000,10000", "20000,20000", "60000,60000"] {
        let mut peer = on_websocket(config(), heartbeat);
        let mut last_beat = peer.now;
        peer.live(3600 * SECOND, SECOND / 10, |peer| {
            peer.answer();
            if peer.now >= last_beat + 60 * SECOND {
                last_beat = peer.now;
                peer.session.handle_activity(peer.now);
            }
        });
        assert_eq!(peer.closed, None, "{heartbeat}");
    }
}

#[test]
fn a_page_that_stops_answering_is_late_as_ever() {
    let mut peer = on_websocket(config(), "10000,0");
    peer.wait(15 * SECOND);
    peer.timeout();
    peer.expect_ping();
    peer.session.handle_pong(peer.now);
    let vanished = peer.now;
    peer.live(100 * SECOND, SECOND, |_| {});
    assert_eq!(peer.pings(), 1);
    assert_eq!(peer.now, vanished + 20 * SECOND);
    peer.assert_error("heart-beat missed");
}

#[test]
fn a_client_that_beats_in_time_is_never_pinged() {
    for (heartbeat, interval) in [("10000,10000", 10), ("1000,1000", 1), ("20000,20000", 20)] {
        let mut peer = on_websocket(config(), heartbeat);
        peer.live(3600 * SECOND, interval * SECOND, |peer| {
            peer.session.handle_activity(peer.now);
        });
        assert_eq!((peer.pings(), peer.closed), (0, None), "{heartbeat}");
    }
}

/// It hears the server, and promised nothing itself.
#[test]
fn a_client_that_only_listens_is_pinged_and_pings_are_no_heartbeats() {
    let mut peer = on_websocket(config(), "0,10000");
    peer.live(60 * SECOND, SECOND, Peer::answer);
    assert_eq!(peer.written(), ["\n"; 6]);
    // However much is written to it.
    let mut peer = on_websocket(config(), "0,0");
    let subscription = peer.subscribe("SUBSCRIBE\nid:s\ndestination:/topic/a");
    let (mut pings, mut tag) = (0, 0);
    peer.live(100 * SECOND, SECOND, |peer| {
        tag += 1;
        peer.deliver(subscription, tag);
        let now = peer.pings();
        pings += now;
        if now > 0 && pings < 3 {
            peer.session.handle_pong(peer.now);
        }
    });
    assert_eq!((pings, peer.closed), (4, None));
    peer.live(100 * SECOND, SECOND, |_| {});
    peer.assert_error("pings unanswered");
}

/// A proxy cuts a connection on which the server is silent, whatever the client sends.
#[test]
fn something_is_written_at_least_every_25_seconds() {
    for heartbeat in ["0,0", "10000,0", "10000,60000", "60000,60000"] {
        let mut peer = on_websocket(config(), heartbeat);
        let (mut last, mut longest) = (peer.now, Duration::ZERO);
        peer.live(1000 * SECOND, SECOND, |peer| {
            peer.session.handle_activity(peer.now);
            if peer.pings() > 0 || !peer.written().is_empty() {
                longest = longest.max(peer.now - last);
                last = peer.now;
            }
        });
        assert!(longest <= 26 * SECOND, "{heartbeat}: {longest:?}");
        assert!(peer.now - last <= 26 * SECOND, "{heartbeat}");
    }
}

#[test]
fn a_client_that_is_not_read_is_neither_pinged_for_its_silence_nor_given_up() {
    let mut peer = on_websocket(config(), "0,1000");
    for _ in 0..config().max_pending {
        peer.send("SEND\ndestination:/topic/a");
        peer.performing();
    }
    assert!(!peer.session.wants_frame());
    peer.live(300 * SECOND, SECOND, |_| {});
    assert_eq!((peer.pings(), peer.closed), (0, None));
}

#[test]
fn pings_can_be_off_and_need_a_transport_that_has_them() {
    let off = Config {
        ping_interval: Duration::ZERO,
        ..config()
    };
    for mut peer in [on_websocket(off, "0,0"), on_tcp("0,0")] {
        assert_eq!(peer.session.poll_timeout(), None);
        peer.wait(100_000 * SECOND);
        peer.timeout();
        peer.assert_silent();
    }
}

/// A machine that was suspended, say: its clients have their time to answer all the same.
#[test]
fn a_server_that_was_away_asks_before_it_judges() {
    let mut peer = on_websocket(config(), "0,0");
    peer.wait(25 * SECOND);
    peer.timeout();
    peer.answer();
    for _ in 0..2 {
        peer.wait(3600 * SECOND);
        peer.timeout();
        peer.expect_ping();
        assert_eq!(peer.session.poll_timeout(), Some(peer.now + 25 * SECOND));
    }
    peer.session.handle_pong(peer.now);
    peer.timeout();
    peer.assert_silent();
}

/// So that it shares a wake-up with others.
#[test]
fn a_ping_may_come_an_eighth_early() {
    let mut peer = on_websocket(config(), "0,0");
    peer.wait(SECOND * 25 * 7 / 8 - SECOND / 1000);
    peer.timeout();
    peer.assert_silent();
    peer.wait(SECOND / 1000);
    peer.timeout();
    peer.expect_ping();
    peer.timeout();
    peer.assert_silent();
}

proptest! {
    /// Whatever is agreed on and configured: what is due is done by one call, and the next is later.
    #[test]
    fn nothing_is_due_twice(
        send in 0_u32..100_000, receive in 0_u32..100_000,
        ping in 0_u64..100_000, patience in 0_u64..100_000, tolerance in 0_u32..4,
        waits in prop::collection::vec((0_u64..60_000, 0_u8..4), 1..50),
    ) {
        let config = Config {
            ping_interval: Duration::from_millis(ping),
            heartbeat_patience: Duration::from_millis(patience),
            heartbeat_tolerance: tolerance,
            ..config()
        };
        let mut peer = on_websocket(config, &format!("{send},{receive}"));
        for (wait, what) in waits {
            peer.wait(Duration::from_millis(wait));
            match what {
                0 => peer.session.handle_activity(peer.now),
                1 => peer.answer(),
                _ => {}
            }
            peer.timeout();
            prop_assert!(peer.pings() <= 1);
            prop_assert!(peer.session.poll_timeout().is_none_or(|due| due > peer.now));
        }
    }
}
