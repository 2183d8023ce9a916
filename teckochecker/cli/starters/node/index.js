// A check for TeckoChecker: looks once, and prints what it found as one line of JSON.
//
// What a check gets are environment variables: the job's env_vars as they are, its check_params in
// upper case (task_id is TASK_ID), CHECK_NUMBER, and in PREVIOUS_DATA the data of its last verdict
// as JSON. Each check runs in a new container, so no file outlives it.
'use strict';

const VERDICTS = { running: 'PENDING', done: 'SUCCESS', broken: 'FAILED' };

// Ask your own service here, with a time-out. This task is done at the third look.
async function stateOf(taskId, looks) {
  return looks >= 3 ? 'done' : 'running';
}

// The verdict: a status, a message for people, and data for the webhook and the next check.
// PENDING is looked at again, SUCCESS and FAILED end the job, ERROR is tried again.
async function check(environment) {
  const taskId = environment.TASK_ID ?? 'example';
  const previous = JSON.parse(environment.PREVIOUS_DATA || 'null') ?? {};
  const looks = (previous.looks ?? 0) + 1;
  const state = await stateOf(taskId, looks);
  return {
    status: VERDICTS[state] ?? 'ERROR',
    message: `Task ${taskId} is ${state}`,
    data: { task_id: taskId, looks },
  };
}

if (require.main === module) {
  // An exception ends this with exit code 1: that is an ERROR with the last words on stderr.
  check(process.env).then((found) => console.log(JSON.stringify(found)));
}

module.exports = { check };
