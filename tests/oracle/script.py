"""Allocates on many different stacks of the interpreter and its libraries: steps chosen at random,
nested to a random depth, each through C code that calls back. Run with PYTHONMALLOC=malloc."""

import ctypes
import functools
import json
import os
import random
import re
import sqlite3
import sys
import threading
import xml.parsers.expat
import zlib

random.seed(1)
kept = []
depth = 0
budget = 0
locked = 0
libc = ctypes.CDLL(None)
COMPARE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
database = sqlite3.connect(":memory:", check_same_thread=False)


def keep(block):
    if random.randrange(8) == 0:
        kept.append(block)


class Nested:
    def __str__(self):
        nest()
        return "nested"

    def __lt__(self, other):
        if random.randrange(3) == 0:
            nest()
        return id(self) < id(other)

    def __hash__(self):
        nest()
        return 1

    def __del__(self):
        nest()

    def __getattr__(self, name):
        nest()
        return name


LEAVES = [
    lambda: keep(bytearray(random.randrange(600, 5000))),
    lambda: keep(json.loads('{"a": [1, 2.5, "text", {"b": null}]}')),
    lambda: keep(json.dumps({"a": [1, 2.5, "text"], "b": {"c": None}}, indent=1)),
    lambda: keep(re.compile(r"(\w+|\d*)%d[a-f]{2,5}" % random.randrange(10**6))),
    lambda: keep(zlib.compress(b"text" * 100)),
    lambda: keep([str(number) for number in range(20)]),
    lambda: keep({number: number * 1.5 for number in range(20)}),
    lambda: keep(database.execute("select sqlite_version(), random(), ?", ("text",)).fetchall()),
    lambda: keep(int("9" * 200) ** 5),
    lambda: keep(os.listdir("/proc/self/task")),
    lambda: keep(open("/proc/self/stat").read()),
    lambda: keep(compile("a + b * [c for c in d if c]", "text", "eval")),
    lambda: keep("text %s {}".format(1.5).encode("utf-16")),
    lambda: keep(type("Type", (), {"method": lambda self: 1})),
    lambda: keep(ctypes.create_string_buffer(100)),
]


def qsort():
    numbers = (ctypes.c_int * 4)(3, 1, 2, 0)

    def compare(a, b):
        if random.randrange(3) == 0:
            nest()
        return a[0] - b[0]

    libc.qsort(numbers, 4, 4, COMPARE(compare))


def expat():
    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = lambda name, attributes: nest()
    parser.Parse("<a b='1'><c/></a>", True)


def generator():
    for number in (nest() or number for number in range(2)):
        keep([number] * 100)


def exception():
    try:
        nest()
        raise ValueError("text")
    except ValueError:
        nest()
    finally:
        nest()


def thread():
    if locked or random.randrange(4):
        return nest()
    saved = depth

    def run():
        global depth
        depth = saved
        nest()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def sql():
    global locked
    locked += 1  # Another thread would wait for the database, and this one for it.
    try:
        database.create_function("nest", 1, lambda value: nest() or value)
        database.execute("select nest(1) union all select nest(2)").fetchall()
    except sqlite3.Error:
        nest()  # The function is in use further up.
    locked -= 1


STEPS = [
    lambda: re.sub("[ab]", lambda match: nest() or "x", "abc"),
    lambda: sorted([Nested(), Nested(), Nested()]),
    lambda: sorted(range(3), key=lambda number: nest() or number),
    lambda: list(map(lambda number: nest(), range(2))),
    lambda: functools.reduce(lambda a, b: nest() or a, range(3)),
    lambda: json.dumps({1: object()}, default=lambda value: nest() or 1),
    lambda: json.loads('{"a": 1}', object_hook=lambda value: nest() or value),
    lambda: {Nested(): 1},
    lambda: f"{Nested()}",
    lambda: Nested().attribute,
    lambda: max([1, 2], key=lambda number: nest() or number),
    lambda: any(nest() for _ in range(2)),
    lambda: exec("nest()"),
    lambda: functools.partial(nest)(),
    lambda: type("Type", (), {"__call__": lambda self: nest()})()(),
    qsort,
    expat,
    generator,
    exception,
    thread,
    sql,
]


def nest():
    global depth, budget
    budget -= 1
    if depth <= 0 or budget <= 0 or random.randrange(6) == 0:
        random.choice(LEAVES)()
        return
    depth -= 1
    random.choice(STEPS)()
    depth += 1


sys.setrecursionlimit(10000)
print("ready", os.getpid(), flush=True)
sys.stdin.readline()
for _ in range(250):
    depth = random.randrange(1, 9)
    budget = 40
    nest()
print("done", flush=True)
sys.stdin.read()
