"""A steady program: it makes, sorts and drops what a small service does."""
import json
import os
import random
import sys
import time

print("ready", os.getpid(), flush=True)
cache = {}
while True:
    for _ in range(200):
        key = random.randrange(5000)
        cache[key] = json.dumps({"key": key, "values": list(range(key % 50))})
        json.loads(cache[key])
    sorted(cache.values())
    time.sleep(0.05)
