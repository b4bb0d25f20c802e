'use strict';
// A Node program that leaks outside the JS heap through named C++ paths, and knows how many bytes
// it kept. Garbage of the same sizes goes down the same paths in between and is collected, so that
// counting allocations alone gives twice the right figure. What Node allocates for itself (code,
// handles, streams) is not counted; it is far below 1 % of what is kept.
//
// It speaks the protocol of the other victims: says `ready PID`, waits for a go, leaks, prints one
// line of JSON, waits for a second go and ends. A go is whatever comes on stdin, whose end ends the
// program; with `--signal`, it is a SIGUSR2.

const crypto = require('node:crypto');
const v8 = require('node:v8');
const vm = require('node:vm');
const zlib = require('node:zlib');

const ROUNDS = 256;
const STREAMS = 2;
// Odd sizes, so that nothing else has them by chance.
const UNSAFE_BYTES = 98_317;
const ZEROED_BYTES = 163_847;
const SECRET_BYTES = 40_961;

// A pooled Buffer is a slice of a block it shares with others: nobody could say whose it is.
Buffer.poolSize = 0;
v8.setFlagsFromString('--expose-gc');
const gc = vm.runInNewContext('gc');
const secret = Buffer.alloc(SECRET_BYTES, 7);

// Each makes one object that owns, outside the JS heap, the bytes it names.
const paths = {
  // node::Buffer, then the array buffer allocator: malloc
  unsafe: () => ({ owner: Buffer.allocUnsafeSlow(UNSAFE_BYTES), bytes: UNSAFE_BYTES }),
  // V8's ArrayBuffer constructor, then the same allocator: calloc
  zeroed: () => ({ owner: Buffer.alloc(ZEROED_BYTES), bytes: ZEROED_BYTES }),
  // node::crypto, then OpenSSL: malloc
  secret: () => ({ owner: crypto.createSecretKey(secret), bytes: SECRET_BYTES }),
  // node's zlib binding, on a thread of the pool at the first write. How many bytes zlib takes is
  // its own business (some 80 KiB a stream at these settings), and not in `kept_bytes`.
  zlib: async () => {
    const owner = zlib.createDeflate({ windowBits: 9, memLevel: 1, chunkSize: 64 });
    await new Promise((done) => owner.write('x', done));
    return { owner, bytes: 0 };
  },
};

async function leak() {
  const report = {};
  for (const name of Object.keys(paths)) {
    report[name] = { kept_bytes: 0, kept_count: 0 };
  }
  const keep = async (name) => {
    const { owner, bytes } = await paths[name]();
    kept.push(owner);
    report[name].kept_bytes += bytes;
    report[name].kept_count += 1;
  };
  for (let round = 0; round < ROUNDS; round++) {
    for (const name of ['unsafe', 'zeroed', 'secret']) {
      await keep(name);
      await paths[name]();
    }
    if (round % 32 === 31) await collect();
  }
  for (let stream = 0; stream < STREAMS; stream++) {
    await keep('zlib');
  }
  await collect();
  const sum = (field) => Object.values(report).reduce((total, path) => total + path[field], 0);
  const [kept_bytes, kept_count] = [sum('kept_bytes'), sum('kept_count')];
  return { victim: 'node', kept_bytes, kept_count, paths: report };
}
const kept = [];

// The first pass finds the garbage, the second waits until the first one's sweeper thread is done.
async function collect() {
  for (let pass = 0; pass < 2; pass++) {
    gc();
    await new Promise(setImmediate);
  }
}

// Before anybody measures: everything that Node makes once, at the first use of each path.
async function warmUp() {
  for (const make of Object.values(paths)) {
    const { owner } = await make();
    owner.destroy?.();
  }
  await collect();
}

let gos = 0;
let waiting = null;

function onGo() {
  gos += 1;
  waiting?.();
}

async function go() {
  while (gos === 0) await new Promise((resolve) => (waiting = resolve));
  gos -= 1;
}

function listen() {
  if (process.argv.includes('--signal')) {
    process.on('SIGUSR2', onGo);
    setInterval(() => {}, 2 ** 30); // a signal handler alone does not keep Node running
  } else {
    process.stdin.on('data', onGo).on('end', () => process.exit(0));
  }
}

async function main() {
  listen();
  await warmUp();
  console.log(`ready ${process.pid}`);
  await go();
  console.log(JSON.stringify(await leak()));
  await go();
  process.exit(0);
}

main();
