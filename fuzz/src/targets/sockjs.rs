//! SockJS: payloads of clients, paths, callbacks; and texts to clients come back as they were.

use sockjs_server::protocol::{format::Format, frame, path};

use crate::{Choices, Target};

pub(super) const TARGET: Target = Target {
    name: "sockjs",
    words: &[
        b"[\"",
        b"\"]",
        b"\",\"",
        b"\\ud83d\\ude00",
        b"\\ud800",
        b"\\u0000",
        b"/000/a/xhr_send",
        b"/websocket",
        b"/info",
        b"/iframe-1.html",
        b"?c=%63allback",
        b"c=",
        b"d=%5B%5D",
        "\u{2028}\u{feff}\u{fff0}".as_bytes(),
    ],
    short: 150_000,
    run,
};

fn run(input: &[u8]) {
    let mut choices = Choices(input);
    let format = choices.byte();
    let bytes = choices.0;
    if let Ok(messages) = frame::decode(bytes) {
        let total: usize = messages.iter().map(|message| message.len()).sum();
        assert!(total <= bytes.len(), "no message is longer than its JSON");
    }
    let text = String::from_utf8_lossy(bytes);
    let mut quoted = String::new();
    frame::quote(&mut quoted, &text);
    let written = frame::messages(&quoted);
    // To a server, a frame of messages is `a` and a payload.
    let read = frame::decode(&written.as_bytes()[1..]).expect("it is a payload");
    assert_eq!(read, [text.as_bytes()], "a text comes back");
    let is_safe = |character: char| {
        character >= ' ' && !matches!(character, '\u{2028}' | '\u{2029}' | '\u{fff0}'..='\u{ffff}')
    };
    assert!(written.chars().all(is_safe), "{written:?}");
    let close = frame::close(3000, &text);
    let close: serde_json::Value = serde_json::from_str(&close[1..]).expect("JSON");
    assert_eq!(close[1], *text);

    let _ = path::route(&text);
    if let Ok(callback) = path::callback(Some(&text)) {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(
            callback.bytes().all(is_plain),
            "it becomes a script: {callback:?}"
        );
        if format % 2 == 0 {
            let wrapped = Format::HtmlFile(callback).wrap(&written);
            let ends = wrapped.to_ascii_lowercase().matches("</script").count();
            assert_eq!(ends, 1, "a text ends no script");
        }
    }
}
