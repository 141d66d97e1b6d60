"""What a parent's transfers have freed goes back to the system, whichever thread it was."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import re, threading
from clouddeploy_runtime import heap

heap.use_one_arena()

def resident_kib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read()).group(1))

def use():
    pieces = [bytes([1]) * (1 << 20) for _ in range(50)]
    used.append(resident_kib())
    together.wait()

before, used, together = resident_kib(), [], threading.Barrier(4)
threads = [threading.Thread(target=use) for _ in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
heap.give_back()
print(before, max(used), resident_kib())
"""


def test_what_many_threads_have_freed_is_given_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    before, used, after = (int(one) / 1024 for one in done.stdout.split())
    assert used - before > 150
    assert after - before < 10
