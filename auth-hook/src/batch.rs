//! Many questions in one call: the gateway's own, and only where it is configured; RabbitMQ does
//! not ask so.
//!
//! The body of the POST, and that of its answer:
//!
//! ```json
//! {"questions": [{"call": "vhost", "parameters": {"username": "alice", "vhost": "/"}}]}
//! {"answers": ["allow"]}
//! ```
//!
//! The parameters are those of the call, and each answer is the text that the call alone would be
//! answered with, in the order of the questions. Where that answer would have headers that count,
//! it is `{"answer": "allow", "headers": {"x-username": "alice"}}`.

use form_urlencoded::Serializer;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::{AnswerError, Call};

/// A batch has so many questions at most.
pub const MAX_BATCH: usize = 1_000;

/// One question as it stands in a batch: what `form` holds (see [`crate::Question::encode`]), and
/// nothing else. Holds the password of a user call; keep it out of logs.
pub fn encode_in_batch(call: Call, form: &str) -> String {
    let pairs = form_urlencoded::parse(form.as_bytes());
    let parameters: Map<String, Value> = pairs
        .map(|(name, value)| (name.into_owned(), Value::String(value.into_owned())))
        .collect();
    serde_json::json!({ "call": call.name(), "parameters": parameters }).to_string()
}

/// The body of a call with these questions, each by [`encode_in_batch`].
pub fn encode_batch<'a>(questions: impl IntoIterator<Item = &'a str>) -> String {
    let mut body = String::from("{\"questions\":[");
    for (index, question) in questions.into_iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(question);
    }
    body.push_str("]}");
    body
}

/// A question of a batch, as the hook reads it. Has no `Debug`: it may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct BatchQuestion {
    /// Which call it stands for.
    pub call: Call,
    /// The parameters of that call, as a form: for [`crate::Question::parse`].
    pub form: String,
}

/// Reads the questions of a batch. A question that is none (of an unknown call, or with parameters
/// that are no texts) is `None`, which a hook denies.
///
/// # Errors
/// The body is no batch, or has too many questions; which, for the log.
pub fn parse_batch(body: &[u8]) -> Result<Vec<Option<BatchQuestion>>, &'static str> {
    let body: Value = serde_json::from_slice(body).map_err(|_| "the body is no JSON")?;
    let Some(questions) = body.get("questions").and_then(Value::as_array) else {
        return Err("the body has no array `questions`");
    };
    if questions.len() > MAX_BATCH {
        return Err("the batch has more than 1000 questions");
    }
    Ok(questions.iter().map(parse_question).collect())
}

fn parse_question(question: &Value) -> Option<BatchQuestion> {
    let name = question.get("call")?.as_str()?;
    let call = Call::CHECKS.into_iter().find(|call| call.name() == name)?;
    let mut form = Serializer::new(String::new());
    for (name, value) in question.get("parameters")?.as_object()? {
        form.append_pair(name, value.as_str()?);
    }
    let form = form.finish();
    Some(BatchQuestion { call, form })
}

/// The answer to one question of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchAnswer {
    /// What the call alone would be answered with: for [`crate::Answer::parse`].
    pub text: String,
    /// The headers that such an answer would have.
    pub headers: Vec<(String, String)>,
}

impl From<String> for BatchAnswer {
    fn from(text: String) -> Self {
        let headers = Vec::new();
        Self { text, headers }
    }
}

/// The body of the answer to a batch.
pub fn encode_batch_answers(answers: impl IntoIterator<Item = BatchAnswer>) -> String {
    let answers = answers.into_iter().map(|answer| {
        if answer.headers.is_empty() {
            return Value::String(answer.text);
        }
        let headers = answer.headers.into_iter();
        let headers: Map<_, _> = headers.map(|(name, value)| (name, value.into())).collect();
        serde_json::json!({ "answer": answer.text, "headers": headers })
    });
    serde_json::json!({ "answers": answers.collect::<Vec<_>>() }).to_string()
}

/// Reads the answer to a batch of so many questions: the HTTP status, and the body. An answer that
/// is neither a text nor an object with one is an error of its own, and refuses its question alone.
///
/// # Errors
/// [`BatchError`]: nothing of it can be used. If there are not as many answers as questions,
/// nobody knows which is whose.
pub fn parse_batch_answers(
    status: u16,
    body: &[u8],
    questions: usize,
) -> Result<Vec<Result<BatchAnswer, AnswerError>>, BatchError> {
    match status {
        200 | 201 => {}
        404 | 405 | 501 => return Err(BatchError::NoBatches(status)),
        _ => return Err(BatchError::Status(status)),
    }
    let mut body: Value = serde_json::from_slice(body).map_err(|_| BatchError::NoAnswers)?;
    let Some(Value::Array(answers)) = body.get_mut("answers").map(Value::take) else {
        return Err(BatchError::NoAnswers);
    };
    if answers.len() != questions {
        let got = answers.len();
        return Err(BatchError::Count { got, questions });
    }
    let answers = answers.into_iter();
    let none = AnswerError::Unknown("no text as the answer to a question of a batch");
    Ok(answers.map(|a| parse_answer(a).ok_or(none)).collect())
}

fn parse_answer(answer: Value) -> Option<BatchAnswer> {
    let mut answer = match answer {
        Value::String(text) => return Some(text.into()),
        Value::Object(answer) => answer,
        _ => return None,
    };
    let Some(Value::String(text)) = answer.remove("answer") else {
        return None;
    };
    let headers = match answer.remove("headers") {
        None => Map::new(),
        Some(Value::Object(headers)) => headers,
        // What it meant to say of the login would be lost.
        Some(_) => return None,
    };
    let header = |(name, value): (String, Value)| {
        let value = match value {
            Value::String(value) => value,
            Value::Number(value) => value.to_string(),
            _ => return None,
        };
        Some((name, value))
    };
    let headers = headers.into_iter().map(header).collect::<Option<_>>()?;
    Some(BatchAnswer { text, headers })
}

/// The reason why the answer to a batch breaks the contract. Shows nothing of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The hook has nothing there that takes batches.
    #[error(
        "it answered a batch with status {0}: it takes none there. Let it answer POST with \
         {{\"questions\": […]}} (docs/auth.md, \"Many questions in one call\"), or take \
         `batch_path` out of [auth]: then each question is a call of its own"
    )]
    NoBatches(u16),
    /// The status is neither 200 nor 201.
    #[error("it answered a batch with status {0}; the contract knows 200 and 201 only")]
    Status(u16),
    /// The body is no JSON object, or has no array `answers`.
    #[error("it answered a batch with something else than {{\"answers\": [\"allow\", …]}}")]
    NoAnswers,
    /// Not one answer for each question.
    #[error(
        "it gave {got} answers to a batch of {questions} questions, so that nobody knows which is \
         whose: give one for each, in the order of the questions"
    )]
    Count {
        /// Answers.
        got: usize,
        /// Questions.
        questions: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answers(status: u16, body: &str, questions: usize) -> Vec<Option<BatchAnswer>> {
        let answers = parse_batch_answers(status, body.as_bytes(), questions).unwrap();
        answers.into_iter().map(Result::ok).collect()
    }

    fn text(text: &str) -> Option<BatchAnswer> {
        Some(text.to_owned().into())
    }

    #[test]
    fn a_question_has_the_parameters_of_its_call() {
        let question = encode_in_batch(Call::Vhost, "ip=%C3%A9%22&username=al+ice&vhost=%2F&x=");
        assert_eq!(
            encode_batch([&*question]),
            "{\"questions\":[{\"call\":\"vhost\",\"parameters\":{\"ip\":\"é\\\"\",\
             \"username\":\"al ice\",\"vhost\":\"/\",\"x\":\"\"}}]}"
        );
        assert_eq!(encode_batch([]), "{\"questions\":[]}");
    }

    #[test]
    fn what_is_no_question_is_none_and_what_is_no_batch_an_error() {
        let body = br#"{"questions": [
            {"call": "user", "parameters": {"username": "a"}},
            {"call": "groups", "parameters": {}},
            {"call": "user", "parameters": {"username": 1}},
            {"call": "user"}, 7
        ], "more": 1}"#;
        let read = parse_batch(body).unwrap_or_default();
        let read: Vec<_> = read.iter().map(|q| q.as_ref().map(|q| &*q.form)).collect();
        assert_eq!(read, [Some("username=a"), None, None, None, None]);
        for body in ["", "[]", "{}", "{\"questions\":{}}", "username=a"] {
            assert!(parse_batch(body.as_bytes()).is_err(), "{body}");
        }
        let many = encode_batch(std::iter::repeat_n("1", MAX_BATCH + 1));
        assert!(parse_batch(many.as_bytes()).is_err());
    }

    #[test]
    fn answers_are_texts_or_objects_with_headers() {
        let body = r#"{"answers": ["allow ops", "deny", null, {"answer": "allow"},
            {"answer": "allow", "headers": {"x-username": "alice", "x-seconds": 60}},
            {"answer": "allow", "headers": []}, {"headers": {}},
            {"answer": "allow", "headers": {"a": true}}], "took": 1}"#;
        let headers = [("x-seconds", "60"), ("x-username", "alice")];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let with_headers = BatchAnswer {
            text: "allow".into(),
            headers: headers.into(),
        };
        let expected = [
            text("allow ops"),
            text("deny"),
            None,
            text("allow"),
            Some(with_headers),
            None,
            None,
            None,
        ];
        assert_eq!(answers(200, body, 8), expected);
        assert_eq!(answers(201, "{\"answers\":[]}", 0), []);
    }

    #[test]
    fn an_answer_that_fits_no_question_fits_none() {
        let parse = |status, body: &str| parse_batch_answers(status, body.as_bytes(), 2);
        let two = "{\"answers\":[\"allow\",\"allow\"]}";
        for status in [404, 405, 501] {
            assert_eq!(parse(status, two), Err(BatchError::NoBatches(status)));
        }
        for status in [204, 302, 500] {
            assert_eq!(parse(status, two), Err(BatchError::Status(status)));
        }
        for body in [
            "",
            "allow",
            "[\"allow\",\"allow\"]",
            "{}",
            "{\"answers\":1}",
        ] {
            assert_eq!(parse(200, body), Err(BatchError::NoAnswers), "{body}");
        }
        for (body, got) in [
            ("{\"answers\":[\"allow\"]}", 1),
            ("{\"answers\":[1,2,3]}", 3),
        ] {
            let questions = 2;
            assert_eq!(parse(200, body), Err(BatchError::Count { got, questions }));
        }
        let advice = BatchError::NoBatches(404).to_string();
        assert!(advice.contains("batch_path") && advice.contains("docs/auth.md"));
    }

    proptest! {
        #[test]
        fn questions_and_answers_come_back_as_they_were(
            questions in prop::collection::vec(
                (
                    any::<prop::sample::Index>(),
                    prop::collection::btree_map(".{0,9}", "(?s).{0,9}", 0..6),
                ),
                0..9,
            ),
        ) {
            let questions: Vec<_> = questions.into_iter().map(|(call, parameters)| {
                let form = Serializer::new(String::new()).extend_pairs(parameters).finish();
                BatchQuestion { call: *call.get(&Call::CHECKS), form }
            }).collect();
            let encoded: Vec<_> =
                questions.iter().map(|q| encode_in_batch(q.call, &q.form)).collect();
            let body = encode_batch(encoded.iter().map(String::as_str));
            let read = parse_batch(body.as_bytes()).unwrap_or_default();
            prop_assert!(read == questions.iter().cloned().map(Some).collect::<Vec<_>>());

            let given: Vec<BatchAnswer> =
                questions.iter().map(|question| question.form.clone().into()).collect();
            let body = encode_batch_answers(given.clone());
            let read: Vec<_> = given.into_iter().map(Ok).collect();
            prop_assert_eq!(parse_batch_answers(200, body.as_bytes(), questions.len()), Ok(read));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(body: Vec<u8>, questions in 0..3_usize) {
            let _ = parse_batch(&body);
            let _ = parse_batch_answers(200, &body, questions);
        }
    }
}
