//! Answers of the hook, alone and in batches; and questions to one.

use auth_hook::{Answer, Call, Question};

use crate::{Choices, Target};

pub(super) const TARGET: Target = Target {
    name: "hook",
    words: &[
        b"allow",
        b"deny",
        b"allow management administrator",
        b"{\"answers\":[",
        b"\"allow\"",
        b"{\"answer\":\"allow\",\"headers\":{\"x-username\":\"a\"}}",
        b"]}",
        b"username=a&vhost=%2F",
        b"&resource=topic&name=a&permission=write&routing_key=a",
        b"null",
        b"%00",
        b"+",
    ],
    short: 150_000,
    run,
};

const CALLS: [Call; 5] = [
    Call::User,
    Call::Vhost,
    Call::Resource,
    Call::Topic,
    Call::Groups,
];

fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let call = CALLS[choices.below(CALLS.len())];
    let status = [200, 201, 204, 404, 500][choices.below(5)];
    let questions = choices.below(5);
    let body = choices.0;
    if let Ok(answer) = Answer::parse(call, status, body) {
        assert!(matches!(status, 200 | 201), "{status} is no answer");
        let written = answer.to_string();
        assert!(!written.contains(['\n', '\r']) || matches!(answer, Answer::Deny { .. }));
        let again = Answer::parse(call, 200, written.as_bytes());
        assert_eq!(again.as_ref(), Ok(&answer), "it comes back");
        if matches!(answer, Answer::Allow { .. }) {
            let begins = String::from_utf8_lossy(body).trim().to_ascii_lowercase();
            assert!(begins.starts_with("allow"), "nothing else lets anybody in");
        }
    }
    if let Ok(answers) = auth_hook::parse_batch_answers(status, body, questions) {
        assert_eq!(answers.len(), questions, "each question has its own");
    }
    if let Ok(asked) = auth_hook::parse_batch(body) {
        assert!(asked.len() <= body.len());
    }
    if let Ok(question) = Question::parse(call, body) {
        let written = question.encode();
        let again = Question::parse(call, written.as_bytes());
        assert_eq!(again.as_ref(), Ok(&question), "it comes back");
    }
}
