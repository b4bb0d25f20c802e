'use strict';
// An HTTP server as a service would be one: `/small` answers with a small JSON object made for the
// request, `/gzip` with a list of some KB, made for the request and compressed on a thread of the
// pool. It keeps nothing. For measuring what a recording costs requests.
//
// It says `ready PID` when it listens on port 8080 of its loopback, and ends when anything, or the
// end, comes on stdin.

const http = require('node:http');
const zlib = require('node:zlib');

const PORT = 8080;
const ITEMS = 64;
let served = 0;

const item = (id) => ({ id, name: `item ${id}`, price: id * 1.25, tags: ['new', 'in stock'], next: `/items/${id + 1}` });

const routes = {
  '/small': (response) => {
    served += 1;
    const body = JSON.stringify({ status: 'ok', served });
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length });
    response.end(body);
  },
  '/gzip': (response) => {
    served += 1;
    const items = Array.from({ length: ITEMS }, (_, index) => item(served + index));
    zlib.gzip(JSON.stringify(items), (error, body) => {
      if (error) throw error;
      response.writeHead(200, {
        'content-type': 'application/json',
        'content-encoding': 'gzip',
        'content-length': body.length,
      });
      response.end(body);
    });
  },
};

const server = http.createServer((request, response) => {
  const route = routes[request.url];
  if (route) return route(response);
  response.writeHead(404);
  return response.end();
});

server.listen(PORT, '127.0.0.1', () => console.log(`ready ${process.pid}`));
const leave = () => process.exit(0);
process.stdin.on('data', leave).on('end', leave);
