// Receives TeckoChecker's webhooks: checks their signatures, and takes each event once.
//
//     WEBHOOK_SECRET=whsec_... node receiver.js
//
// WEBHOOK_SECRET is the job's signing secret, or several with blanks between them while one is
// replaced; HOST (127.0.0.1) and PORT (5000) say where to listen. /webhook takes events, GET
// /webhooks shows the last ones. The scheme: https://www.standardwebhooks.com
'use strict';

const { createHmac, timingSafeEqual } = require('node:crypto');
const http = require('node:http');

// Between the sender's clock and ours; an old request can't be played again.
const TOLERANCE_S = 300;
const MAX_BODY_BYTES = 1024 * 1024;
// A delivery is tried for three days: hold more than arrive meanwhile.
const REMEMBERED_IDS = 100_000;
const SHOWN_EVENTS = 100;

// The request doesn't come from who holds the secret, or not now.
class Rejected extends Error {}

class TooLarge extends Error {}

// Put your own work here. When it throws, the answer is 500, and the event comes again.
async function handle(event) {
  console.log(JSON.stringify(event));
}

// The keys in WEBHOOK_SECRET; throws when one can't be used, or there is none.
function keysOf(secrets) {
  const encoded = secrets.split(/\s+/).filter(Boolean);
  const keys = encoded.map((one) => {
    const text = one.replace(/^whsec_/, '');
    const key = Buffer.from(text, 'base64');
    if (key.toString('base64') !== text) throw new Error("a secret isn't whsec_ and base64");
    return key;
  });
  if (!keys.length || keys.some((key) => key.length < 24 || key.length > 64)) {
    throw new Error('a secret has 24 to 64 bytes');
  }
  return keys;
}

// The event's id, once signature and time are right; throws Rejected otherwise.
function verify(keys, headers, body, nowS) {
  const id = headers['webhook-id'];
  const timestamp = headers['webhook-timestamp'] ?? '';
  const given = (headers['webhook-signature'] ?? '').split(' ').filter(Boolean);
  if (!id || !given.length) throw new Rejected('not signed');
  if (!/^[0-9]{1,12}$/.test(timestamp)) throw new Rejected('no time');
  const expected = keys.map((key) => {
    const signed = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body);
    return `v1,${signed.digest('base64')}`;
  });
  // Every pair is compared, each in constant time: how long it takes tells nothing.
  const equal = given.flatMap((one) => expected.map((right) => isEqual(one, right)));
  if (!equal.includes(true)) throw new Rejected('wrong signature');
  if (Math.abs(nowS - Number(timestamp)) > TOLERANCE_S) {
    throw new Rejected('too old or too new: are both clocks right?');
  }
  return id;
}

function isEqual(one, other) {
  const [left, right] = [Buffer.from(one), Buffer.from(other)];
  return left.length === right.length && timingSafeEqual(left, right);
}

// The events that were handled, each once.
class Inbox {
  #ids = new Set();
  #last = Promise.resolve();
  #shown = [];

  // Handles an event unless that was done before, and says whether it was new.
  //
  // An id is remembered once its event was handled. A receiver that restarts, or has several
  // processes, keeps the ids in its database, in the transaction of its work.
  take(id, event) {
    const taken = this.#last.then(() => this.#once(id, event));
    this.#last = taken.catch(() => {}); // one at a time: the same event may arrive twice at once
    return taken;
  }

  async #once(id, event) {
    if (this.#ids.has(id)) return false;
    await handle(event);
    this.#ids.add(id);
    if (this.#ids.size > REMEMBERED_IDS) this.#ids.delete(this.#ids.values().next().value);
    this.#shown = [...this.#shown, event].slice(-SHOWN_EVENTS);
    return true;
  }

  get shown() {
    return this.#shown;
  }

  // Forgets what is shown, not what was handled.
  clear() {
    this.#shown = [];
  }
}

async function bodyOf(request) {
  const pieces = [];
  let size = 0;
  for await (const piece of request) {
    size += piece.length;
    if (size > MAX_BODY_BYTES) throw new TooLarge();
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

async function webhook(keys, inbox, request, url) {
  const body = await bodyOf(request);
  const id = verify(keys, request.headers, body, Date.now() / 1000);
  // GET and DELETE have no body: their values stand in the query, which no signature covers.
  const event = body.length ? JSON.parse(body) : Object.fromEntries(url.searchParams);
  const isNew = await inbox.take(id, event);
  return [200, { status: isNew ? 'received' : 'received before' }];
}

function answerTo(keys, inbox, request) {
  const url = new URL(request.url, 'http://receiver');
  if (url.pathname === '/webhook') return webhook(keys, inbox, request, url);
  if (request.method === 'GET' && url.pathname === '/webhooks') {
    return [200, { total: inbox.shown.length, webhooks: inbox.shown }];
  }
  if (request.method === 'POST' && url.pathname === '/webhooks/clear') {
    inbox.clear();
    return [200, { status: 'cleared' }];
  }
  return [404, { error: 'webhooks go to /webhook' }];
}

function refusal(error) {
  if (error instanceof TooLarge) return [413, { error: `at most ${MAX_BODY_BYTES} bytes` }];
  console.error(error instanceof Rejected ? `rejected: ${error.message}` : error);
  if (error instanceof Rejected) return [401, { error: "the signature can't be accepted" }];
  return [500, { error: 'the event could not be handled' }];
}

function serverFor(keys) {
  const inbox = new Inbox();
  return http.createServer(async (request, response) => {
    let answer;
    try {
      answer = await answerTo(keys, inbox, request);
    } catch (error) {
      answer = refusal(error);
    }
    const [status, content] = answer;
    response.writeHead(status, { 'Content-Type': 'application/json' });
    response.end(JSON.stringify(content));
  });
}

function main() {
  const { WEBHOOK_SECRET = '', HOST = '127.0.0.1', PORT = '5000' } = process.env;
  let keys;
  try {
    keys = keysOf(WEBHOOK_SECRET);
  } catch (error) {
    console.error(`WEBHOOK_SECRET can't be used: ${error.message}.`);
    process.exit(1);
  }
  const server = serverFor(keys);
  server.listen(Number(PORT), HOST, () => {
    console.log(`Listening on http://${HOST}:${server.address().port}/webhook`);
  });
}

main();
