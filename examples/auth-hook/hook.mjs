// A hook in Node, standard library only: node hook.mjs [port]
//
// The gateway asks it four kinds of question; it answers `allow` or `deny`, always with status
// 200. Put your own user table and rules in the four functions. `/auth/batch` is optional: many
// questions in one call ([auth] batch_path).

import { createHash, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

const users = new Map([["alice", "demo-alice"], ["bob", "demo-bob"]]); // yours: hashes in a database
const digest = (text) => createHash("sha256").update(text).digest();
const same = (a, b) => timingSafeEqual(digest(a), digest(b));

const questions = {
  // Who is this? May answer tags: "allow customer beta".
  "/auth/user": (q) => (users.has(q.username) && same(users.get(q.username), q.password ?? "") ? "allow customer" : "deny"),
  // May the user enter the virtual host, from q.ip?
  "/auth/vhost": (q) => (q.vhost === "/" ? "allow" : "deny"),
  // May the user configure, write or read this exchange or queue?
  "/auth/resource": (q) => (q.resource === "exchange" && q.name === "feed" && q.permission === "read" ? "allow" : `deny ${q.resource} ${q.name} is not yours to ${q.permission}`),
  // May the user write or read this routing key of the exchange q.name?
  "/auth/topic": (q) => (q.name === "feed" && q.permission === "read" && q.routing_key === `user_${q.username}` ? "allow" : "deny"),
};

// Maps without a prototype: `constructor` is no parameter that anybody sent.
const own = (parameters) => Object.assign(Object.create(null), parameters);
const ask = (path, parameters) => (Object.hasOwn(questions, path) ? questions[path](own(parameters)) : "deny no such question");

// Many questions in one call: an answer for each, in their order.
const batch = (body) => JSON.stringify({ answers: JSON.parse(body).questions.map((q) => ask(`/auth/${q.call}`, q.parameters)) });

async function answer(request, response) {
  const url = new URL(request.url, "http://hook");
  let parameters = url.search.slice(1); // GET: the query string
  if (request.method === "POST") {
    parameters = ""; // POST: a form, or the JSON of a batch
    for await (const chunk of request.setEncoding("utf8")) parameters += chunk;
  }
  const said = url.pathname === "/auth/batch" ? batch(parameters) : ask(url.pathname, Object.fromEntries(new URLSearchParams(parameters)));
  response.writeHead(200, { "Content-Type": "text/plain; charset=utf-8" }).end(said); // never log q.password
}

// One request that fails must not end the hook: then nobody could log in.
const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    const isNonsense = error instanceof SyntaxError || error.code === "ERR_INVALID_URL";
    // These two errors quote the request, which may hold a password.
    if (!isNonsense) console.error(error.message);
    if (response.headersSent) response.destroy(); // half an answer is none
    else response.writeHead(isNonsense ? 400 : 500).end();
  });
});

// Longer than the gateway's pauses: a connection that is kept need not be made again.
server.keepAliveTimeout = 120_000;
server.listen(Number(process.argv[2] ?? 8000), "127.0.0.1", () => {
  console.log(`listening on http://127.0.0.1:${server.address().port}/auth/...`);
});
