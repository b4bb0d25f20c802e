'use strict';
// A Node program that grows in one of two places, or nowhere: `heap` (objects of JavaScript),
// `buffers` (outside of V8's heap), `steady`.

const kept = [];

function objects() {
  for (let i = 0; i < 2000; i++) kept.push({ id: i, name: `user ${i} of ${kept.length}`, tags: [i, i + 1] });
}

function buffers() {
  for (let i = 0; i < 4; i++) kept.push(Buffer.allocUnsafeSlow(50_000));
}

function garbage() {
  let text = '';
  for (let i = 0; i < 2000; i++) text += `line ${i}\n`;
  return text.split('\n').length + Buffer.from(text).length;
}

const grow = { heap: objects, buffers, steady: () => {} }[process.argv[2]];
console.log(`ready ${process.pid}`);
setInterval(() => {
  garbage();
  grow();
}, 100);
process.stdin.on('end', () => process.exit(0)).resume();
