//! How each transport over HTTP wraps a frame.

use super::frame;
use crate::Transport;

/// The form of an answer by which a client receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    /// One frame.
    XhrPolling,
    /// Frame after frame.
    XhrStreaming,
    /// Frame after frame, as server-sent events.
    EventSource,
    /// Frame after frame, as scripts in a page; with the name of the function that they call.
    HtmlFile(Box<str>),
    /// One frame, as a script; with the name of the function that it calls.
    Jsonp(Box<str>),
}

impl Format {
    /// Its transport.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self {
            Self::XhrPolling => Transport::XhrPolling,
            Self::XhrStreaming => Transport::XhrStreaming,
            Self::EventSource => Transport::Eventsource,
            Self::HtmlFile(_) => Transport::Htmlfile,
            Self::Jsonp(_) => Transport::JsonpPolling,
        }
    }

    /// Whether an answer takes more than one frame.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        !matches!(self, Self::XhrPolling | Self::Jsonp(_))
    }

    /// The `content-type` header.
    #[must_use]
    pub fn content_type(&self) -> &'static str {
        match self {
            Self::XhrPolling | Self::XhrStreaming | Self::Jsonp(_) => {
                "application/javascript; charset=UTF-8"
            }
            Self::EventSource => "text/event-stream",
            Self::HtmlFile(_) => "text/html; charset=UTF-8",
        }
    }

    /// The beginning of a streaming answer. It is long because browsers hand over nothing of an
    /// answer until they have so much of it.
    #[must_use]
    pub fn prelude(&self) -> Option<String> {
        match self {
            Self::XhrPolling | Self::Jsonp(_) => None,
            Self::XhrStreaming => {
                let mut prelude = "h".repeat(2048);
                prelude.push('\n');
                Some(prelude)
            }
            // Opera needs it.
            Self::EventSource => Some("\r\n".to_owned()),
            Self::HtmlFile(callback) => {
                let mut page = HTML_FILE.replace("CALLBACK", callback);
                let missing = 1024_usize.saturating_sub(page.len());
                page.extend(std::iter::repeat_n(' ', missing));
                page.push_str("\r\n\r\n");
                Some(page)
            }
        }
    }

    /// A frame as it is sent.
    #[must_use]
    pub fn wrap(&self, frame: &str) -> String {
        match self {
            Self::XhrPolling | Self::XhrStreaming => format!("{frame}\n"),
            // sockjs-client undoes escapes of URLs in it, whatever the message.
            Self::EventSource => format!("data: {}\r\n\r\n", frame.replace('%', "%25")),
            Self::HtmlFile(_) => {
                // Otherwise a message with `</script>` could end the script, and begin its own.
                let text = quoted(frame).replace('<', "\\u003c");
                format!("<script>\np({text});\n</script>\r\n")
            }
            // With a comment before it, it cannot be taken for a Flash file, whose first letters
            // a page could choose by the callback.
            Self::Jsonp(callback) => format!("/**/{callback}({});\r\n", quoted(frame)),
        }
    }
}

const HTML_FILE: &str = r#"<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.CALLBACK;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>
"#;

fn quoted(text: &str) -> String {
    let mut out = String::new();
    frame::quote(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transport_has_its_own_wrapping() {
        let frame = r#"a["x"]"#;
        for (format, expected) in [
            (Format::XhrPolling, "a[\"x\"]\n"),
            (Format::XhrStreaming, "a[\"x\"]\n"),
            (Format::EventSource, "data: a[\"x\"]\r\n\r\n"),
            (
                Format::HtmlFile("cb".into()),
                "<script>\np(\"a[\\\"x\\\"]\");\n</script>\r\n",
            ),
            (Format::Jsonp("cb".into()), "/**/cb(\"a[\\\"x\\\"]\");\r\n"),
        ] {
            assert_eq!(format.wrap(frame), expected);
            assert_eq!(format.is_streaming(), format.prelude().is_some());
        }
    }

    #[test]
    fn browsers_are_given_enough_to_begin_with() {
        let prelude = Format::XhrStreaming.prelude().unwrap();
        assert_eq!(prelude, format!("{}\n", "h".repeat(2048)));
        assert_eq!(Format::EventSource.prelude().unwrap(), "\r\n");
        for name in ["c", "a.name-of_100.characters"] {
            let page = Format::HtmlFile(name.into()).prelude().unwrap();
            assert!(page.len() > 1024, "{}", page.len());
            assert!(page.contains(&format!("var c = parent.{name};\n")));
            assert!(page.trim_end().ends_with("</script>"));
        }
    }

    #[test]
    fn a_percent_sign_survives_the_client() {
        assert_eq!(
            Format::EventSource.wrap("a[\"100% %41\"]"),
            "data: a[\"100%25 %2541\"]\r\n\r\n"
        );
    }

    #[test]
    fn a_message_cannot_leave_its_script() {
        let mut message = String::from("a[");
        frame::quote(&mut message, "</script><script>alert(1)//");
        message.push(']');
        let script = Format::HtmlFile("c".into()).wrap(&message);
        assert_eq!(script.matches('<').count(), 2, "{script}");
    }
}
