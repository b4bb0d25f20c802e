"""Leaks from Python, by the protocol of the other victims: `ready PID`, a go byte, a summary, a
byte or the end of stdin.

What it keeps is exact; what the interpreter itself allocates on the way is not known, so there is
no list of stacks. Objects of up to 512 bytes come from Python's own arenas, larger ones from
malloc: these are larger."""

import ctypes
import json
import os
import sys

BYTEARRAYS, BYTEARRAY_BYTES = 2000, 10_000
BLOCKS, BLOCK_BYTES = 3000, 5_000

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]


def leak_bytearrays(kept):
    for _ in range(BYTEARRAYS):
        kept.append(bytearray(BYTEARRAY_BYTES))


def leak_by_ctypes():
    for _ in range(BLOCKS):
        if not libc.malloc(BLOCK_BYTES):
            sys.exit("the victim's allocation failed")


def main():
    kept = []
    os.write(1, b"ready %d\n" % os.getpid())
    if not os.read(0, 1):
        return
    leak_bytearrays(kept)
    leak_by_ctypes()
    summary = {
        "victim": "python",
        "kept_bytes": BYTEARRAYS * BYTEARRAY_BYTES + BLOCKS * BLOCK_BYTES,
        "kept_count": BYTEARRAYS + BLOCKS,
    }
    os.write(1, json.dumps(summary).encode() + b"\n")
    os.read(0, 1)


main()
