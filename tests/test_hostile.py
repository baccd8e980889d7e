"""A learner's code cannot harm a live kernel. Each candidate runs under @check.exercise in one real kernel."""

import functools
import textwrap
import threading
import time

import pytest
from wanted import NEEDS_HOME, library

jupyter = library("jupyter_client.manager")

# What the body of count_patches(height, width, patch_size) does -> what the answer says about it. No time passes for it until
# it sets `time_is_up`; then all of its time is used up.
HOSTILE = {
    "loops": ("time_is_up.set()\nwhile True: pass", "no answer within"),
    "loops and catches everything": (
        """
        time_is_up.set()
        while True:
            try:
                while True: pass
            except: pass
        """,
        "no answer within",
    ),
    "sleeps": ("time_is_up.set(); time.sleep(1000)", "no answer within"),
    "waits for a lock": (
        "time_is_up.set(); lock = threading.Lock(); lock.acquire(); lock.acquire()",
        "no answer within",
    ),
    "never ends its generator": (
        "time_is_up.set(); return sum(1 for _ in itertools.count())",
        "no answer within",
    ),
    "calls itself": ("return count_patches_again(height)", "calling itself without end"),
    "raises the recursion limit": (
        "sys.setrecursionlimit(10**9)",
        "does not belong in an answer",
    ),
    "wants a terabyte": ("return torch.zeros(10**12)", "too much memory"),
    "fills a list": ("x = []\nwhile True: x.append(torch.empty(10**8))", "too much memory"),
    "has fewer values than keys": (
        """
        q, k, v = (torch.zeros(2, 3, tokens, 4) for tokens in (3, 9000, 1))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)
        """,
        "needs a value for each key",
    ),
    "exit()": ("exit()", "does not belong in an answer"),
    "quit()": ("quit()", "does not belong in an answer"),
    "sys.exit()": ("sys.exit(1)", "SystemExit"),
    "os._exit": ("os._exit(1)", "does not belong in an answer"),
    "kills its process": ("os.kill(os.getpid(), 9)", "does not belong in an answer"),
    "aborts": ("os.abort()", "does not belong in an answer"),
    "forks": ("os.fork()", "does not belong in an answer"),
    "asks for input": ("input('?')", "does not belong in an answer"),
    "presses stop": ("raise KeyboardInterrupt", "stopped by hand"),
    "patches torch": (
        "torch.softmax = torch.Tensor.reshape = torch.nn.Linear.forward = None; return 1",
        "expected 64, got 1",
    ),
    "patches the course": (
        "import vit_edu.models.vit as v; v.patchify = None; engine.TIME_LIMIT = 1e9; return 1",
        "expected 64, got 1",
    ),
    "patches the guard": (
        "from vit_edu.check import guard; guard.seeded = None",
        "is not callable",
    ),
    "breaks Python": ("import builtins; builtins.len = None; return 1", "got 1"),
    "forgets modules": ('del sys.modules["einops"]; return 1', "got 1"),
    "leaves threads behind": (
        """
        for _ in range(3):
            threading.Thread(target=time.sleep, args=(3,)).start()
        return 1
        """,
        "expected 64, got 1",
    ),
    "prints for ever": ("time_is_up.set()\nwhile True: print('x' * 1000)", "more characters"),
    "closes its output": ("sys.stdout.close(); return 1", "got 1"),
    "takes its output away": ("sys.stdout = sys.stderr = None; return 1", "got 1"),
    "changes the defaults": (
        "torch.set_default_dtype(torch.float64); torch.set_num_threads(3); os.environ.clear(); os.chdir('/'); return 1",
        "got 1",
    ),
    "returns None": ("return None", "is there a return?"),
    "returns a liar": ("return Liar()", "got a Liar"),
    "raises without words": ("raise Wordless", "cannot be shown"),
    "returns a generator": ("return (i for i in range(3))", "got a generator"),
}

SETUP = """
import itertools, os, sys, threading, time, torch
from vit_edu import check
from vit_edu.check import engine, guard
engine.TIME_LIMIT = 9.0
time_is_up = threading.Event()
guard.clock = lambda: float("inf") if time_is_up.is_set() else 0.0
folder, threads, path = os.getcwd(), torch.get_num_threads(), os.environ["PATH"]

class Liar:
    __eq__ = lambda self, other: True
    def __repr__(self): raise SystemError
    def __getattr__(self, name): raise MemoryError

class Wordless(Exception):
    def __str__(self): raise ValueError

def count_patches_again(height): return count_patches_again(height)
"""

ALIVE = """
assert count_patches(32, 32, 4) == 64  # the reference
assert torch.get_default_dtype() == torch.float32 and torch.get_num_threads() == threads
assert os.getcwd() == folder and os.environ["PATH"] == path and engine.TIME_LIMIT == 9
assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).softmax(-1).reshape(2).shape == (2,)
assert check.run("patchify", check.get("patchify").reference).passed
print("alive")
"""


@pytest.fixture(scope="module")
def kernel():
    manager, client = jupyter.start_new_kernel(kernel_name="python3")
    run = functools.partial(_run, client)
    run.interrupt = manager.interrupt_kernel
    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def _run(client, code):
    """All text that a cell shows."""
    said = []

    def listen(message):
        content = message["content"]
        said.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
        said.append("\n".join(content.get("traceback", [])))

    client.execute_interactive(code, timeout=60, output_hook=listen, allow_stdin=False)
    return "".join(said)


@NEEDS_HOME
def test_no_candidate_kills_the_kernel(kernel):
    assert "Error" not in kernel(SETUP)
    assert len(HOSTILE) >= 20
    failures = []
    for name, (body, says) in HOSTILE.items():
        body = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        answer = kernel(
            f"time_is_up.clear()\n@check.exercise\ndef count_patches(height, width, patch_size):\n{body}"
        )
        after = kernel(ALIVE)
        if says not in answer or "alive" not in after:
            failures.append(f"{name}: {answer[:600]}\n{after[-600:]}")
    assert not failures, "\n\n".join(failures)


@NEEDS_HOME
def test_the_stop_button_stops_the_answer_and_nothing_else(kernel, tmp_path):
    kernel(SETUP)
    running = tmp_path / "running"

    def press():
        while not running.exists():
            time.sleep(0.05)
        kernel.interrupt()

    button = threading.Thread(target=press, daemon=True)
    button.start()
    answer = kernel(
        f"@check.exercise\ndef count_patches(h, w, p):\n    open({str(running)!r}, 'w').close()\n    while True: pass"
    )
    button.join()
    assert "stopped by hand" in answer
    assert "64" in kernel("print(count_patches(32, 32, 4))")
