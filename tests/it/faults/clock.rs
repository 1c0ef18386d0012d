//! The system's clock steps while the gateway serves: by a library that stands before the system's
//! own, for no test may set the clock of this machine.

use std::{
    fs,
    path::Path,
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;
use tempfile::TempDir;
use testkit::{DEADLINE, Hook, Login, Redis, StompClient, eventually};

use crate::house::{PASSCODE, stentor, vhost};

/// `clock_gettime`, for the clock of the day alone, with as many seconds added as a file says.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static volatile long long *offset;
static int (*real)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_OFFSET");
    int file = path ? open(path, O_RDONLY) : -1;
    void *map = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    offset = map == MAP_FAILED ? 0 : map;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, now);
    if (result == 0 && clock == CLOCK_REALTIME && offset) now->tv_sec += *offset;
    return result;
}
"#;

fn compile(folder: &Path) {
    fs::write(folder.join("clock.c"), SHIM).unwrap();
    let status = Command::new("cc")
        .current_dir(folder)
        .args(["-shared", "-fPIC", "-o", "clock.so", "clock.c", "-ldl"])
        .status()
        .expect("a C compiler");
    assert!(status.success());
}

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Forwards, backwards, and to before 1970: sessions, pushes, heart-beats, logins, presence and bans
/// go on.
#[tokio::test]
async fn the_clock_may_step() {
    let folder = TempDir::new().unwrap();
    compile(folder.path());
    let offset = folder.path().join("offset");
    let step = |seconds: i64| {
        // In place: it is mapped.
        use std::os::unix::fs::FileExt as _;
        let file = fs::OpenOptions::new().write(true).open(&offset).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    };
    fs::write(&offset, 0_i64.to_ne_bytes()).unwrap();

    let (vhost, hook, redis) = (vhost().await, Hook::start().await, Redis::own().await);
    let gateway = stentor()
        .vhost(&vhost)
        .hook(&hook)
        .set("presence.url", redis.url())
        .set("presence.lease", "3s")
        .env("LD_PRELOAD", folder.path().join("clock.so").display())
        .env("CLOCK_OFFSET", offset.display())
        .ready()
        .await;
    let login = |user: &str| {
        let mut login = Login::new(user, PASSCODE, vhost.name());
        login.headers.push(("heart-beat", "0,1000".to_owned()));
        login
    };
    let mut alice = StompClient::tcp(gateway.stomp_address()).await;
    alice.connect(&login("alice")).await;
    alice.subscribe("1", "/exchange/feed/alice").await;
    let ban = json!({ "user": "mallory", "seconds": 2 * HOUR, "reason": "a test" });
    let (status, answer) = gateway.api("POST /api/v1/bans", Some(&ban)).await;
    assert!(status < 300, "{status} {answer}");

    // The last one is a machine that lost its clock, and takes it for 1970.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let lost = 5 - i64::try_from(now.as_secs()).unwrap();
    for (number, seconds) in [HOUR, 400 * DAY, -400 * DAY, lost, 0]
        .into_iter()
        .enumerate()
    {
        step(seconds);
        let body = number.to_string();
        vhost.publish("feed", "alice", [&body]).await;
        alice.expect_message(&body).await;
        assert!(alice.expect_beat().await, "heart-beats go on");
        let mut bob = StompClient::ws(&gateway.ws_url()).await;
        bob.connect(&login("bob")).await;
        bob.subscribe("1", "/exchange/feed/bob").await;
        bob.publish("/exchange/feed/bob", "hello").await;
        bob.disconnect().await;
        let ended = gateway.until_events("connection closed", number + 1).await;
        let logged = ended.last().and_then(|event| event["timestamp"].as_str());
        let logged = humantime::parse_rfc3339(logged.unwrap()).unwrap();
        let logged = logged.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let here = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let stepped = here.as_secs().saturating_add_signed(seconds);
        assert!(logged.abs_diff(stepped) < 60, "the clock has stepped");
        for what in [
            "GET /api/v1/node",
            "GET /api/v1/sessions",
            "GET /api/v1/bans",
        ] {
            assert_eq!(gateway.api(what, None).await.0, 200, "{what}");
        }
        eventually(DEADLINE, "alice is here", async || {
            let (status, user) = gateway.api("GET /api/v1/users/alice", None).await;
            status == 200
                && user["sessions"]
                    .as_array()
                    .is_some_and(|all| all.len() == 1)
        })
        .await;
        assert_eq!(gateway.admin("/readyz").await.0, 200);
        assert_eq!(gateway.admin("/metrics").await.0, 200);
    }
    // It is as it was: the ban holds.
    let mut mallory = StompClient::tcp(gateway.stomp_address()).await;
    mallory.send(&login("mallory").frame()).await;
    let refused = mallory.expect_frame().await;
    assert_eq!(refused.command, stomp_grammar::Command::Error);
    let log = gateway.log().text();
    assert!(!log.contains("panicked"), "{log}");
    alice.disconnect().await;
}
