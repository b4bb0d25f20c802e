'use strict';
// A Node program whose JS heap grows, and that says how much of it is resident by V8's own count. The protocol is
// that of leak.js.

const v8 = require('node:v8');
const vm = require('node:vm');

v8.setFlagsFromString('--expose-gc');
const gc = vm.runInNewContext('gc');
const kept = [];

function keep() {
  for (let number = 0; number < 400_000; number++) {
    kept.push({ number, name: `name ${number}`, list: [number, number + 1] });
  }
  // So that nothing is left to be given back later.
  gc();
  gc();
  const spaces = v8.getHeapSpaceStatistics();
  return spaces.reduce((sum, space) => sum + space.physical_space_size, 0);
}

const steps = [
  () => console.log(JSON.stringify({ kept_bytes: keep() })),
  () => process.exit(0),
];
process.stdin.on('data', () => steps.shift()()).on('end', () => process.exit(0));
console.log(`ready ${process.pid}`);
