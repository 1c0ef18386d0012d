//! Many questions in one call.

use futures_util::future::join_all;

use super::*;
use crate::auth::http::batch::{MOST_IN_VAIN, spare_calls};

/// A hook whose calls are all batches, and its authenticator; calls wait for a permit each.
fn at_batches(hook: &Hook, size: usize) -> HttpAuthenticator {
    let config = Config {
        batch_path: Some(format!("{}/batch?token=1", hook.url)),
        batch_size: size,
        max_calls: 1,
        ..Config::default()
    };
    HttpAuthenticator::new(&config).unwrap()
}

fn questions(body: &str) -> usize {
    body.matches("\"call\":").count()
}

/// Answers `allow` to all.
fn allow(request: &hook::Request) -> Reply {
    let answers = vec!["\"allow\""; questions(&request.body)].join(",");
    Reply::Text(200, format!("{{\"answers\":[{answers}]}}"))
}

#[tokio::test]
async fn the_parameters_are_those_of_the_single_calls() {
    let hook = Hook::start(allow).await;
    make_all_calls(&at_batches(&hook, 50)).await;
    let requests = hook.requests();
    assert_eq!(
        requests.len(),
        CALLS.len(),
        "nothing gathers: no call waits"
    );
    for (request, (path, parameters)) in requests.iter().zip(CALLS) {
        assert_eq!(request.line, "POST /batch?token=1 HTTP/1.1");
        assert_eq!(request.header("content-type"), Some("application/json"));
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let expected: serde_json::Map<_, _> = form_urlencoded::parse(parameters.as_bytes())
            .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
            .collect();
        let call = path.trim_start_matches('/');
        let question = serde_json::json!({ "call": call, "parameters": expected });
        assert_eq!(body, serde_json::json!({ "questions": [question] }));
    }
}

#[tokio::test]
async fn what_gathers_goes_together_and_each_gets_its_own_answer() {
    let hook = Hook::start(|request: &hook::Request| {
        let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
        let questions = body["questions"].as_array().unwrap().iter();
        let answers =
            questions.map(
                |question| match question["parameters"]["routing_key"].as_str() {
                    Some("denied") => "deny not yours".into(),
                    Some("odd") => "yes".into(),
                    Some("number") => 7.into(),
                    _ => serde_json::Value::from("allow"),
                },
            );
        let answers: Vec<_> = answers.collect();
        Reply::Text(200, serde_json::json!({ "answers": answers }).to_string())
    })
    .await;
    let authenticator = at_batches(&hook, 4);
    let keys = ["a", "denied", "b", "odd", "c", "number", "d"];
    let answers = join_all(keys.map(|key| {
        let authenticator = &authenticator;
        async move {
            let user = User::new(format!("of {key}"), "");
            authenticator.allow(&user, &topic("feed", key)).await
        }
    }))
    .await;
    let sizes: Vec<_> = hook.requests().iter().map(|r| questions(&r.body)).collect();
    assert_eq!(sizes, [1, 4, 2]);
    for (key, answer) in keys.iter().zip(answers) {
        match (*key, answer) {
            ("denied", Err(Refusal::Denied(Some(reason)))) => assert_eq!(&*reason, "not yours"),
            ("odd", Err(Refusal::Faulty(why))) => assert!(why.contains("`yes`"), "{why}"),
            ("number", Err(Refusal::Faulty(why))) => assert!(why.contains("no text"), "{why}"),
            (_, answer) => assert_eq!(answer, Ok(()), "{key}"),
        }
    }
}

/// The whole batch is refused: nobody knows which answer is whose.
#[tokio::test]
async fn a_batch_without_an_answer_for_each_is_refused_and_the_next_step_said() {
    for (reply, why) in [
        (Reply::Status(404, ""), "take `batch_path` out of [auth]"),
        (Reply::Status(405, ""), "Many questions in one call"),
        (Reply::Status(501, ""), "takes none there"),
        (Reply::Status(500, ""), "status 500"),
        (Reply::ok("allow"), "something else than"),
        (Reply::ok("{\"answers\":[]}"), "0 answers to a batch of 1"),
        (
            Reply::ok("{\"answers\":[\"allow\",\"allow\"]}"),
            "2 answers to a batch of 1",
        ),
    ] {
        let hook = Hook::start(move |_| reply.clone()).await;
        let authenticator = at_batches(&hook, 50);
        let refusal = authenticator.user(&login()).await.unwrap_err();
        assert!(
            matches!(&refusal, Refusal::Faulty(text) if text.contains(why)),
            "{refusal}"
        );
        let paths: Vec<_> = hook.requests().into_iter().map(|r| r.line).collect();
        let only = "POST /batch?token=1 HTTP/1.1";
        assert_eq!(paths, [only], "no other way is tried");
    }
}

/// The answers to these keys, each asked for by a user of its own. The first goes alone.
async fn ask_for_each(hook: &Hook, keys: &[String]) -> Vec<Result<(), Refusal>> {
    let authenticator = at_batches(hook, 50);
    let answers = keys.iter().map(async |key| {
        let user = User::new(format!("of {key}"), "");
        authenticator.allow(&user, &topic("feed", key)).await
    });
    join_all(answers).await
}

fn keys(count: usize, poison: &[usize]) -> Vec<String> {
    let key = |number: usize| match poison.contains(&number) {
        true => format!("poison-{number}"),
        false => format!("key-{number}"),
    };
    (0..count).map(key).collect()
}

/// What one client asks may make the hook fail; the others of its batch are other clients.
#[tokio::test]
async fn a_question_over_which_the_hook_stumbles_refuses_no_other() {
    let broken = [
        Reply::Status(500, "oops"),
        Reply::ok("{\"answers\":"),
        Reply::ok("{\"answers\":[]}"),
    ];
    for broken in broken {
        for poison in [&[1][..], &[6], &[10], &[2, 9]] {
            let reply = broken.clone();
            let hook =
                Hook::start(
                    move |request: &hook::Request| match request.body.contains("poison") {
                        true => reply.clone(),
                        false => allow(request),
                    },
                )
                .await;
            let keys = keys(11, poison);
            for (key, answer) in keys.iter().zip(ask_for_each(&hook, &keys).await) {
                match key.starts_with("poison") {
                    true => assert!(matches!(answer, Err(Refusal::Faulty(_))), "{answer:?}"),
                    // To find two there are not always calls enough.
                    false if poison.len() > 1 => {}
                    false => assert_eq!(answer, Ok(()), "{key} {broken:?}"),
                }
            }
            let calls = hook.requests().len();
            assert!(calls <= 2 + spare_calls(10), "{calls} calls");
        }
    }
}

/// A hook that is down is not asked several times as often.
#[tokio::test]
async fn a_hook_that_fails_whatever_it_is_asked_is_soon_left_alone() {
    for (reply, most) in [
        (Reply::Status(500, "oops"), MOST_IN_VAIN),
        (Reply::Status(503, "busy"), 1),
        (Reply::Status(404, "no"), 1),
    ] {
        let answer = reply.clone();
        let hook = Hook::start(
            move |request: &hook::Request| match questions(&request.body) {
                1 => allow(request),
                _ => answer.clone(),
            },
        )
        .await;
        let keys = keys(50, &[]);
        let answers = ask_for_each(&hook, &keys).await;
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        let calls = hook.requests().len() - 1;
        assert_eq!(calls, most, "{reply:?}");
    }
    assert_eq!(
        [0, 1, 2, 3, 50, 64, 1_000].map(spare_calls),
        [0, 0, 2, 4, 12, 12, 20]
    );
}

#[tokio::test]
async fn a_login_has_its_headers_in_its_answer() {
    let hook = Hook::start(|request: &hook::Request| {
        let headers = if request.body.contains("odd") {
            "{\"x-username\": \"a\\nb\"}"
        } else {
            "{\"X-Username\": \"alice\", \"x-seconds\": 60}"
        };
        let answer = format!("{{\"answer\": \"allow ops\", \"headers\": {headers}}}");
        Reply::Text(200, format!("{{\"answers\":[{answer}]}}"))
    })
    .await;
    let config = Config {
        batch_path: Some(hook.url.clone()),
        username_header: Some("x-username".into()),
        lifetime_header: Some("x-seconds".into()),
        ..Config::default()
    };
    let authenticator = HttpAuthenticator::new(&config).unwrap();
    let admission = authenticator.log_in(&login()).await.unwrap();
    assert_eq!(admission.user, User::new("alice", "ops"));
    assert_eq!(admission.lifetime, Some(Duration::from_secs(60)));
    let odd = Login {
        user: "odd".into(),
        ..login()
    };
    let refusal = authenticator.log_in(&odd).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Faulty(_)), "{refusal}");
}

/// The first of a batch gives up; the others get their answers.
#[tokio::test]
async fn who_goes_away_takes_nobodys_answer_along() {
    let hook = Hook::start(allow).await;
    let authenticator = Arc::new(at_batches(&hook, 50));
    let ask = |name: &'static str| {
        let authenticator = Arc::clone(&authenticator);
        async move {
            let user = User::new(name, "");
            authenticator.allow(&user, &topic("feed", name)).await
        }
    };
    let mut first = Box::pin(ask("first"));
    assert!(futures_util::poll!(&mut first).is_pending());
    let mut second = Box::pin(ask("second"));
    assert!(futures_util::poll!(&mut second).is_pending());
    let mut third = Box::pin(ask("third"));
    assert!(futures_util::poll!(&mut third).is_pending());
    drop((first, second));
    assert_eq!(third.await, Ok(()));
    let bodies: Vec<_> = hook.requests().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies.len(), 2);
    assert!(!bodies[1].contains("second"), "{bodies:?}");
}

/// Waiting is bounded, and so is the call.
#[tokio::test]
async fn a_hook_that_hangs_refuses_within_the_time_outs() {
    let hook = Hook::start(|_| Reply::Hang).await;
    let config = Config {
        batch_path: Some(hook.url.clone()),
        max_calls: 1,
        request_timeout: Duration::from_millis(200),
        ..Config::default()
    };
    let authenticator = HttpAuthenticator::new(&config).unwrap();
    let refusal = authenticator.user(&login()).await.unwrap_err();
    assert!(
        matches!(&refusal, Refusal::Faulty(why) if why.contains("200ms")),
        "{refusal}"
    );
}
