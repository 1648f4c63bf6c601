// Asks a gateway the way Node does, and prints what went wrong as JSON: client.mjs BASE TOKEN.
import http from "node:http";
import { Readable } from "node:stream";
import { randomBytes } from "node:crypto";
import { crc32 as crc } from "node:zlib";

const [base, token] = process.argv.slice(2);
const authorization = { Authorization: `Bearer ${token}` };
const agent = new http.Agent({ keepAlive: true, maxSockets: 50 });

function ensure(holds, what) {
  if (!holds) throw new Error(what);
}

function ask(method, path, { headers = {}, body, from = agent } = {}) {
  return new Promise((resolve, reject) => {
    const made = http.request(base + path, { method, agent: from, headers: { ...authorization, ...headers } });
    made.on("response", (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () =>
        resolve({ status: answer.statusCode, body: Buffer.concat(parts).toString(), reused: made.reusedSocket }));
      answer.on("error", reject);
      answer.on("aborted", () => reject(new Error("aborted")));
    });
    made.on("error", reject);
    if (headers.Expect) made.on("continue", () => made.end(body));
    else if (body instanceof Readable) body.pipe(made);
    else made.end(body);
  });
}

async function echoed(answer, size) {
  const told = JSON.parse((await answer).body);
  ensure(told.size === size, `sent ${size} bytes, got ${JSON.stringify(told)}`);
  if (crc && size === sent.length) ensure(told.crc === crc(sent), "the bytes differ");
}

const sent = Buffer.from("0123456789".repeat(100_000));
const checks = {
  "keep-alive": async () => {
    const one = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (let i = 0; i < 50; i++) {
      const answer = await ask("GET", "/echo", { from: one });
      ensure(answer.status === 200, `status ${answer.status}`);
      ensure(i === 0 || answer.reused, `request ${i} came on a new connection`);
    }
    one.destroy();
  },
  upload: () => echoed(ask("POST", "/echo", { body: sent, headers: { "Content-Length": sent.length } }), sent.length),
  "chunked upload": () => echoed(ask("POST", "/echo", { body: Readable.from([sent.subarray(0, 7), sent.subarray(7)]) }), sent.length),
  "100-continue": () =>
    echoed(ask("POST", "/echo", { body: sent, headers: { Expect: "100-continue", "Content-Length": sent.length } }), sent.length),
  head: async () => {
    const answer = await ask("HEAD", "/echo");
    ensure(answer.status === 200 && answer.body === "", JSON.stringify(answer));
  },
  fetch: async () => {
    const answer = await fetch(base + "/echo", { method: "PUT", body: sent, headers: authorization });
    ensure((await answer.json()).size === sent.length, "fetch lost bytes");
  },
  events: async () => {
    const answer = await fetch(base + "/events", { headers: authorization });
    let text = "";
    for await (const part of answer.body) text += Buffer.from(part).toString();
    ensure(text.split("data: ").length === 21, text);
  },
  cancelled: async () => {
    const leaving = new AbortController();
    const answer = await fetch(base + "/endless", { headers: authorization, signal: leaving.signal });
    await answer.body.getReader().read();
    leaving.abort();
  },
  broken: async () => {
    const answer = await fetch(base + "/broken", { headers: authorization });
    let ended = true;
    try { await answer.text(); } catch { ended = false; }
    ensure(!ended, "an answer that broke off was taken for a whole one");
  },
  refused: async () => {
    const answer = await fetch(base + "/echo", { method: "POST", body: "x".repeat(1000) });
    ensure(answer.status === 401, `${answer.status} without a key`);
  },
  crowd: () => Promise.all(Array.from({ length: 100 }, (_, i) => echoed(ask("PUT", "/echo", { body: "x".repeat(i * 100) }), i * 100))),
  upgrade: () =>
    new Promise((resolve, reject) => {
      const headers = { ...authorization, Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": randomBytes(16).toString("base64") };
      const made = http.request(base + "/ws", { headers });
      made.on("error", reject);
      made.on("response", (answer) => reject(new Error(`status ${answer.statusCode}`)));
      made.on("upgrade", (_answer, socket) => {
        socket.on("error", reject);
        socket.on("data", (frame) => {
          socket.destroy();
          if (frame.subarray(2).toString() === "hello") resolve();
          else reject(new Error(frame.toString("hex")));
        });
        socket.write(Buffer.from([0x81, 0x85, 0, 0, 0, 0, ...Buffer.from("hello")]));
      });
      made.end();
    }),
};

const told = {};
for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    told[name] = "ok";
  } catch (error) {
    told[name] = String(error);
  }
}
console.log(JSON.stringify(told));
process.exit(0);
