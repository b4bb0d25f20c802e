// Allocates on many different stacks of Node: V8's builtins that call back, JIT code and interpreter
// between C++, steps chosen at random, nested to a random depth; and in the threads of libuv and V8.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const vm = require('vm');
const zlib = require('zlib');
const { performance } = require('perf_hooks');
const { Worker, MessageChannel, receiveMessageOnPort } = require('worker_threads');

let state = 1;
function below(limit) {
  state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
  return (state >>> 8) % limit;
}
const pick = (list) => list[below(list.length)];
const kept = [];
function keep(block) {
  if (below(8) === 0) kept.push(block);
}

const MODULE = new Uint8Array([
  // (module (import "m" "f" (func)) (func (export "g") call 0))
  0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 2, 7, 1, 1, 109, 1, 102, 0, 0, 3, 2, 1, 0, 7, 5, 1, 1,
  103, 0, 1, 10, 6, 1, 4, 0, 16, 0, 11,
]);
const wasm = new WebAssembly.Instance(new WebAssembly.Module(MODULE), { m: { f: () => nest() } });

const leaves = [
  () => keep(Buffer.allocUnsafeSlow(1 + below(9999))),
  () => keep(Buffer.alloc(1 + below(99999))),
  () => keep(new ArrayBuffer(5000)),
  () => keep(new SharedArrayBuffer(500)),
  () => keep(crypto.createHash('sha256').update('text').digest()),
  () => keep(crypto.createHmac('sha1', 'key').update('text')),
  () => keep(crypto.randomBytes(100)),
  () => keep(crypto.createSecretKey(Buffer.alloc(32))),
  () => keep(zlib.deflateSync('text'.repeat(50))),
  () => keep(zlib.gunzipSync(zlib.gzipSync('text'))),
  () => keep(zlib.brotliCompressSync('text', { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 3 } })),
  () => keep(fs.readFileSync('/proc/self/stat', 'utf8')),
  () => keep(fs.readdirSync('/proc/self/task')),
  () => keep(fs.existsSync('/nowhere')),
  () => keep(new vm.Script(`a + ${below(1e9)} * function () { return [b, () => c]; }`)),
  () => keep(new Function('a', `return a * ${below(1e9)}`)),
  () => keep(new RegExp(`(a|b)*c${below(1e9)}[d-f]+`).exec('ababc')),
  () => keep(new URL('http://host/path?query#fragment')),
  () => keep(new Intl.NumberFormat('en').format(1234.5)),
  () => keep('text'.normalize('NFD').localeCompare('Text')),
  () => keep(structuredClone({ a: [1, { b: new Map([[1, 2]]) }] })),
  () => keep(JSON.parse(JSON.stringify({ a: 'x'.repeat(below(5000)) }))),
  () => keep(new TextDecoder('utf-16le').decode(new Uint8Array(100))),
  () => keep(Buffer.from('ä'.repeat(below(3000))).toString('base64')),
  () => keep(new Error('text').stack),
  () => keep(process.memoryUsage()),
  () => keep(performance.mark('mark')),
  () => keep(2n ** BigInt(below(9999))),
  () => keep(fs.readFile('/proc/self/stat', () => keep(Buffer.alloc(9999)))),
  () => keep(crypto.randomBytes(10, () => nest())),
  () => keep(zlib.deflate('text', () => nest())),
];

const steps = [
  () => [1, 2].map(() => nest()),
  () => [3, 1, 2].sort((a, b) => (below(2) && nest(), a - b)),
  () => 'abc'.replace(/[ab]/g, () => (nest(), 'x')),
  () => JSON.stringify({ toJSON: () => (nest(), 1) }),
  () => JSON.parse('[1]', (key, value) => (nest(), value)),
  () => `${{ toString: () => (nest(), 'x') }}`,
  () => +{ [Symbol.toPrimitive]: () => (nest(), 1) },
  () => new Proxy({}, { get: () => nest() }).field,
  () => Reflect.apply(nest, null, []),
  () => Reflect.construct(class { constructor() { nest(); } }, []),
  () => new (class extends Array { constructor() { super(); nest(); } })(),
  () => Array.from({ length: 2 }, () => nest()),
  () => [...(function* () { yield nest(); yield nest(); })()],
  () => new Map([[1, 2]]).forEach(() => nest()),
  () => vm.runInThisContext('(nest) => nest()')(nest),
  () => vm.runInNewContext('nest()', { nest }),
  () => eval('nest()'),
  () => nest.bind(null, 1)(),
  () => nest.call(null, 1, 2, 3),
  () => ({ get field() { return nest(); } }).field,
  () => { try { nest(); throw new Error('text'); } catch { nest(); } finally { nest(); } },
  () => wasm.exports.g(),
  () => Object.defineProperty({}, 'a', { set: () => nest() }).a = 1,
  () => Promise.resolve().then(() => nest()),
  () => queueMicrotask(() => nest()),
  () => setImmediate(() => nest()),
  () => process.nextTick(() => nest()),
  () => process.emit('event', 1),
  () => { const { port1, port2 } = new MessageChannel(); port1.postMessage({ a: new Uint8Array(99) }); receiveMessageOnPort(port2); nest(); port1.close(); },
];
process.on('event', () => nest());

let depth = 0;
let budget = 0;
function nest() {
  if (depth <= 0 || --budget <= 0 || below(6) === 0) return void pick(leaves)();
  depth--;
  pick(steps)();
  depth++;
}

// Callbacks that come later run with what is left of the budget.
function round(left, then) {
  depth = 1 + below(10);
  budget = 30;
  nest();
  setImmediate(left > 0 ? () => round(left - 1, then) : then);
}

// A thread with a V8 of its own, whose code lies elsewhere.
const worker = new Worker(
  `const { deflateSync } = require('zlib');
  const { parentPort } = require('worker_threads');
  const list = [];
  parentPort.on('message', () => {
    for (let i = 0; i < 50; i++) list.push(deflateSync('text'), Buffer.alloc(9999), [i].map(String));
    parentPort.postMessage('done');
  }).postMessage('ready');`,
  { eval: true });

function work() {
  round(600, () => {
    worker.postMessage('go');
    worker.once('message', () => {
      console.log('done');
      process.stdin.once('end', () => process.exit(0));
      process.stdin.resume();
    });
  });
}

// What comes before the start makes V8 map most of its code.
worker.once('message', () => round(300, () => {
  console.log(`ready ${process.pid}`);
  process.stdin.once('data', work);
}));
