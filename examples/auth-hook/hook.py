#!/usr/bin/env python3
"""A hook in Python, standard library only: python3 hook.py [port]

The gateway asks it four kinds of question; it answers `allow` or `deny`, always with status 200.
Put your own user table and rules in the four functions. `/auth/batch` is optional: many questions
in one call ([auth] batch_path)."""

import hmac
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

USERS = {"alice": "demo-alice", "bob": "demo-bob"}  # yours: hashes in a database
SESSIONS = {"demo-session": "alice"}  # yours: the sessions of your web application, by cookie


def whose(q):  # the user whose cookie it is: [auth] forward_cookies = { sid = "session_cookie" }
    owner = SESSIONS.get(q.get("session_cookie"))
    # Of another user, whom the client names, a cookie proves nothing.
    return owner if q.get("username", "") in ("", owner) else None


def user(q):  # who is this? May answer tags: "allow customer beta"
    if whose(q):
        return "allow customer"
    known = USERS.get(q["username"])
    right = known and hmac.compare_digest(known.encode(), q.get("password", "").encode())
    return "allow customer" if right else "deny"


def vhost(q):  # may the user enter the virtual host, from q["ip"]?
    return "allow" if q["vhost"] == "/" else "deny"


def resource(q):  # may the user configure, write or read this exchange or queue?
    own = (q["resource"], q["name"], q["permission"]) == ("exchange", "feed", "read")
    return "allow" if own else f"deny {q['resource']} {q['name']} is not yours to {q['permission']}"


def topic(q):  # may the user write or read this routing key of the exchange q["name"]?
    own = (q["name"], q["permission"]) == ("feed", "read") and q["routing_key"] == f"user_{q['username']}"
    return "allow" if own else "deny"


CALLS = {"user": user, "vhost": vhost, "resource": resource, "topic": topic}


def ask(call, q):
    try:
        return CALLS[call](q)
    except KeyError as missing:
        return f"deny no {missing}"


def batch(body):  # many questions in one call: an answer for each, in their order
    answers = []
    for question in json.loads(body)["questions"]:
        q = question["parameters"]
        answer = ask(question["call"], q)
        if question["call"] == "user" and whose(q):
            answer = {"answer": answer, "headers": {"x-username": whose(q)}}
        answers.append(answer)
    return json.dumps({"answers": answers})


class Hook(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open: the gateway uses them again
    wbufsize = -1  # head and body in one packet: two would wait for each other

    def do_GET(self):
        self.answer(urlsplit(self.path).query)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if urlsplit(self.path).path == "/auth/batch":
            self.say(batch(body))
        else:
            self.answer(body)

    def answer(self, parameters):
        call = urlsplit(self.path).path.removeprefix("/auth/")
        q = dict(parse_qsl(parameters, keep_blank_values=True))
        self.say(ask(call, q), whose(q) if call == "user" else None)

    def say(self, text, username=None):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if username:
            self.send_header("X-Username", username)  # [auth] username_header = "x-username"
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *_):
        pass  # the default would log the query string, and with it passwords


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with ThreadingHTTPServer(("127.0.0.1", port), Hook) as server:
        print(f"listening on http://127.0.0.1:{server.server_port}/auth/...", flush=True)
        server.serve_forever()
