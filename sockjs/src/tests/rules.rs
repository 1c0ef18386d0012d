//! Pages, headers, and what each transport looks like.

use super::*;

const NOT_KEPT: &str = "no-store, no-cache, no-transform, must-revalidate, max-age=0";

#[tokio::test]
async fn a_service_greets() {
    let server = server(Does::Echo).await;
    for path in ["/echo", "/echo/", "/echo?x"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, &*reply.body), (200, "Welcome to SockJS!\n"));
        assert_eq!(
            reply.header("content-type"),
            Some("text/plain; charset=UTF-8")
        );
        assert_eq!(reply.header("set-cookie"), None);
    }
    for path in [
        "/echo/a",
        "/echo//",
        "/echo/a/a/",
        "/echo/iframe.htm",
        "/echo/a./a/xhr",
    ] {
        assert_eq!(server.get(path).await.status, 404, "{path}");
        assert_eq!(server.post(path, "").await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn the_iframe_is_kept_for_long() {
    let server = server(Does::Echo).await;
    let mut tags = Vec::new();
    for path in ["/iframe.html", "/iframe-0.1.html", "/iframe-a.html?t=1"] {
        let reply = server.get(&format!("/echo{path}")).await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("content-type"),
            Some("text/html; charset=UTF-8")
        );
        assert_eq!(
            reply.header("cache-control"),
            Some("public, max-age=31536000")
        );
        assert_eq!(reply.header("content-security-policy"), None);
        assert!(reply.header("expires").is_some() && reply.header("last-modified").is_none());
        assert!(
            reply
                .body
                .contains("<script src=\"https://cdn.jsdelivr.net/")
        );
        tags.push(reply.header("etag").unwrap().to_owned());
    }
    tags.dedup();
    assert_eq!(tags.len(), 1);
    let known = [("if-none-match", &*tags[0])];
    let reply = ask(&server, "GET", "/echo/iframe.html", &known, b"").await;
    assert_eq!((reply.status, &*reply.body), (304, ""));
    assert_eq!(reply.header("content-type"), None);
}

/// Or a browser would go by an old one for a year.
#[test]
fn a_policy_of_who_may_show_the_iframe_is_asked_for_each_time() {
    let iframe = |known: Option<&HeaderValue>, policy: &'static str| {
        let policy = HeaderValue::from_static(policy);
        answer::iframe("/sockjs.js", known, Some(policy))
    };
    let (own, more) = (
        "frame-ancestors 'self'",
        "frame-ancestors 'self' https://app.example.com",
    );
    let first = iframe(None, own);
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(first.headers()["cache-control"], "public, no-cache");
    assert!(!first.headers().contains_key("expires"));
    assert_eq!(first.headers()["content-security-policy"], own);
    let tag = first.headers().get("etag");
    let same = iframe(tag, own);
    assert_eq!(same.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(same.headers()["content-security-policy"], own);
    let changed = iframe(tag, more);
    assert_eq!(changed.status(), StatusCode::OK);
    assert_eq!(changed.headers()["content-security-policy"], more);
}

#[tokio::test]
async fn info_says_what_there_is() {
    let server = server_with(Does::Echo, |options| {
        options.cookie = true;
        options
            .transports
            .retain(|transport| *transport != Transport::Websocket);
    })
    .await;
    let mut entropies = Vec::new();
    for _ in 0..2 {
        let reply = server.get("/echo/info").await;
        assert_eq!(reply.status, 200);
        assert_eq!(
            reply.header("content-type"),
            Some("application/json; charset=UTF-8")
        );
        assert_eq!(reply.header("cache-control"), Some(NOT_KEPT));
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        assert_eq!(reply.header("set-cookie"), None);
        let info: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
        assert_eq!(info["websocket"], false);
        assert_eq!(info["cookie_needed"], true);
        assert_eq!(info["origins"], serde_json::json!(["*:*"]));
        entropies.push(info["entropy"].as_u64().unwrap());
    }
    assert!(entropies[0] != entropies[1] && entropies[0] < 1 << 32);
    // What is switched off is not there.
    for path in ["/echo/websocket", "/echo/0/0/websocket"] {
        assert_eq!(server.get(path).await.status, 404);
    }
}

#[tokio::test]
async fn browsers_of_other_origins_may_ask() {
    let server = server(Does::Echo).await;
    for (path, methods) in [
        ("info", "OPTIONS, GET"),
        ("a/a/xhr", "OPTIONS, POST"),
        ("a/a/xhr_send", "OPTIONS, POST"),
        ("a/a/xhr_streaming", "OPTIONS, POST"),
    ] {
        for (origin, credentials) in [
            (Some("https://app.example.com"), Some("true")),
            (Some("null"), Some("true")),
            (None, None),
        ] {
            let mut headers = vec![("access-control-request-headers", "a, b, c")];
            headers.extend(origin.map(|origin| ("origin", origin)));
            let path = format!("/echo/{path}");
            let reply = ask(&server, "OPTIONS", &path, &headers, b"").await;
            assert_eq!((reply.status, &*reply.body), (204, ""));
            for (name, value) in [
                ("access-control-allow-origin", origin.or(Some("*"))),
                ("access-control-allow-credentials", credentials),
                ("access-control-allow-headers", Some("a, b, c")),
                ("access-control-allow-methods", Some(methods)),
                ("access-control-max-age", Some("31536000")),
                ("cache-control", Some("public, max-age=31536000")),
            ] {
                assert_eq!(reply.header(name), value, "{name}");
            }
            assert!(reply.header("expires").is_some());
        }
    }
}

#[tokio::test]
async fn wrong_methods_are_told_the_right_one() {
    let server = server(Does::Echo).await;
    for (method, path, allow) in [
        ("POST", "info", "OPTIONS, GET"),
        ("GET", "a/a/xhr", "OPTIONS, POST"),
        ("GET", "a/a/xhr_send", "OPTIONS, POST"),
        ("POST", "a/a/eventsource", "OPTIONS, GET"),
        ("POST", "a/a/jsonp?c=a", "GET"),
        ("GET", "a/a/jsonp_send", "POST"),
        ("POST", "a/a/websocket", "GET"),
        ("POST", "websocket", "GET"),
    ] {
        let reply = ask(&server, method, &format!("/echo/{path}"), &[], b"").await;
        assert_eq!((reply.status, &*reply.body), (405, ""), "{path}");
        assert_eq!(reply.header("allow"), Some(allow), "{path}");
        assert_eq!(reply.header("content-type"), None, "{path}");
    }
}

#[tokio::test]
async fn polling_receives_a_frame_at_a_time() {
    let server = server(Does::Echo).await;
    let url = "/echo/000/polling";
    let origin = [("origin", "https://app.example.com")];
    let mut stream = Stream::connect(&server).await;
    let reply = stream
        .ask("POST", &format!("{url}/xhr"), &origin, b"")
        .await;
    assert_eq!((reply.status, &*reply.body), (200, "o\n"));
    for (name, value) in [
        ("content-type", "application/javascript; charset=UTF-8"),
        ("cache-control", NOT_KEPT),
        ("access-control-allow-origin", "https://app.example.com"),
        ("access-control-allow-credentials", "true"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert_eq!(reply.header("set-cookie"), None);
    // Another server's part of the path is the same session.
    let reply = server.post("/echo/999/polling/xhr_send", "[\"x\"]").await;
    assert_eq!((reply.status, &*reply.body), (204, ""));
    assert_eq!(
        reply.header("content-type"),
        Some("text/plain; charset=UTF-8")
    );
    assert_eq!(reply.header("cache-control"), Some(NOT_KEPT));
    // On the same connection, which is kept.
    let reply = stream.ask("POST", &format!("{url}/xhr"), &[], b"").await;
    assert_eq!(reply.body, "a[\"x\"]\n");
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn streaming_sends_each_frame_by_itself() {
    let server = server(Does::Echo).await;
    let mut stream = Stream::open(&server, "POST", "/echo/000/s/xhr_streaming").await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.headers["cache-control"], NOT_KEPT);
    let prelude = format!("{}\n", "h".repeat(2048));
    assert_eq!(stream.part().await.unwrap(), prelude);
    assert_eq!(stream.part().await.unwrap(), "o\n");
    // It ends after 4,096 bytes, the prelude not counted: 2 and 31 times 134.
    let text = "x".repeat(128);
    for _ in 0..31 {
        server.send("s", &format!("[\"{text}\"]")).await;
        assert_eq!(stream.part().await.unwrap(), format!("a[\"{text}\"]\n"));
    }
    assert_eq!(stream.part().await, None);
    // And goes on by the next, on the same connection.
    server.send("s", "[\"more\"]").await;
    stream
        .begin("POST", "/echo/000/s/xhr_streaming", &[], b"")
        .await;
    stream.hear_head().await;
    assert_eq!(stream.part().await.unwrap(), prelude);
    assert_eq!(stream.part().await.unwrap(), "a[\"more\"]\n");
}

#[tokio::test]
async fn events_are_framed() {
    let server = server(Does::Echo).await;
    let mut stream = Stream::open(&server, "GET", "/echo/000/e/eventsource").await;
    assert_eq!(stream.headers["content-type"], "text/event-stream");
    assert_eq!(stream.part().await.unwrap(), "\r\n");
    assert_eq!(stream.part().await.unwrap(), "data: o\r\n\r\n");
    server.send("e", "[\"  \\u0000\\n\\r \"]").await;
    let expected = "data: a[\"  \\u0000\\n\\r \"]\r\n\r\n";
    assert_eq!(stream.part().await.unwrap(), expected);
    let long = "x".repeat(4096);
    server.send("e", &format!("[\"{long}\"]")).await;
    assert_eq!(
        stream.part().await.unwrap(),
        format!("data: a[\"{long}\"]\r\n\r\n")
    );
    assert_eq!(stream.part().await, None);
}

#[tokio::test]
async fn a_page_grows_by_scripts() {
    let server = server(Does::Echo).await;
    let mut stream = Stream::open(&server, "GET", "/echo/000/h/htmlfile?c=%63allback").await;
    assert_eq!(stream.headers["content-type"], "text/html; charset=UTF-8");
    let head = stream.part().await.unwrap();
    assert!(head.len() > 1024 && head.contains("var c = parent.callback;\n"));
    let script = |frame: &str| format!("<script>\np({frame});\n</script>\r\n");
    assert_eq!(stream.part().await.unwrap(), script("\"o\""));
    server.send("h", "[\"x\"]").await;
    assert_eq!(stream.part().await.unwrap(), script(r#""a[\"x\"]""#));
    server.send("h", "[\"</script>\"]").await;
    let escaped = r#""a[\"\u003c/script>\"]""#;
    assert_eq!(stream.part().await.unwrap(), script(escaped));
}

#[tokio::test]
async fn scripts_receive_and_forms_send() {
    let server = server(Does::Echo).await;
    let url = "/echo/000/j";
    let reply = server.get(&format!("{url}/jsonp?c=%63b")).await;
    assert_eq!(reply.body, "/**/cb(\"o\");\r\n");
    assert_eq!(
        reply.header("content-type"),
        Some("application/javascript; charset=UTF-8")
    );
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let send = format!("{url}/jsonp_send");
    for (body, status, expected) in [
        ("d=%5B%22x+y%22%5D", 200, "ok"),
        ("d=%5B%5D", 200, "ok"),
        ("d=%5B%22x", 500, "Broken JSON encoding."),
        ("d=%5B%22%ff%22%5D", 500, "Broken JSON encoding."),
        ("", 500, "Payload expected."),
        ("d=", 500, "Payload expected."),
        ("p=p", 500, "Payload expected."),
    ] {
        let reply = ask(&server, "POST", &send, &form, body.as_bytes()).await;
        assert_eq!((reply.status, &*reply.body), (status, expected), "{body}");
        assert_eq!(
            reply.header("content-type"),
            Some("text/plain; charset=UTF-8")
        );
    }
    let plain = [("content-type", "text/plain")];
    let reply = ask(&server, "POST", &send, &plain, b"[\"%61bc\"]").await;
    assert_eq!((reply.status, &*reply.body), (200, "ok"));
    let reply = server.get(&format!("{url}/jsonp?c=cb")).await;
    assert_eq!(reply.body, "/**/cb(\"a[\\\"x y\\\",\\\"%61bc\\\"]\");\r\n");
    for transport in ["jsonp", "htmlfile"] {
        for (query, text) in [
            ("", "\"callback\" parameter required"),
            ("?c=", "\"callback\" parameter required"),
            ("?c=abc%28", "invalid \"callback\" parameter"),
        ] {
            let reply = server.get(&format!("/echo/a/a/{transport}{query}")).await;
            assert_eq!((reply.status, &*reply.body), (500, text));
        }
    }
}

#[tokio::test]
async fn what_is_sent_is_checked() {
    let server = server(Does::Echo).await;
    let unknown = server.post("/echo/000/nobody/xhr_send", "[\"x\"]").await;
    assert_eq!(unknown.status, 404);
    server.open("c").await;
    let path = "/echo/000/c/xhr_send";
    for (body, text) in [
        ("", "Payload expected."),
        ("{}", "Payload expected."),
        ("[\"x", "Broken JSON encoding."),
    ] {
        let reply = server.post(path, body).await;
        assert_eq!((reply.status, &*reply.body), (500, text), "{body}");
    }
    // In bytes of JSON, and of one message.
    let most = 6 * 16 * 1024 + 16 * 1024;
    let reply = server.post(path, &"x".repeat(most + 1)).await;
    assert_eq!(reply.status, 413);
    let long = format!("[\"{}\"]", "x".repeat(16 * 1024 + 16 * 1024 + 1));
    let reply = server.post(path, &long).await;
    assert_eq!(
        (reply.status, &*reply.body),
        (413, "More than 16384 bytes in a message.")
    );
    server.send("c", "[]").await;
    // In any pieces.
    let mut stream = Stream::connect(&server).await;
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n");
    stream.write(head.as_bytes()).await;
    for piece in ["2\r\n[\"\r\n", "3\r\na\"]\r\n", "0\r\n\r\n"] {
        stream.write(piece.as_bytes()).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(stream.hear().await.status, 204);
    assert_eq!(server.poll("c").await, "a[\"a\"]\n");
}

/// However many bytes its characters take on the way.
#[tokio::test]
async fn the_longest_message_is_taken_by_each_transport() {
    let server = server(Does::Echo).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for (id, character) in [("a", "\\u0001"), ("b", "\\ud83d\\ude00"), ("c", "\\n")] {
        let bytes = if id == "b" { 4 } else { 1 };
        let message = format!("[\"{}\"]", character.repeat(16 * 1024 / bytes));
        server.open(id).await;
        server.send(id, &message).await;
        let heard = server.poll(id).await;
        let sent: Vec<String> = serde_json::from_str(&message).unwrap();
        let heard: Vec<String> = serde_json::from_str(&heard[1..]).unwrap();
        assert!(heard == sent, "{id}");
        // As browsers write it in a form.
        let message = message.replace('\\', "%5C").replace('"', "%22");
        let message = message.replace('[', "%5B").replace(']', "%5D");
        let (path, body) = (format!("/echo/0/{id}/jsonp_send"), format!("d={message}"));
        let reply = ask(&server, "POST", &path, &form, body.as_bytes()).await;
        assert_eq!((reply.status, &*reply.body), (200, "ok"));
        let heard = server.poll(id).await;
        let heard: Vec<String> = serde_json::from_str(&heard[1..]).unwrap();
        assert!(heard == sent, "{id}");
    }
}

#[tokio::test]
async fn a_cookie_is_set_where_it_is_wanted() {
    let server = server_with(Does::Echo, |options| options.cookie = true).await;
    for (method, path, cookie, expected) in [
        ("POST", "0/a/xhr", None, "JSESSIONID=dummy; path=/"),
        (
            "POST",
            "0/b/xhr",
            Some("x=1; JSESSIONID=abcdef"),
            "JSESSIONID=abcdef; path=/",
        ),
        (
            "POST",
            "0/c/xhr_streaming",
            None,
            "JSESSIONID=dummy; path=/",
        ),
        ("GET", "0/d/eventsource", None, "JSESSIONID=dummy; path=/"),
        ("GET", "0/e/htmlfile?c=x", None, "JSESSIONID=dummy; path=/"),
        ("GET", "0/f/jsonp?c=x", None, "JSESSIONID=dummy; path=/"),
    ] {
        let mut stream = Stream::connect(&server).await;
        let headers: Vec<_> = cookie
            .map(|cookie| ("cookie", cookie))
            .into_iter()
            .collect();
        stream
            .begin(method, &format!("/echo/{path}"), &headers, b"")
            .await;
        stream.hear_head().await;
        assert_eq!(stream.headers["set-cookie"], expected, "{path}");
    }
}

#[tokio::test]
async fn http_1_0_needs_no_chunks() {
    let server = server(Does::Close).await;
    let mut stream = Stream::connect(&server).await;
    stream
        .write(b"POST /echo/0/old/xhr_streaming HTTP/1.0\r\ncontent-length: 0\r\n\r\n")
        .await;
    stream.hear_head().await;
    assert!(!stream.headers.contains_key("transfer-encoding"));
    assert!(!stream.headers.contains_key("content-length"));
}

#[tokio::test]
async fn what_is_no_upgrade_is_refused() {
    let server = server(Does::Echo).await;
    for (headers, text) in [
        (&[][..], "Can \"Upgrade\" only to \"WebSocket\".\n"),
        (
            &[("upgrade", "WebSocket"), ("connection", "close")],
            "\"Connection\" must be \"Upgrade\", and \"Sec-WebSocket-Version\" 13.\n",
        ),
    ] {
        for path in ["/echo/0/0/websocket", "/echo/websocket"] {
            let reply = ask(&server, "GET", path, headers, b"").await;
            assert_eq!((reply.status, &*reply.body), (400, text), "{path}");
        }
    }
}
