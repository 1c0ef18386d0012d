use super::*;

const AT_ONCE: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_secs(60 * 60);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn user(name: &str) -> Subject {
    Subject::user(name).unwrap()
}

fn network(text: &str) -> Subject {
    Subject::address(text).unwrap()
}

fn device(id: &str) -> Subject {
    Subject::device(id).unwrap()
}

fn ban(until: Option<SystemTime>) -> Option<Ban> {
    Some(Ban {
        until,
        reason: "spam".into(),
    })
}

fn set(bans: &Bans, now: SystemTime, subject: Subject, ban: Option<Ban>) -> Change {
    let change = bans.change(now, subject, ban);
    assert_eq!(
        bans.apply(now, AT_ONCE, &change),
        Applied::Done(change.clone())
    );
    change
}

fn is_banned(bans: &Bans, now: SystemTime, user: &str, address: &str, device: &str) -> bool {
    let suspect = Suspect {
        user: Some(user),
        address: Some(address.parse().unwrap()),
        device: Some(device),
    };
    bans.find(now, &suspect).is_some()
}

#[test]
fn users_networks_and_devices_are_kept_out_and_nobody_else() {
    let (bans, now) = (Bans::default(), start());
    let is = |user, address, device| is_banned(&bans, now, user, address, device);
    assert!(!is("alice", "192.0.2.7", "phone"));
    set(&bans, now, user("alice"), ban(None));
    set(&bans, now, network("192.0.2.0/24"), ban(None));
    set(&bans, now, network("198.51.100.9"), ban(None));
    set(&bans, now, network("2001:db8:7::/48"), ban(None));
    set(&bans, now, device("phone"), ban(None));
    for (name, address, id, expected) in [
        ("alice", "203.0.113.1", "x", true),
        ("Alice", "203.0.113.1", "x", false),
        ("bob", "192.0.2.0", "x", true),
        ("bob", "192.0.2.255", "x", true),
        ("bob", "::ffff:192.0.2.1", "x", true),
        ("bob", "192.0.3.0", "x", false),
        ("bob", "198.51.100.9", "x", true),
        ("bob", "198.51.100.8", "x", false),
        ("bob", "2001:db8:7:ffff::1", "x", true),
        ("bob", "2001:db8:8::1", "x", false),
        ("bob", "203.0.113.1", "phone", true),
        ("phone", "203.0.113.1", "alice", false),
    ] {
        assert_eq!(is(name, address, id), expected, "{name} {address} {id}");
    }
    assert_eq!(bans.len(now), 5);
    set(&bans, now, network("192.0.2.0/24"), None);
    assert!(!is("bob", "192.0.2.1", "x"));
    assert!(is("bob", "198.51.100.9", "x"));
}

#[test]
fn a_ban_ends_at_its_time() {
    let (bans, now) = (Bans::default(), start());
    set(&bans, now, user("alice"), ban(Some(now + HOUR)));
    let at = |after| is_banned(&bans, now + after, "alice", "192.0.2.1", "x");
    assert!(at(Duration::ZERO) && at(HOUR - Duration::from_secs(1)));
    assert!(!at(HOUR));
    assert_eq!((bans.len(now), bans.len(now + HOUR)), (1, 0));
    assert_eq!(bans.list(now + HOUR, None, 10), BanPage::default());
}

/// In whatever order, and however often.
#[test]
fn nodes_that_heard_the_same_agree() {
    let now = start();
    let one = Bans::default();
    let changes = [
        set(&one, now, user("alice"), ban(None)),
        set(&one, now, user("alice"), None),
        set(&one, now, user("alice"), ban(Some(now + HOUR))),
        set(&one, now, network("192.0.2.0/24"), ban(None)),
        set(&one, now, network("192.0.2.0/24"), None),
    ];
    for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3]] {
        let other = Bans::default();
        for at in order.into_iter().chain(order) {
            other.hear(now, &changes[at]);
        }
        assert_eq!(other.changes(now), one.changes(now), "{order:?}");
        assert_eq!(other.hear(now, &changes[0]), Applied::Known);
    }
}

/// Its clock may be behind.
#[test]
fn a_node_s_word_is_newer_than_all_it_knows() {
    let (bans, now) = (Bans::default(), start());
    set(&bans, now + HOUR, user("alice"), ban(None));
    set(&bans, now, user("alice"), None);
    assert!(!is_banned(&bans, now, "alice", "192.0.2.1", "x"));
    // A backend's has no stamp.
    let change = Change {
        subject: user("alice"),
        stamp: None,
        ban: ban(None),
    };
    assert!(matches!(
        bans.apply(now, AT_ONCE, &change),
        Applied::Done(_)
    ));
    assert!(is_banned(&bans, now, "alice", "192.0.2.1", "x"));
}

/// A backend's clock, or its unit, may be wrong.
#[test]
fn a_ban_with_a_stamp_far_ahead_can_be_lifted() {
    let (bans, now) = (Bans::default(), start());
    let read = |stamp: u64| {
        let text = format!(r#"{{"user":"alice","stamp":{stamp}}}"#);
        Change::from_json(text.as_bytes())
    };
    let mut stamps = (0..64).map(|bits| u64::MAX >> bits);
    let change = stamps.find_map(|stamp| read(stamp).ok()).unwrap();
    assert!(matches!(
        bans.apply(now, AT_ONCE, &change),
        Applied::Done(_)
    ));
    let lifted = set(&bans, now, user("alice"), None);
    assert!(!is_banned(&bans, now, "alice", "192.0.2.1", "x"));
    // Others read it, too.
    assert_eq!(Change::from_json(lifted.to_json().as_bytes()), Ok(lifted));
}

/// A node was cut off, and its queue kept what came: a backend's ban, which says no time, and that
/// it was lifted, by a node that knows one.
#[test]
fn what_comes_after_a_ban_without_a_time_counts() {
    let start = start();
    let at = |seconds| start + Duration::from_secs(seconds);
    let change = |seconds: Option<u64>, ban| Change {
        subject: user("alice"),
        stamp: seconds.map(|seconds| millis(at(seconds))),
        ban,
    };
    let bans = Bans::default();
    let is = |now| is_banned(&bans, at(now), "alice", "192.0.2.1", "x");
    let apply = |change: &Change| match bans.apply(at(30), AT_ONCE, change) {
        Applied::Done(done) => done.stamp.unwrap() - millis(start),
        other => panic!("{other:?}"),
    };
    // What Redis had meanwhile makes no difference.
    bans.hear(at(21), &change(Some(20), None));
    assert_eq!(apply(&change(None, ban(None))), 30_000);
    assert!(is(30));
    // It is newer than what others have heard of the ban from this node.
    assert_eq!(apply(&change(Some(20), None)), 30_001);
    assert!(!is(30));
    assert_eq!(apply(&change(Some(25), ban(None))), 30_002);
    assert!(is(30));
    // It is not said twice, and nobody but the exchange has an order.
    let known = [
        bans.apply(at(30), AT_ONCE, &change(Some(25), ban(None))),
        bans.hear(at(30), &change(Some(26), None)),
    ];
    assert_eq!(known, [Applied::Known, Applied::Known]);
    assert_eq!(apply(&change(Some(26), None)), 30_003);
    // From now on the times count again.
    assert_eq!(apply(&change(Some(40), ban(None))), 40_000);
    let late = bans.apply(at(41), AT_ONCE, &change(Some(39), None));
    assert_eq!(late, Applied::Known);
}

/// AMQP said when it was sent.
#[test]
fn a_ban_without_a_stamp_is_as_old_as_its_message() {
    let (bans, now) = (Bans::default(), start());
    let change = Change {
        subject: user("alice"),
        stamp: None,
        ban: ban(None),
    };
    let Applied::Done(done) = bans.apply(now, HOUR, &change) else {
        panic!("not done");
    };
    assert_eq!(done.stamp, Some(millis(now - HOUR)));
}

/// A node that was cut off must not bring it back.
#[test]
fn the_end_of_a_ban_is_remembered_for_a_week() {
    let (bans, now) = (Bans::default(), start());
    let before = set(&bans, now, user("alice"), ban(None));
    set(&bans, now, user("alice"), None);
    set(&bans, now, network("192.0.2.1"), ban(Some(now + HOUR)));
    set(&bans, now, user("bob"), ban(None));
    let moment = Instant::now();
    assert_eq!(bans.sweep(now + REMEMBERED - HOUR, moment), []);
    assert_eq!(bans.apply(now, AT_ONCE, &before), Applied::Known);
    assert_eq!(bans.sweep(now + REMEMBERED + HOUR, moment + HOUR), []);
    let later = moment + HOUR + SURE;
    assert_eq!(bans.sweep(now + REMEMBERED + HOUR + SURE, later).len(), 2);
    assert_eq!(bans.changes(now).len(), 1);
    assert!(is_banned(
        &bans,
        now + REMEMBERED * 9,
        "bob",
        "192.0.2.1",
        "x"
    ));
}

/// A ban that holds is neither given up nor lifted meanwhile.
#[test]
fn a_clock_that_stands_wrong_for_a_while_ends_no_ban_for_good() {
    let (now, moment) = (start(), Instant::now());
    let wrong = now + 400 * 24 * HOUR;
    let bans = Bans::default();
    set(&bans, now, user("alice"), ban(Some(now + HOUR)));
    set(&bans, now, user("bob"), ban(None));
    set(&bans, now, user("bob"), None);
    for seconds in [0, 5] {
        let later = moment + Duration::from_secs(seconds);
        assert_eq!(bans.sweep(wrong, later), []);
    }
    assert!(is_banned(&bans, now, "alice", "192.0.2.1", "x"));
    // What it said then does not count later.
    assert_eq!(bans.sweep(now, moment + HOUR), []);
    assert_eq!(bans.sweep(wrong, moment + 2 * SURE), []);
    assert_eq!(bans.sweep(wrong, moment + 3 * SURE).len(), 2);

    let bans = Bans::default();
    for number in 0..MAX_BANS {
        set(&bans, now, user(&number.to_string()), ban(Some(now + HOUR)));
    }
    set(&bans, wrong, user("alice"), ban(None));
    assert!(is_banned(&bans, now, "0", "192.0.2.1", "x"));
}

#[test]
fn bans_are_bounded() {
    let (bans, now) = (Bans::default(), start());
    for number in 0..MAX_BANS {
        set(&bans, now, user(&number.to_string()), ban(Some(now + HOUR)));
    }
    let one_more = bans.change(now, user("alice"), ban(None));
    assert_eq!(bans.apply(now, AT_ONCE, &one_more), Applied::Full);
    // One that is there can be changed, and lifted; then there is room.
    set(&bans, now, user("0"), ban(None));
    set(&bans, now, user("1"), None);
    set(&bans, now, user("alice"), ban(None));
    assert_eq!(bans.len(now), MAX_BANS);
    // Those that are over take no room, and are bounded themselves.
    let later = now + HOUR;
    for number in 0..MAX_BANS - 2 {
        set(&bans, later, device(&number.to_string()), ban(None));
    }
    for number in 0..100 {
        set(&bans, later, user(&format!("more {number}")), None);
    }
    assert!(bans.changes(now).len() <= 2 * MAX_BANS);
    assert!(is_banned(&bans, later, "alice", "192.0.2.1", "x"));
}

#[test]
fn bans_are_listed_by_pages() {
    let (bans, now) = (Bans::default(), start());
    set(&bans, now, user("bob"), ban(None));
    set(&bans, now, user("alice"), ban(None));
    set(&bans, now, user("carol"), None);
    set(&bans, now, network("192.0.2.0/24"), ban(None));
    set(&bans, now, device("phone"), ban(None));
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = bans.list(now, after.as_ref(), 2);
        assert!(page.bans.len() <= 2);
        found.extend(page.bans.iter().map(|(subject, since, _)| {
            assert_eq!(*since, now);
            subject.key()
        }));
        let Some(next) = page.next else { break };
        after = Subject::from_key(&next);
        assert!(after.is_some(), "{next}");
    }
    let expected = [
        "user:alice",
        "user:bob",
        "address:192.0.2.0/24",
        "device:phone",
    ];
    assert_eq!(found, expected);
}
