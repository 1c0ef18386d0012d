//! Questions to Redis about users, groups and sessions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value};

use super::{
    Store,
    connect::unavailable,
    entry::{LeaseId, decode, decode_here, decode_listed, decode_node, is_here, partition_of},
    script,
};
use crate::presence::{
    Counts, Listing, MOST_CLAIMED, MOST_SESSIONS, Member, NodeInfo, Page, PresenceEntry,
    PresenceError, SessionInfo, Status, UserCount, UserPresence, rooms::place, too_many,
};

/// Lists of a node that are read in one pipeline: at first, and, if they are empty, at most.
const LISTS: [u16; 2] = [4, 256];

/// Fields of a group that are read at a time.
const GROUP_STEP: usize = 1_000;

/// The nodes that live, by their leases.
type Nodes = BTreeMap<LeaseId, NodeInfo>;
/// The leases of each node that lives, in the order of their names: leases change, and a listing
/// goes on after that.
type ByName<'n> = BTreeMap<&'n str, Vec<LeaseId>>;
/// A hash, of which only the values are what we think.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) struct RedisReader {
    store: Arc<Store>,
}

/// The place where a listing goes on: behind the session `after`, in a list of a node.
struct Cursor {
    node: Box<str>,
    list: u16,
    after: Box<str>,
}

/// A session, as its node lists it.
struct Listed<'n> {
    node: &'n str,
    list: u16,
    id: String,
    user: Arc<str>,
}

impl RedisReader {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }

    /// `ask`s, and then who lives: one who joined before is among those. In two round trips, for the
    /// leases stand for themselves.
    async fn ask(
        &self,
        ask: impl FnOnce(&mut Pipeline),
    ) -> Result<(Nodes, std::vec::IntoIter<Value>), PresenceError> {
        let (leases, replies) = self.ask_leases(ask).await?;
        let (nodes, _) = self.alive(&leases, |_| ()).await?;
        Ok((nodes, replies))
    }

    /// The first of both.
    async fn ask_leases(
        &self,
        ask: impl FnOnce(&mut Pipeline),
    ) -> Result<(Vec<LeaseId>, std::vec::IntoIter<Value>), PresenceError> {
        let mut pipe = Pipeline::new();
        ask(&mut pipe);
        pipe.hkeys(self.store.keys.nodes());
        let mut replies = self.store.call::<Vec<Value>>(&pipe).await?;
        let leases: Vec<Vec<u8>> = read(replies.pop())?;
        let leases = leases.iter().filter_map(|lease| LeaseId::parse(lease));
        Ok((leases.collect(), replies.into_iter()))
    }

    /// Those of the leases that hold, and `ask`s more.
    async fn alive(
        &self,
        leases: &[LeaseId],
        ask: impl FnOnce(&mut Pipeline),
    ) -> Result<(Nodes, std::vec::IntoIter<Value>), PresenceError> {
        let mut pipe = Pipeline::new();
        for lease in leases {
            pipe.get(self.store.keys.node(*lease));
        }
        ask(&mut pipe);
        let mut replies = self.call::<Vec<Value>>(&pipe).await?.into_iter();
        let mut nodes = Nodes::new();
        for lease in leases {
            let node: Option<String> = read(replies.next())?;
            if let Some(node) = node.and_then(|node| decode_node(&node)) {
                nodes.insert(*lease, node);
            }
        }
        Ok((nodes, replies))
    }

    pub(super) async fn users(&self, names: &[&str]) -> Result<Vec<UserPresence>, PresenceError> {
        let keys = &self.store.keys;
        let (leases, replies) = self
            .ask_leases(|pipe| {
                for name in names {
                    script::fields(pipe, &keys.user(name), 0, MOST_SESSIONS);
                }
            })
            .await?;
        let users: Vec<Fields> = replies
            .map(|reply| read::<(u64, Fields)>(Some(reply)).map(|(_, fields)| fields))
            .collect::<Result<_, _>>()?;
        // Of those who have more sessions, the nodes say how many, and how they are together.
        let is_large = |fields: &Fields| fields.len() >= MOST_SESSIONS;
        let large: Vec<&str> = names
            .iter()
            .zip(&users)
            .filter_map(|(name, fields)| is_large(fields).then_some(*name))
            .collect();
        let (nodes, mut counts) = self
            .alive(&leases, |pipe| self.ask_counts(pipe, &leases, &large))
            .await?;
        let found = names.iter().zip(users).map(|(name, fields)| {
            let user = Arc::from(*name);
            let sessions = fields.iter().filter_map(|(field, value)| {
                let (lease, id) = LeaseId::split(field)?;
                decode(&user, id, &nodes.get(&lease)?.name, value).filter(is_here)
            });
            let mut found = UserPresence::new(sessions.collect());
            if is_large(&fields) {
                let count = read_count(counts.next(), &leases, &nodes)?;
                (found.status, found.count) = (count.status, count.sessions);
                found.sessions.truncate(MOST_SESSIONS);
            }
            Ok(found)
        });
        found.collect()
    }

    pub(super) async fn count_users(
        &self,
        names: &[&str],
    ) -> Result<Vec<UserCount>, PresenceError> {
        let (leases, _) = self.ask_leases(|_| ()).await?;
        let (nodes, mut counts) = self
            .alive(&leases, |pipe| self.ask_counts(pipe, &leases, names))
            .await?;
        let mut next = |_| read_count(counts.next(), &leases, &nodes);
        names.iter().map(&mut next).collect()
    }

    /// Asks for the users' fields of the nodes.
    fn ask_counts(&self, pipe: &mut Pipeline, leases: &[LeaseId], names: &[&str]) {
        if leases.is_empty() {
            return;
        }
        let fields: Vec<&str> = leases.iter().map(LeaseId::as_str).collect();
        for name in names {
            pipe.cmd("HMGET")
                .arg(self.store.keys.user(name))
                .arg(&fields);
        }
    }

    /// Writes a session's claim down, in one go with reading which others of its user were there.
    pub(super) async fn claim(
        &self,
        session: &PresenceEntry,
        lease: LeaseId,
    ) -> Result<Vec<SessionInfo>, PresenceError> {
        // With what is no session, for which there is more than enough room.
        let most = u64::try_from(MOST_CLAIMED).unwrap_or(u64::MAX);
        let keys = &self.store.keys;
        let (nodes, mut replies) = self
            .ask(|pipe| script::claim(pipe, keys, session, lease, most))
            .await?;
        let reply = match replies.next() {
            None | Some(Value::Nil) => return Err(unavailable("this node's lease is over")),
            Some(Value::Int(fields)) => {
                return Err(too_many(usize::try_from(fields).unwrap_or(usize::MAX)));
            }
            Some(reply) => reply,
        };
        let fields: Fields = read(Some(reply))?;
        let others = fields.iter().filter_map(|(field, value)| {
            let (lease, id) = LeaseId::split(field)?;
            let name = &nodes.get(&lease)?.name;
            decode(&session.user, id, name, value).filter(|other| other.id != session.id)
        });
        Ok(UserPresence::new(others.collect()).sessions)
    }

    pub(super) async fn group(&self, name: &str) -> Result<Vec<Member>, PresenceError> {
        let key = self.store.keys.group(name);
        // A part at a time, so that Redis serves others in between. Of a field that comes twice, the
        // later value counts.
        let (mut fields, mut from) = (HashMap::new(), 0);
        loop {
            let mut pipe = Pipeline::new();
            script::fields(&mut pipe, &key, from, GROUP_STEP);
            let ((next, part),): ((u64, Fields),) = self.store.ask(&pipe).await?;
            fields.extend(part);
            from = next;
            if from == 0 {
                break;
            }
        }
        let (nodes, _) = self.ask(|_| ()).await?;
        let mut users: BTreeMap<&str, Status> = BTreeMap::new();
        for (field, value) in &fields {
            if let (Some((lease, user)), Some(status)) = (LeaseId::split(field), value.first())
                && nodes.contains_key(&lease)
            {
                let known = users.entry(user).or_insert(Status::Offline);
                *known = Status::from_byte(*status).max(*known);
            }
        }
        let members = users.into_iter().filter_map(|(user, status)| {
            let status = status.to_others();
            let user = user.into();
            (status != Status::Offline).then_some(Member { user, status })
        });
        Ok(members.collect())
    }

    pub(super) async fn session(&self, id: &str) -> Result<Option<SessionInfo>, PresenceError> {
        let (nodes, _) = self.ask(|_| ()).await?;
        let mut pipe = Pipeline::new();
        for lease in nodes.keys() {
            pipe.hget(self.store.keys.list_of(*lease, id), id);
        }
        let found: Vec<Option<Vec<u8>>> = self.call(&pipe).await?;
        let listed: Vec<_> = nodes
            .values()
            .zip(found)
            .filter_map(|(node, value)| {
                let (user, _) = decode_listed(&value?)?;
                Some(Listed {
                    node: &node.name,
                    list: 0,
                    id: id.to_owned(),
                    user,
                })
            })
            .collect();
        Ok(self.look_up(&by_name(&nodes), &listed).await?.pop())
    }

    pub(super) async fn sessions(&self, listing: &Listing) -> Result<Page, PresenceError> {
        self.list_all(listing, None).await
    }

    /// As [`RedisReader::sessions`], of one user alone: for users who have so many that they are a
    /// good part of all.
    pub(super) async fn sessions_of(
        &self,
        user: &str,
        listing: &Listing,
    ) -> Result<Page, PresenceError> {
        self.list_all(listing, Some(user)).await
    }

    async fn list_all(&self, listing: &Listing, user: Option<&str>) -> Result<Page, PresenceError> {
        let mut cursor = match &listing.after {
            Some(after) => Some(Cursor::parse(after).ok_or(PresenceError::Cursor)?),
            None => None,
        };
        let (nodes, _) = self.ask(|_| ()).await?;
        let nodes = by_name(&nodes);
        let is_wanted = |name: &str| listing.node.as_deref().is_none_or(|node| node == name);
        let wanted = nodes.iter().filter(|(name, _)| is_wanted(name));
        // One more than fits shows that there is a next page.
        let most = listing.limit.saturating_add(1);
        let mut found = Vec::new();
        for (name, leases) in wanted {
            let after = match cursor.take_if(|cursor| *cursor.node <= **name) {
                Some(after) if *after.node == **name => Some(after),
                _ if cursor.is_some() => continue,
                _ => None,
            };
            self.list((*name, leases.as_slice()), user, after, most, &mut found)
                .await?;
            if found.len() >= most {
                break;
            }
        }
        found.truncate(most);
        let mut next = None;
        if found.len() > listing.limit {
            found.truncate(listing.limit);
            next = found.last().map(Listed::cursor);
        }
        Ok(Page {
            sessions: self.look_up(&nodes, &found).await?,
            next,
        })
    }

    /// Finds the sessions of a node, until there are `most`, or a few more.
    async fn list<'n>(
        &self,
        (node, leases): (&'n str, &[LeaseId]),
        wanted: Option<&str>,
        after: Option<Cursor>,
        most: usize,
        found: &mut Vec<Listed<'n>>,
    ) -> Result<(), PresenceError> {
        let mut first = after.as_ref().map_or(0, |after| after.list);
        let [mut some, longest] = LISTS;
        let all = self.store.keys.lists();
        while first < all && found.len() < most {
            let lists = first..first.saturating_add(some).min(all);
            first = lists.end;
            let mut pipe = Pipeline::new();
            for list in lists.clone() {
                for lease in leases {
                    pipe.hgetall(self.store.keys.list(*lease, list));
                }
            }
            let replies: Vec<Fields> = self.call(&pipe).await?;
            if replies.iter().all(Vec::is_empty) {
                some = some.saturating_mul(2).min(longest);
            }
            let mut replies = replies.into_iter();
            for list in lists {
                let fields = replies.by_ref().take(leases.len()).flatten();
                let mut listed: Vec<_> = fields
                    .filter_map(|(id, value)| {
                        let id = String::from_utf8(id).ok()?;
                        let is_before = |after: &Cursor| after.list == list && *id <= *after.after;
                        if after.as_ref().is_some_and(is_before) {
                            return None;
                        }
                        let (user, _) = decode_listed(&value)?;
                        wanted
                            .is_none_or(|wanted| *user == *wanted)
                            .then_some(Listed {
                                node,
                                list,
                                id,
                                user,
                            })
                    })
                    .collect();
                listed.sort_unstable_by(|a, b| a.id.cmp(&b.id));
                // While a node changes its lease, both have the session.
                listed.dedup_by(|a, b| a.id == b.id);
                found.extend(listed);
            }
        }
        Ok(())
    }

    /// All facts about listed sessions; some may have ended.
    async fn look_up(
        &self,
        nodes: &ByName<'_>,
        listed: &[Listed<'_>],
    ) -> Result<Vec<SessionInfo>, PresenceError> {
        let mut pipe = Pipeline::new();
        for session in listed {
            let leases = nodes.get(session.node).into_iter().flatten();
            let fields: Vec<_> = leases.map(|lease| lease.field(&session.id)).collect();
            pipe.cmd("HMGET")
                .arg(self.store.keys.user(&session.user))
                .arg(fields);
        }
        let values: Vec<Vec<Option<Vec<u8>>>> = self.call(&pipe).await?;
        let sessions = listed.iter().zip(values).filter_map(|(session, values)| {
            let value = values.into_iter().flatten().next()?;
            decode(&session.user, &session.id, session.node, &value).filter(is_here)
        });
        Ok(sessions.collect())
    }

    pub(super) async fn counts(&self) -> Result<Counts, PresenceError> {
        let (nodes, mut replies) = self
            .ask(|pipe| {
                pipe.get(self.store.keys.users());
            })
            .await?;
        let users: Option<u64> = read(replies.next())?;
        Ok(Counts {
            sessions: each_once(nodes).iter().map(|node| node.sessions).sum(),
            users: users.unwrap_or(0),
        })
    }

    pub(super) async fn nodes(&self) -> Result<Vec<NodeInfo>, PresenceError> {
        let (nodes, _) = self.ask(|_| ()).await?;
        Ok(each_once(nodes))
    }

    /// One round trip; none for an empty pipeline.
    async fn call<T: FromRedisValue + Default>(&self, pipe: &Pipeline) -> Result<T, PresenceError> {
        if pipe.is_empty() {
            return Ok(T::default());
        }
        self.store.call(pipe).await
    }
}

/// The nodes, in the order of their names. One that changes its lease has two, for a moment: the
/// one that says more is the truth.
fn each_once(nodes: Nodes) -> Vec<NodeInfo> {
    let mut by_name: BTreeMap<Box<str>, NodeInfo> = BTreeMap::new();
    for node in nodes.into_values() {
        let known = by_name.entry(node.name.clone()).or_insert(node.clone());
        known.sessions = known.sessions.max(node.sessions);
    }
    by_name.into_values().collect()
}

fn by_name(nodes: &Nodes) -> ByName<'_> {
    let mut by_name = ByName::new();
    for (lease, node) in nodes {
        by_name.entry(&*node.name).or_default().push(*lease);
    }
    by_name
}

/// The answer to [`RedisReader::ask_counts`] about one user.
fn read_count(
    reply: Option<Value>,
    leases: &[LeaseId],
    nodes: &Nodes,
) -> Result<UserCount, PresenceError> {
    let mut count = UserCount::default();
    let Some(reply) = reply else {
        return Ok(count);
    };
    let here: Vec<Option<Vec<u8>>> = read(Some(reply))?;
    for (lease, value) in leases.iter().zip(here) {
        if let Some((status, sessions)) = value.as_deref().and_then(decode_here)
            && nodes.contains_key(lease)
        {
            count.status = count.status.max(status);
            count.sessions = count.sessions.saturating_add(sessions.into());
        }
    }
    Ok(count)
}

/// Names, and the partitions that they are in.
pub(super) struct Spread<'a> {
    parts: BTreeMap<usize, Vec<&'a str>>,
    /// The partition of each.
    places: Vec<usize>,
}

impl<'a> Spread<'a> {
    pub(super) fn new(names: &[&'a str], partitions: usize) -> Self {
        let places: Vec<_> = names
            .iter()
            .map(|name| partition_of(name, partitions))
            .collect();
        let mut parts: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (name, place) in names.iter().zip(&places) {
            parts.entry(*place).or_default().push(*name);
        }
        Self { parts, places }
    }

    /// The partitions that have some, and which.
    pub(super) fn parts(&self) -> impl Iterator<Item = (usize, &[&'a str])> {
        self.parts.iter().map(|(place, names)| (*place, &**names))
    }

    /// The answers of all, in the order of the names.
    pub(super) fn gather<T: Default>(&self, answers: Vec<Vec<T>>) -> Vec<T> {
        let mut answers: HashMap<_, _> = self
            .parts
            .keys()
            .zip(answers.into_iter().map(Vec::into_iter))
            .collect();
        let mut next = |place| answers.get_mut(place)?.next();
        let places = self.places.iter();
        places
            .map(|place| next(place).unwrap_or_default())
            .collect()
    }
}

fn read<T: FromRedisValue>(reply: Option<Value>) -> Result<T, PresenceError> {
    T::from_redis_value(reply.unwrap_or(Value::Nil)).map_err(unavailable)
}

impl Cursor {
    /// The inverse of [`Listed::cursor`].
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        Some(Self {
            node: place::read(parts.next()?)?.into(),
            list: parts.next()?.parse().ok()?,
            after: parts.next()?.into(),
        })
    }
}

impl Listed<'_> {
    /// For a page that begins behind it.
    fn cursor(&self) -> Box<str> {
        // A name may have dots.
        let node = place::write(self.node);
        format!("{node}.{}.{}", self.list, self.id).into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_cursor_is_read_and_others_are_none() {
        let listed = Listed {
            node: "stentor-1.é.0123abcd",
            list: 1023,
            id: "a-b_c.d".to_owned(),
            user: "alice".into(),
        };
        let cursor = Cursor::parse(&listed.cursor()).unwrap();
        assert_eq!((&*cursor.node, cursor.list), (listed.node, listed.list));
        assert_eq!(*cursor.after, *listed.id);
        for text in [
            "",
            "x",
            "12345678",
            "12345678.1",
            "12345678.x.id",
            "1=34.1.id",
        ] {
            assert!(Cursor::parse(text).is_none(), "{text}");
        }
    }

    /// It changes its lease: under the new one it registers what it holds.
    #[test]
    fn a_node_of_two_leases_counts_once() {
        let node = |name: &str, sessions| NodeInfo {
            name: name.into(),
            since: SystemTime::UNIX_EPOCH,
            sessions,
        };
        let nodes = [("b", 3), ("a", 5), ("b", 7)]
            .map(|(name, sessions)| (LeaseId::random(), node(name, sessions)));
        let nodes = Nodes::from(nodes);
        let leases: Vec<_> = by_name(&nodes)
            .into_iter()
            .map(|(name, leases)| (name.to_owned(), leases.len()))
            .collect();
        assert_eq!(leases, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(each_once(nodes), [node("a", 5), node("b", 7)]);
    }
}
