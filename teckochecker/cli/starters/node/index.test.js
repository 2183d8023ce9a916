// Tests of the check: npm test
'use strict';

const assert = require('node:assert');
const { test } = require('node:test');

const { check } = require('./index.js');

test('a running task is pending', async () => {
  const found = await check({ TASK_ID: 'a' });
  assert.strictEqual(found.status, 'PENDING');
  assert.deepStrictEqual(found.data, { task_id: 'a', looks: 1 });
});

test('a done task is a success', async () => {
  const found = await check({ TASK_ID: 'a', PREVIOUS_DATA: JSON.stringify({ looks: 2 }) });
  assert.strictEqual(found.status, 'SUCCESS');
});
