//! What a token grants: by destinations with its claims in them, and by RabbitMQ's scopes.

use Permission::{Configure, Read, Write};
use ResourceKind::{Exchange, Queue};

use super::*;

/// A user by a token with these claims.
fn user(tokens: &Tokens, more: &Value) -> User {
    let mut said = claims();
    let said_object = said.as_object_mut().unwrap();
    said_object.extend(more.as_object().unwrap().clone());
    admit(tokens, &hs256(&said)).unwrap().user
}

#[tokio::test]
async fn destinations_of_the_configuration_are_the_user_s() {
    let tokens = tokens(
        "subscribe = [\"/exchange/feed/user_{sub}\", \"/exchange/news/eu.*\", \"/topic/open.#\"]\n\
         send = [\"/exchange/chat/{sub}.out\", \"/queue/jobs\"]",
    );
    let alice = user(&tokens, &json!({}));
    for (access, expected) in [
        (resource(Exchange, "feed", Read), true),
        (resource(Exchange, "feed", Write), false),
        (resource(Exchange, "other", Read), false),
        (topic("feed", "user_alice", Read), true),
        (topic("feed", "user_bob", Read), false),
        (topic("feed", "#", Read), false),
        (topic("feed", "user_alice", Write), false),
        (topic("news", "eu.de", Read), true),
        (topic("news", "eu.*", Read), true),
        // It would match more than what is granted.
        (topic("news", "eu.#", Read), false),
        (topic("news", "*.de", Read), false),
        (topic("amq.topic", "open.a.#", Read), true),
        (topic("amq.topic", "#", Read), false),
        (topic("chat", "alice.out", Write), true),
        (topic("chat", "bob.out", Write), false),
        // The default exchange, for the queue.
        (resource(Exchange, "", Write), true),
        (topic("", "jobs", Write), true),
        (topic("", "other", Write), false),
        (resource(Queue, "jobs", Configure), true),
        (resource(Queue, "jobs", Write), true),
        (resource(Queue, "jobs", Read), false),
        (resource(Queue, "other", Configure), false),
        (resource(Exchange, "feed", Configure), false),
        (vhost("/"), true),
        (vhost("other"), false),
    ] {
        let is_allowed = allowed(&tokens, &alice, access.clone());
        assert_eq!(is_allowed, expected, "{access:?}");
    }
}

#[tokio::test]
async fn without_rights_a_user_may_do_nothing() {
    let tokens = tokens("");
    let alice = user(&tokens, &json!({ "scope": "rabbitmq.read:*/*/*" }));
    for access in [
        resource(Exchange, "feed", Read),
        topic("feed", "", Read),
        topic("feed", "user_alice", Read),
        resource(Queue, "q", Read),
    ] {
        assert!(!allowed(&tokens, &alice, access));
    }
}

/// A name is a name: nobody becomes somebody else, or everybody, by the way that it is written.
#[tokio::test]
async fn a_claim_s_value_is_no_pattern() {
    let tokens = tokens(
        "subscribe = [\"/exchange/feed/{sub}\", \"/exchange/deep/user.{sub}.#\"]\n\
         send = [\"/exchange/feed/{sub}\"]",
    );
    for (name, others) in [
        ("#", ["alice", "a.b"]),
        ("*", ["alice", "b"]),
        ("*.*", ["a.b", "b.c"]),
        ("alice.#", ["alice", "alice.b"]),
    ] {
        let attacker = user(&tokens, &json!({ "sub": name }));
        for key in others {
            for permission in [Read, Write] {
                let access = topic("feed", key, permission);
                assert!(!allowed(&tokens, &attacker, access), "{name} at {key}");
            }
        }
        // In a SUBSCRIBE it would be a wildcard, so it is not even the user's own.
        assert!(
            !allowed(&tokens, &attacker, topic("feed", name, Read)),
            "{name}"
        );
        // In a SEND it is a letter.
        assert!(
            allowed(&tokens, &attacker, topic("feed", name, Write)),
            "{name}"
        );
        for key in ["user.bob.x", "user.bob", "user.#", "user.*.#"] {
            assert!(
                !allowed(&tokens, &attacker, topic("deep", key, Read)),
                "{name}"
            );
        }
    }
    // A dot makes of a name two words, so it leads into another's keys.
    let attacker = user(&tokens, &json!({ "sub": "bob.x" }));
    for key in ["user.bob.x.y", "user.bob.x", "user.bob.x.#"] {
        assert!(
            !allowed(&tokens, &attacker, topic("deep", key, Read)),
            "{key}"
        );
    }
    // Where nothing else can be meant, it is a name: an address, say.
    assert!(allowed(&tokens, &attacker, topic("feed", "bob.x", Read)));
    let bob = user(&tokens, &json!({ "sub": "bob" }));
    assert!(allowed(&tokens, &bob, topic("deep", "user.bob.x.y", Read)));
}

#[tokio::test]
async fn two_values_do_not_run_into_each_other() {
    let tokens = tokens("subscribe = [\"/exchange/feed/{tenant}.{sub}\"]");
    let eve = user(&tokens, &json!({ "tenant": "a.b", "sub": "c" }));
    assert!(!allowed(&tokens, &eve, topic("feed", "a.b.c", Read)));
    let bob = user(&tokens, &json!({ "tenant": "a", "sub": "b" }));
    assert!(allowed(&tokens, &bob, topic("feed", "a.b", Read)));
}

#[tokio::test]
async fn a_claim_that_is_missing_grants_nothing_and_a_list_each() {
    let tokens = tokens(
        "subscribe = [\"/exchange/teams/{groups}\", \"/exchange/feed/{none}\"]\n\
         groups_claim = \"groups\"",
    );
    let alice = user(&tokens, &json!({ "groups": ["red", "", "blue", "red"] }));
    for (key, expected) in [("red", true), ("blue", true), ("green", false), ("", false)] {
        assert_eq!(
            allowed(&tokens, &alice, topic("teams", key, Read)),
            expected
        );
    }
    assert!(!allowed(&tokens, &alice, topic("feed", "", Read)));
    let groups = tokens.groups(&alice).await.unwrap();
    assert_eq!(
        groups,
        ["red".into(), "".into(), "blue".into()] as [Arc<str>; 3]
    );
    let nobody = user(&tokens, &json!({}));
    assert!(!allowed(&tokens, &nobody, topic("teams", "red", Read)));
}

#[tokio::test]
async fn a_token_may_list_destinations_itself() {
    let tokens = tokens("subscribe_claim = \"stomp.sub\"\nsend_claim = \"https://x/send\"");
    let more = json!({
        "stomp": { "sub": ["/exchange/feed/a.*", "/nowhere", "/exchange/feed/{sub}"] },
        "https://x/send": "/queue/jobs",
    });
    let alice = user(&tokens, &more);
    assert!(allowed(&tokens, &alice, topic("feed", "a.b", Read)));
    assert!(!allowed(&tokens, &alice, topic("feed", "alice", Read)));
    assert!(allowed(&tokens, &alice, topic("", "jobs", Write)));
    let many: Vec<String> = (0..2000).map(|n| format!("/queue/{n}")).collect();
    let mut said = claims();
    said["https://x/send"] = json!(many);
    let why = admit(&tokens, &hs256(&said));
    assert!(why.is_err(), "{why:?}");
}

#[tokio::test]
async fn virtual_hosts_are_those_of_the_claim_or_of_the_configuration() {
    let named = tokens("vhosts_claim = \"vhosts\"\nsubscribe = [\"/exchange/feed/x\"]");
    let alice = user(&named, &json!({ "vhosts": ["a", "b"] }));
    for (name, expected) in [("a", true), ("b", true), ("/", false), ("", false)] {
        assert_eq!(allowed(&named, &alice, vhost(name)), expected, "{name}");
    }
    // The destinations are in those.
    assert!(!allowed(&named, &alice, topic("feed", "x", Read)));
    assert!(!allowed(&named, &user(&named, &json!({})), vhost("/")));
    let listed = tokens("vhosts = [\"c\"]");
    let alice = user(&listed, &json!({}));
    assert!(allowed(&listed, &alice, vhost("c")) && !allowed(&listed, &alice, vhost("/")));
}

/// As RabbitMQ's OAuth 2 plug-in reads them.
#[tokio::test]
async fn scopes_of_rabbitmq_are_understood() {
    let tokens = tokens("resource_server_id = \"rabbitmq\"");
    let scopes = "rabbitmq.read:%2F/feed/user_* rabbitmq.write:*/ch*t/*.out \
                  rabbitmq.read:%2F/orders rabbitmq.configure:%2f/q%2Fa \
                  other.read:*/*/* read:*/*/* rabbitmq.read:x rabbitmq.read:a/b/c/d \
                  rabbitmq.admin:*/*/* rabbitmq.tag:monitoring rabbitmq.tag:management";
    for scope in [json!(scopes), json!(scopes.split(' ').collect::<Vec<_>>())] {
        let alice = user(&tokens, &json!({ "scope": scope }));
        assert_eq!(&*alice.tags, "monitoring management");
        for (access, expected) in [
            (resource(Exchange, "feed", Read), true),
            (resource(Exchange, "feed", Write), false),
            (topic("feed", "user_alice", Read), true),
            (topic("feed", "user_", Read), true),
            (topic("feed", "other", Read), false),
            (resource(Exchange, "chat", Write), true),
            (resource(Exchange, "cht", Write), true),
            (resource(Exchange, "cat", Write), false),
            (topic("chat", "a.b.out", Write), true),
            (topic("chat", "a.in", Write), false),
            // A direct exchange, so RabbitMQ would not ask about the key.
            (topic("orders", "any", Read), true),
            (resource(Queue, "q/a", Configure), true),
            (resource(Queue, "q/a", Read), false),
            (vhost("/"), true),
            // By a scope with `*`.
            (vhost("anywhere"), true),
        ] {
            let is_allowed = allowed(&tokens, &alice, access.clone());
            assert_eq!(is_allowed, expected, "{access:?}");
        }
    }
    // Of a topic exchange, a scope of two parts grants no key; the default exchange has a name.
    let scope = "rabbitmq.read:%2F/feed rabbitmq.write:%2F/amq.default";
    let bob = user(&tokens, &json!({ "scope": scope }));
    assert!(allowed(&tokens, &bob, resource(Exchange, "feed", Read)));
    assert!(!allowed(&tokens, &bob, topic("feed", "a", Read)));
    assert!(allowed(&tokens, &bob, resource(Exchange, "", Write)));
    assert!(allowed(&tokens, &bob, topic("", "q", Write)));
    assert!(!allowed(&tokens, &bob, vhost("anywhere")));
}

/// Dead letters can have whatever key, unless one was chosen for them.
#[tokio::test]
async fn all_keys_of_an_exchange_are_granted_by_a_right_to_all_of_them() {
    let server = "resource_server_id = \"rabbitmq\"\n";
    let tokens = tokens(&format!("{server}send_claim = \"send\""));
    for (send, scope, expected) in [
        ("/exchange/chat/#", "", true),
        ("/exchange/chat/alice", "", false),
        ("/exchange/chat/*", "", false),
        ("/exchange/chat/#.out", "", false),
        ("/exchange/chat", "", false),
        ("/exchange/other/#", "", false),
        ("/queue/chat", "", false),
        ("", "rabbitmq.write:%2F/chat/*", true),
        ("", "rabbitmq.write:*/ch*/**", true),
        ("", "rabbitmq.write:%2F/chat/a*", false),
        ("", "rabbitmq.write:%2F/chat", false),
        ("", "rabbitmq.write:other/chat/*", false),
        ("", "rabbitmq.read:%2F/chat/*", false),
    ] {
        let alice = user(&tokens, &json!({ "send": send, "scope": scope }));
        assert_eq!(
            alice.may_send_by_any_key("/", "chat"),
            expected,
            "{send}{scope}"
        );
    }
    // A direct exchange: no key of it needs a right.
    let alice = user(&tokens, &json!({ "scope": "rabbitmq.write:%2F/orders" }));
    assert!(alice.may_send_by_any_key("/", "orders"));
    // Of others the hook is asked, or RabbitMQ's users.
    assert!(User::new("bob", "").may_send_by_any_key("/", "chat"));
}

/// Rights are the session's: two of one user can have different ones, and a renewal changes its own.
#[tokio::test]
async fn two_sessions_of_one_user_have_rights_of_their_own() {
    let tokens = tokens("subscribe_claim = \"sub_to\"");
    let first = user(&tokens, &json!({ "sub_to": "/exchange/feed/a" }));
    let second = user(&tokens, &json!({ "sub_to": "/exchange/feed/b" }));
    let may = |user: &User, key: &str| allowed(&tokens, user, topic("feed", key, Read));
    assert_eq!((may(&first, "a"), may(&first, "b")), (true, false));
    assert_eq!((may(&second, "a"), may(&second, "b")), (false, true));
    let renewed = user(&tokens, &json!({ "sub_to": "/exchange/feed/c" }));
    first.take_over(&renewed);
    assert_eq!((may(&first, "a"), may(&first, "c")), (false, true));
    assert!(may(&second, "b"));
}

/// A hook that remembers what it was asked, and allows it.
#[derive(Default)]
struct Hook(parking_lot::Mutex<Vec<String>>);

impl Authenticator for Hook {
    fn user<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<User, Refusal>> {
        future::ready(Ok(User::new(&*login.user, ""))).boxed()
    }

    fn allow<'a>(
        &'a self,
        user: &'a User,
        access: &'a Access,
    ) -> BoxFuture<'a, Result<(), Refusal>> {
        self.0.lock().push(format!("{} {access:?}", user.name));
        future::ready(Ok(())).boxed()
    }

    fn groups<'a>(&'a self, _: &'a User) -> BoxFuture<'a, Result<Vec<Arc<str>>, Refusal>> {
        future::ready(Ok(vec!["of the hook".into()])).boxed()
    }
}

#[tokio::test]
async fn a_token_may_be_the_login_and_the_hook_say_the_rights() {
    let hook = Arc::new(Hook::default());
    let text = format!("secret = \"{SECRET}\"\nrights = \"hook\"\nvhosts_claim = \"v\"");
    let inner = Arc::clone(&hook) as Arc<dyn Authenticator>;
    let tokens = Tokens::new(&config(&text), surroundings(), Some(inner)).unwrap();
    let alice = user(&tokens, &json!({ "v": "/" }));
    assert!(!alice.has_own_rights());
    assert!(allowed(&tokens, &alice, vhost("/")));
    assert!(allowed(&tokens, &alice, topic("feed", "a", Read)));
    assert_eq!(hook.0.lock().len(), 2);
    // Where the token says no, nobody is asked.
    assert!(!allowed(&tokens, &alice, vhost("other")));
    assert_eq!(hook.0.lock().len(), 2);
    assert_eq!(
        tokens.groups(&alice).await.unwrap(),
        ["of the hook".into()] as [Arc<str>; 1]
    );
}

/// Each login goes to one of them, and what that one refuses is refused.
#[tokio::test]
async fn in_a_chain_a_token_is_never_a_password() {
    use crate::auth::chain::Chain;

    let hook = Arc::new(Hook::default());
    let tokens = Arc::new(tokens("subscribe = [\"/exchange/feed/{sub}\"]"));
    let chain = Chain::new(vec![tokens, Arc::clone(&hook) as _]);
    let bob = chain.user(&login_as("bob", "s3cret")).await.unwrap();
    let alice = chain.user(&login_as("", &hs256(&claims()))).await.unwrap();
    assert_eq!((&*bob.name, &*alice.name), ("bob", "alice"));
    let access = topic("feed", "alice", Read);
    assert!(chain.allow(&alice, &access).await.is_ok());
    assert!(hook.0.lock().is_empty(), "a token's rights need no hook");
    assert!(chain.allow(&bob, &access).await.is_ok());
    assert_eq!(hook.0.lock().len(), 1);
    // The hook would let anybody in.
    let mut ended = claims();
    ended["exp"] = 1.into();
    for token in [hs256(&ended), "eyJhbGciOiJub25lIn0.e30.".to_owned()] {
        let answer = chain.user(&login_as("alice", &token)).await;
        assert!(matches!(answer, Err(Refusal::Denied(_))), "{answer:?}");
    }
    let nobody = Chain::new(Vec::new());
    assert!(nobody.user(&login_as("alice", "s3cret")).await.is_err());
    assert!(nobody.allow(&alice, &access).await.is_err());
}
