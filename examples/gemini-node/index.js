// Checks a batch of the Gemini API, and prints what it found as one line of JSON.
//
// Variables: BATCH_ID (`abc` or `batches/abc`), GEMINI_API_KEY, and GEMINI_BASE_URL where another
// server than Google's speaks the same API (https://ai.google.dev/api/batch-api).
'use strict';

const BASE_URL = 'https://generativelanguage.googleapis.com/v1beta';
const TIMEOUT_MS = 60_000; // of the whole exchange
const MAX_ANSWER_BYTES = 32 * 1024 * 1024; // an ended batch may bring all its results along
const VERDICTS = new Map([
  ['PENDING', 'PENDING'],
  ['RUNNING', 'PENDING'],
  ['SUCCEEDED', 'SUCCESS'],
  ['COMPLETED', 'SUCCESS'],
  ['FAILED', 'FAILED'],
  ['CANCELLED', 'FAILED'],
  ['EXPIRED', 'FAILED'],
]);
const ADVICE = {
  400: 'is the key right?',
  401: 'is the key right?',
  403: 'may this key see the batch?',
  404: 'is BATCH_ID right, and the key of the same project?',
  429: 'too many requests, the next check tries again',
};

// The check can't tell the batch's state; the text says why.
class CheckError extends Error {}

// The verdict: `status`, `message` and `data`.
async function check(environment) {
  try {
    const batchId = idIn(wanted(environment, 'BATCH_ID'));
    const apiKey = wanted(environment, 'GEMINI_API_KEY');
    const baseUrl = environment.GEMINI_BASE_URL || BASE_URL;
    return verdict(batchId, await answer(baseUrl, batchId, apiKey));
  } catch (error) {
    if (!(error instanceof CheckError)) throw error;
    return { status: 'ERROR', message: error.message, data: {} };
  }
}

function wanted(environment, name) {
  const value = environment[name];
  if (!value) throw new CheckError(`${name} is missing: add it to the job's env_vars.`);
  return value;
}

function idIn(name) {
  const found = /^(?:batches\/)?([A-Za-z0-9_-]+)$/.exec(name);
  if (found) return found[1];
  throw new CheckError("BATCH_ID isn't the id of a batch: give one like batches/abc123.");
}

// The API's JSON object about a batch.
async function answer(baseUrl, batchId, apiKey) {
  const request = requested(`${baseUrl.replace(/\/+$/, '')}/batches/${batchId}`, apiKey);
  try {
    const response = await fetch(request);
    if (!response.ok) {
      const advice = ADVICE[response.status] ?? 'the next check tries again';
      throw new CheckError(`The API answered ${response.status}: ${advice}.`);
    }
    return parsed(await body(response));
  } catch (error) {
    if (error instanceof CheckError) throw error;
    throw new CheckError(`The API can't be reached: ${error.cause?.message || error.message}.`);
  }
}

function requested(url, apiKey) {
  try {
    return new Request(url, {
      headers: { 'x-goog-api-key': apiKey },
      redirect: 'manual', // the key goes to the address that was given, and to no other
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    // Its message would quote the key.
    throw new CheckError("GEMINI_BASE_URL or GEMINI_API_KEY can't be used as it is.");
  }
}

async function body(response) {
  const pieces = [];
  let size = 0;
  for await (const piece of response.body ?? []) {
    size += piece.length;
    if (size > MAX_ANSWER_BYTES) {
      throw new CheckError(`The API's answer is larger than ${MAX_ANSWER_BYTES >> 20} MiB.`);
    }
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

function parsed(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new CheckError("The API's answer isn't JSON: is GEMINI_BASE_URL right?");
  }
  if (!isObject(found)) {
    throw new CheckError("The API's answer isn't a JSON object: is GEMINI_BASE_URL right?");
  }
  return found;
}

// What the API's answer means; Google's wraps the batch in an operation's `metadata`.
function verdict(batchId, operation) {
  if ((operation.name ?? `batches/${batchId}`) !== `batches/${batchId}`) {
    throw new CheckError('The API answered about another batch.');
  }
  const batch = object(operation.metadata ?? operation);
  const error = object(operation.error ?? batch.error).message;
  const state = String(batch.state).replace(/^(BATCH|JOB)_STATE_/, '');
  const status = VERDICTS.get(state) ?? 'ERROR';
  const data = { batch_id: batchId, state, ...counts(object(batch.batchStats)) };
  const words = {
    SUCCESS: `completed, ${data.failed_count} of its requests failed`,
    FAILED: `ended as ${state}: ${error || 'no reason was given'}`,
    PENDING: `is ${state.toLowerCase()} (${data.progress} %)`,
    ERROR: `has a state that this check doesn't know: ${state}`,
  };
  if (status === 'SUCCESS') {
    data.completed_at = batch.endTime ?? null;
    data.results_file = object(batch.output).responsesFile ?? null;
  } else if (status === 'FAILED') {
    data.error = error ?? null;
  }
  return { status, message: `Batch ${batchId} ${words[status]}`, data };
}

function isObject(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function object(value) {
  return isObject(value) ? value : {};
}

// How many requests the batch has, and what became of them; Google sends numbers as text.
function counts(stats) {
  const number = (name) => (/^[0-9]{1,15}$/.test(stats[name]) ? Number(stats[name]) : 0);
  const total = number('requestCount');
  const done = number('successfulRequestCount');
  const failed = number('failedRequestCount');
  return {
    request_count: total,
    result_count: done,
    failed_count: failed,
    progress: total ? Math.floor((100 * (done + failed)) / total) : 0,
  };
}

check(process.env).then((found) => console.log(JSON.stringify(found)));
