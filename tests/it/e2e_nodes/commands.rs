//! Commands to sessions reach every node, from any sender.

use serde_json::json;
use testkit::{Answer, Call, DEADLINE, StompClient, eventually};

use super::cluster::{Cluster, EVERYBODY, NODES};

const CONTROL: &str = "stentor.control";

async fn cluster() -> Cluster {
    let cluster = Cluster::open(|_, builder| builder).await;
    for gateway in cluster.gateways() {
        gateway.until_logged("listening for commands").await;
    }
    cluster
}

/// One client of the user at each node.
async fn everywhere(cluster: &Cluster, user: &str) -> Vec<StompClient> {
    let mut clients = Vec::new();
    for node in 0..NODES {
        clients.push(cluster.tcp(node, user).await);
    }
    clients
}

async fn expect_kicked(client: &mut StompClient, reason: &str) {
    let error = client.expect_error("kicked").await;
    assert_eq!(error.body, format!("{reason}\n"));
    client.expect_closed().await;
}

#[tokio::test]
async fn a_kick_reaches_every_node_whoever_gives_it() {
    let cluster = cluster().await;
    let mut alice = everywhere(&cluster, "alice").await;
    let mut bob = everywhere(&cluster, "bob").await;
    let users = ["alice", "bob"].map(str::to_owned);
    cluster.until_online(&[0, 1, 2], &users).await;

    // By the API of a node, all sessions of a user.
    let kick = "DELETE /api/v1/users/alice/sessions?reason=not%20paid";
    let (status, outcome) = cluster.gateway(2).api(kick, None).await;
    assert_eq!(status, 200, "{outcome}");
    for client in &mut alice {
        expect_kicked(client, "not paid").await;
    }
    cluster.until_online(&[0, 1, 2], &users[1..]).await;

    // By the API of a node that does not hold it, one session.
    let held_by_0 = cluster.node_name_of_gateway(0).await;
    let session = eventually(DEADLINE, "bob is at each node", async || {
        let (_, bob) = cluster.presence(1, "users/bob").await;
        let mut sessions = bob["sessions"]
            .as_array()
            .filter(|all| all.len() == NODES)?
            .iter();
        let session = sessions.find(|session| session["node"] == *held_by_0)?;
        session["session"].as_str().map(str::to_owned)
    })
    .await;
    let kick = format!("DELETE /api/v1/sessions/{session}");
    let (status, outcome) = cluster.gateway(1).api(&kick, None).await;
    assert_eq!((status, &outcome["hits"]), (200, &json!(1)), "{outcome}");
    expect_kicked(&mut bob.remove(0), "This session was ended by an operator").await;
    let (status, _) = cluster.gateway(1).api(&kick, None).await;
    assert_eq!(status, 404);

    // By a backend that knows only AMQP.
    for client in &mut bob {
        client.publish("/topic/anything", "still here").await;
    }
    let kick = json!({ "command": "kick", "user": "bob", "reason": "closed" });
    cluster
        .vhost
        .publish(CONTROL, "any", [kick.to_string()])
        .await;
    for client in &mut bob {
        expect_kicked(client, "closed").await;
    }
    cluster.until_online(&[0, 1, 2], &[]).await;
}

#[tokio::test]
async fn groups_are_asked_for_again_on_every_node() {
    let cluster = cluster().await;
    let _alice = everywhere(&cluster, "alice").await;
    let alice = ["alice".to_owned()];
    cluster.until_online(&[0, 1, 2], &alice).await;
    eventually(DEADLINE, "all her sessions are known", async || {
        let (_, alice) = cluster.presence(0, "users/alice").await;
        alice["sessions"]
            .as_array()
            .is_some_and(|all| all.len() == NODES)
    })
    .await;
    let groups = json!(["staff"]).to_string();
    cluster
        .hook
        .answer(Call::Groups, Answer::Status(200, groups));
    let refresh = "POST /api/v1/users/alice/groups";
    let (status, outcome) = cluster.gateway(1).api(refresh, None).await;
    assert_eq!(status, 200, "{outcome}");
    // She is out of the old group only when all of her sessions are.
    cluster.until_online(&[0, 1, 2], &[]).await;
    let (_, staff) = cluster.presence(0, "groups/staff").await;
    assert_eq!(
        staff["online"][0]["user"], "alice",
        "no more in {EVERYBODY}"
    );
}

/// Not by a token that may publish, either.
#[tokio::test]
async fn what_is_the_gateway_s_own_cannot_be_published_to() {
    let cluster = cluster().await;
    for (exchange, key, field) in [
        (CONTROL, "", "exchange"),
        ("presence", "user.alice", "exchange"),
        ("", "stentor.feed.node.0", "key"),
    ] {
        let message = json!({ "exchange": exchange, "key": key, "body": "{}" });
        let publish = cluster
            .gateway(0)
            .api("POST /api/v1/publish", Some(&message));
        let (status, refusal) = publish.await;
        assert_eq!(
            (status, &refusal["field"]),
            (400, &json!(field)),
            "{refusal}"
        );
    }
}

/// Other nodes are looked at as soon as a user has an eighth of its connections on one.
#[tokio::test]
async fn a_user_s_connections_are_counted_on_all_nodes() {
    let cluster = Cluster::open(|_, builder| builder.set("limits.max_user_connections", "8")).await;
    let mut alice = Vec::new();
    for _ in 0..8 {
        alice.push(cluster.tcp(0, "alice").await);
    }
    cluster
        .until_online(&[0, 1, 2], &["alice".to_owned()])
        .await;
    // The first on another node is not looked at, the second is.
    alice.push(cluster.tcp(1, "alice").await);
    let mut late = StompClient::tcp(cluster.gateway(1).stomp_address()).await;
    late.send(&cluster.balancer.login("alice").frame()).await;
    let error = late.expect_error("too many connections").await;
    assert_eq!(error.header("error-code"), Some("user-connections"));
    drop(cluster.tcp(1, "bob").await);
}

/// With Redis: a node that starts after the ban, or after Redis lost all, knows it.
#[tokio::test]
async fn a_ban_is_kept_in_redis_for_nodes_that_come_later() {
    let mut cluster = cluster().await;
    let mut alice = everywhere(&cluster, "alice").await;
    let ban = json!({ "user": "alice", "reason": "spam" });
    let (status, outcome) = cluster
        .gateway(1)
        .api("POST /api/v1/bans", Some(&ban))
        .await;
    assert_eq!(status, 200, "{outcome}");
    assert_eq!(
        (&outcome["reach"], &outcome["hits"]),
        (&json!("all_nodes"), &json!(3)),
        "{outcome}"
    );
    for client in &mut alice {
        let error = client.expect_error("banned").await;
        assert_eq!(error.body, "You are banned from this server: spam\n");
    }
    cluster.restart(0).await;
    expect_banned(&cluster, 0).await;

    // Redis forgets everything; the nodes do not, and write it down again.
    cluster.redis.command(&["FLUSHALL"]).await;
    eventually(DEADLINE, "the ban is in Redis again", async || {
        cluster.redis.command(&["HLEN", "stentor:bans"]).await == ":2"
    })
    .await;

    let lift = "DELETE /api/v1/bans?user=alice";
    let (status, outcome) = cluster.gateway(2).api(lift, None).await;
    assert_eq!((status, &outcome["hits"]), (200, &json!(3)), "{outcome}");
    cluster.restart(1).await;
    let _alice = everywhere(&cluster, "alice").await;
}

async fn expect_banned(cluster: &Cluster, node: usize) {
    eventually(DEADLINE, format!("node {node} knows the ban"), async || {
        let (_, bans) = cluster.gateway(node).api("GET /api/v1/bans", None).await;
        bans["bans"][0]["user"] == "alice"
    })
    .await;
    let mut client = StompClient::tcp(cluster.gateway(node).stomp_address()).await;
    client.send(&cluster.balancer.login("alice").frame()).await;
    client.expect_error("banned").await;
}
