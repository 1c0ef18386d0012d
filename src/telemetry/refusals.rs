//! The clients that were refused last, and why: for an operator who looks after somebody called.
//! The log has them, too, but it is elsewhere, and bounded in another way.

use std::{collections::VecDeque, net::SocketAddr, time::SystemTime};

use parking_lot::Mutex;

/// So many are kept.
const MAX: usize = 200;

/// So many of one user and kind are kept: further ones take the place of the oldest of these, so that
/// one client does not push out all others.
const MAX_OF_ONE: usize = 20;

/// A refused login is among so many last ones when its connection ends.
const NEAR: usize = 32;

/// The longest text of one, in bytes: clients choose what is in it.
const LONGEST: usize = 240;

/// A client that was refused something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// When.
    pub at: SystemTime,
    /// What it wanted: `login`, `permission`, `request`, or `session` if that was ended with an
    /// ERROR.
    pub what: &'static str,
    /// Why it did not get it.
    pub cause: Box<str>,
    /// The user, as far as it is known: claimed until the login, then proved.
    pub user: Option<Box<str>>,
    /// Its address.
    pub remote: Option<SocketAddr>,
    /// Its session's id, if it has one.
    pub session: Option<Box<str>>,
}

static RECENT: Mutex<VecDeque<Refusal>> = Mutex::new(VecDeque::new());

/// The last ones, the newest first.
#[must_use]
pub fn recent_refusals() -> Vec<Refusal> {
    RECENT.lock().iter().rev().cloned().collect()
}

/// Keeps one, in the place of the oldest.
pub(super) fn refused(refusal: Refusal) {
    keep(&mut RECENT.lock(), refusal);
}

fn keep(recent: &mut VecDeque<Refusal>, refusal: Refusal) {
    // A session whose login was refused ends for that, which need not be told twice.
    let is_of_login = |before: &Refusal| {
        before.what == "login" && before.session.is_some() && before.session == refusal.session
    };
    if refusal.what == "session" && recent.iter().rev().take(NEAR).any(is_of_login) {
        return;
    }
    let is_like = |before: &Refusal| before.what == refusal.what && before.user == refusal.user;
    let alike = || recent.iter().filter(|before| is_like(before)).count();
    if refusal.user.is_some() && alike() >= MAX_OF_ONE {
        if let Some(oldest) = recent.iter().position(is_like) {
            recent.remove(oldest);
        }
    } else if recent.len() >= MAX {
        recent.pop_front();
    }
    recent.push_back(refusal);
}

/// The beginning of a text that clients choose.
pub(super) fn cut(text: &str) -> Box<str> {
    let end = text.floor_char_boundary(LONGEST);
    match text.get(..end) {
        Some(start) if end < text.len() => format!("{start}…").into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(what: &'static str, session: &str, cause: &str) -> Refusal {
        Refusal {
            at: SystemTime::UNIX_EPOCH,
            what,
            cause: cause.into(),
            user: None,
            remote: None,
            session: Some(session.into()),
        }
    }

    #[test]
    fn the_oldest_gives_way() {
        let mut recent = VecDeque::new();
        for number in 0..=MAX {
            keep(&mut recent, refusal("login", "s", &number.to_string()));
        }
        let causes: Vec<&str> = recent.iter().map(|refusal| &*refusal.cause).collect();
        assert_eq!((causes.len(), causes[0]), (MAX, "1"));
    }

    #[test]
    fn one_user_does_not_push_out_the_others() {
        let mut recent = VecDeque::new();
        let of = |user: &str, cause: &str| Refusal {
            user: Some(user.into()),
            ..refusal("permission", "s", cause)
        };
        keep(&mut recent, of("alice", "a"));
        for number in 0..MAX {
            keep(&mut recent, of("eve", &number.to_string()));
        }
        keep(&mut recent, of("bob", "b"));
        let causes: Vec<&str> = recent.iter().map(|refusal| &*refusal.cause).collect();
        assert_eq!(causes.len(), MAX_OF_ONE + 2);
        assert_eq!((causes[0], causes[1]), ("a", "180"));
        assert_eq!(causes.last(), Some(&"b"));
    }

    #[test]
    fn the_end_of_a_refused_login_is_not_told_twice() {
        let mut recent = VecDeque::new();
        keep(&mut recent, refusal("login", "a", "no"));
        keep(&mut recent, refusal("session", "b", "slow"));
        keep(&mut recent, refusal("session", "a", "refused"));
        let causes: Vec<&str> = recent.iter().map(|refusal| &*refusal.cause).collect();
        assert_eq!(causes, ["no", "slow"]);
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let short = "é".repeat(LONGEST / 2);
        assert_eq!(*cut(&short), *short);
        let long = format!("x{short}");
        assert_eq!(cut(&long).chars().last(), Some('…'));
        assert!(cut(&long).len() <= LONGEST + '…'.len_utf8());
    }
}
