"""Runs a learner's code safely: with limits on time and memory, and with all global state restored afterwards.

The code runs in a separate thread of this process. This guards against accidents, not against attacks.
"""

import atexit
import builtins
import collections
import contextlib
import ctypes
import functools
import gc
import io
import logging
import math
import os
import random
import signal
import sys
import threading
import time
import types
import warnings

import einops
import numpy as np
import torch
import torch.nn.functional as F

from vit_edu.check.language import Sentence, ngettext

try:
    import resource
except ImportError:  # on Windows
    resource = None

# Bytes that a candidate may allocate on top of what is in use; enforced on Linux only
MEMORY_LIMIT = 2 * 2**30
SHOWN_PRINT = 800  # characters of a candidate's own prints that are passed on
GRACE = 0.5  # seconds that a stopped candidate is given to end
TICK = 0.05  # seconds between two looks at the clock
STACK = 16 * 2**20  # bytes; on some platforms, a thread gets much less than the main thread has


clock = time.monotonic  # decides whether a candidate's time is up; tests replace it


class Stopped(BaseException):
    """Raised inside the candidate when its time is up; a BaseException, so that `except Exception` lets it pass."""


class Forbidden(Exception):
    """The candidate did something that would end or block the whole session. Its only argument is a `Sentence`."""


class Prints(io.TextIOBase):
    """Collects what a candidate prints and keeps the first SHOWN_PRINT characters."""

    def __init__(self):
        self.kept, self.total = "", 0

    def writable(self):
        return True

    def write(self, text):
        self.kept += text[: SHOWN_PRINT - len(self.kept)]
        self.total += len(text)
        return len(text)

    @property
    def text(self):
        more = self.total - len(self.kept)
        if not more:
            return self.kept
        cut = ngettext(" ... ({number} more character)", " ... ({number} more characters)", more)
        return self.kept + cut.format(number=f"{more:,}")


_TASKS = "/proc/self/task"  # a folder for each thread of this process; only Linux has it
_finished = collections.deque(maxlen=16)  # native ids of the latest threads that came to their end


def limited(work, seconds):
    """Run `work()` in a thread. Returns "done", "too slow", "stopped by hand" or "still running".

    After `seconds`, or when the stop button is pressed, `Stopped` is raised in the thread again and again. Code that
    swallows even that, or waits inside a library, is left behind, and "still running" is returned.
    """
    now, wall = clock, time.monotonic  # the candidate may replace them
    ended = threading.Event()

    def run():
        with contextlib.suppress(BaseException):
            try:
                work()
            finally:
                ended.set()

    size = threading.stack_size(STACK)
    try:
        thread = threading.Thread(target=run, name="exercise", daemon=True)
        thread.start()
    finally:
        threading.stack_size(size)
    try:
        end = now() + seconds
        while thread.is_alive() and now() < end:
            thread.join(TICK)
        outcome = "too slow"
    except KeyboardInterrupt:
        outcome = "stopped by hand"
    if outcome == "too slow" and ended.is_set():
        outcome = "done"
    patience = wall() + GRACE
    while not ended.is_set() and wall() < patience:
        _stop(thread.ident)
        ended.wait(0.001)
    if outcome != "done":
        _deliver()
    if not ended.is_set():
        return "still running"
    _finished.append(thread.native_id)
    return outcome


def _stop(ident):
    """Raise `Stopped` in a thread as soon as it runs Python code again."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(Stopped))


def _deliver():
    """Tell Python that no exception waits to be delivered, although one may: for a thread that does not run, or that has ended.

    Otherwise Python 3.11 would look for it at the start of each function that is traced (see `origin`), and then start the function
    again, without end: all later answers would seem to hang. It forgets when an exception arrives, so one is sent to this thread.
    """
    with contextlib.suppress(Stopped):
        _stop(threading.get_ident())
        for _ in range(1000):  # it arrives between two of these
            pass


@atexit.register
def wait_for_threads(seconds=1.0):
    """Wait until the threads of finished exercises are gone for the operating system as well, but no longer than this.

    After torch has computed gradients in a thread, that takes a moment longer than for Python. A process that ends meanwhile
    is aborted: "terminate called without an active exception".
    """
    if not os.path.isdir(_TASKS):
        time.sleep(0.05 if _finished else 0)
        return
    end = time.monotonic() + seconds
    while any(os.path.exists(f"{_TASKS}/{number}") for number in _finished) and time.monotonic() < end:
        time.sleep(0.001)


@contextlib.contextmanager
def seeded():
    """For the candidate's thread: the same random numbers for everybody, gradients on, float32, the CPU."""
    torch.set_default_dtype(torch.float32)
    random.seed(0)
    np.random.seed(0)
    # As a context, torch.device("cpu") would make every call of torch slower, and torch crashes when it meets the recursion
    # limit inside one. A new thread has no default device.
    with torch.enable_grad():
        torch.manual_seed(0)
        try:
            yield
        finally:
            torch.set_default_device(None)


# ---------------------------------------------------------------- the candidate's own name

_ABSENT = object()
_PARTS = (
    type,
    types.FunctionType,
    staticmethod,
    classmethod,
    property,
    functools.partial,
    functools.cached_property,
)


def functions(candidate):
    """Yield the functions that a candidate is made of: itself, a class's methods, what is wrapped, and what closures hold."""
    todo, seen = [candidate], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen or not isinstance(thing, _PARTS):
            continue
        seen.add(id(thing))
        if isinstance(thing, type):
            todo += vars(thing).values() if thing is candidate or _inside(thing, candidate) else ()
        elif isinstance(thing, types.FunctionType):
            yield thing
            todo += [content for _name, cell in _cells(thing) if (content := _content(cell)) is not _ABSENT]
            todo.append(vars(thing).get("__wrapped__"))
        else:
            todo += [getattr(thing, name, None) for name in ("__func__", "fget", "fset", "fdel", "func")]


def _inside(thing, candidate):
    """Is this a class that was defined inside the candidate?"""
    outer = getattr(candidate, "__qualname__", None)
    return isinstance(outer, str) and thing.__qualname__.startswith(f"{outer}.")


def _cells(function):
    return zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # nothing is bound to the name yet
        return _ABSENT


@contextlib.contextmanager
def own_name(candidate):
    """Binds the candidate's name to the candidate, wherever its code may look it up, and restores at the end what it meant.

    A decorator is run before the name is bound. `super(Mlp, self)` would not find the class, and a function that calls
    itself would reach whatever had the name before, perhaps the reference. Modules of this package are left alone.
    """
    name, module = getattr(candidate, "__name__", None), getattr(candidate, "__module__", None)
    names = isinstance(name, str) and isinstance(module, str) and name.isidentifier()
    if not names or module.split(".")[0] == __name__.split(".")[0]:
        yield
        return
    made_of = list(functions(candidate))
    spaces = {id(f.__globals__): f.__globals__ for f in made_of if f.__globals__.get("__name__") == module}
    if not spaces and module in sys.modules:
        spaces = {0: vars(sys.modules[module])}
    cells = {id(cell): cell for f in made_of for free, cell in _cells(f) if free == name}
    before = [(space, space.get(name, _ABSENT)) for space in spaces.values()]
    contents = [(cell, _content(cell)) for cell in cells.values()]
    try:
        for space, _value in before:
            space[name] = candidate
        for cell, _value in contents:
            cell.cell_contents = candidate
        yield
    finally:
        for space, value in before:
            if value is _ABSENT:
                space.pop(name, None)
            else:
                space[name] = value
        for cell, value in contents:
            if value is not _ABSENT:
                cell.cell_contents = value
            elif _content(cell) is not _ABSENT:
                del cell.cell_contents


# ---------------------------------------------------------------- everything else


@contextlib.contextmanager
def preserved():
    """Restores random states, settings and patched functions at the end, whatever happens inside.

    Meanwhile torch uses one thread, prints are collected (in the `Prints` that is handed out), memory is limited, and
    functions that would end the session raise `Forbidden`.
    """
    prints = Prints()
    with contextlib.ExitStack() as stack:
        for keep in (
            _random_states,
            _settings,
            _switches,
            _namespaces,
            _no_exits,
            _whole_attention,
            _memory,
            _modules,
        ):
            stack.enter_context(keep())
        stack.enter_context(contextlib.redirect_stdout(prints))
        yield prints


@contextlib.contextmanager
def _random_states():
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@contextlib.contextmanager
def _modules():
    """Modules come back first, because restoring everything else needs them."""
    before = dict(sys.modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if sys.modules.get(name) is not module:
                sys.modules[name] = module


@contextlib.contextmanager
def _settings():
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    folder, environment = os.getcwd(), dict(os.environ)
    streams = {name: getattr(sys, name) for name in _STREAMS}
    lists = [(where, name, getattr(where, name), getattr(where, name)[:]) for where, name in _LISTS]
    torch.set_num_threads(1)  # the tensors are tiny, and on a busy machine threads would wait for each other
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)
        for where, name, value, content in lists:
            value[:] = content
            setattr(where, name, value)
        for name, value in streams.items():
            setattr(sys, name, value)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        with contextlib.suppress(OSError):
            os.chdir(folder)


_LISTS = [
    *((sys, name) for name in ("path", "meta_path", "path_hooks")),
    (warnings, "filters"),
    (logging.root, "handlers"),
]
_BACKENDS = torch.backends

# Settings that hold for the whole process: how to read one, and how to set it to what was read. Modes that belong to a thread
# (gradients, inference, autocast, dispatch) end with the thread of the candidate.
_SWITCHES = [
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (
        torch.is_anomaly_enabled,
        lambda on: torch.set_anomaly_enabled(on, torch.is_anomaly_check_nan_enabled()),
    ),
    (
        torch.is_anomaly_check_nan_enabled,
        lambda on: torch.set_anomaly_enabled(torch.is_anomaly_enabled(), on),
    ),
    (torch.is_warn_always_enabled, torch.set_warn_always),
    (_BACKENDS.cuda.flash_sdp_enabled, _BACKENDS.cuda.enable_flash_sdp),
    (_BACKENDS.cuda.mem_efficient_sdp_enabled, _BACKENDS.cuda.enable_mem_efficient_sdp),
    (_BACKENDS.cuda.math_sdp_enabled, _BACKENDS.cuda.enable_math_sdp),
    (_BACKENDS.mha.get_fastpath_enabled, _BACKENDS.mha.set_fastpath_enabled),
    (
        torch.__future__.get_overwrite_module_params_on_conversion,
        torch.__future__.set_overwrite_module_params_on_conversion,
    ),
    (
        torch.__future__.get_swap_module_params_on_conversion,
        torch.__future__.set_swap_module_params_on_conversion,
    ),
    (threading.getprofile, threading.setprofile),
    (threading.gettrace, threading.settrace),
    (np.get_printoptions, lambda options: np.set_printoptions(**options)),
    (np.geterr, lambda handling: np.seterr(**handling)),
    (lambda: logging.root.manager.disable, logging.disable),
    (lambda: logging.root.level, logging.root.setLevel),
    (sys.getswitchinterval, sys.setswitchinterval),
    (gc.isenabled, lambda on: gc.enable() if on else gc.disable()),
    (gc.get_threshold, lambda threshold: gc.set_threshold(*threshold)),
]
# Where a setting is an attribute. Older versions of torch lack some of them.
_ATTRIBUTES = [
    (os, "environ"),
    (warnings, "showwarning"),
    (warnings, "formatwarning"),
    (threading, "excepthook"),
    (sys, "unraisablehook"),
    (torch.distributions.Distribution, "_validate_args"),
    (_BACKENDS.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
    (_BACKENDS.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
    (_BACKENDS.mkldnn, "enabled"),
    (_BACKENDS.opt_einsum, "enabled"),
    (_BACKENDS.opt_einsum, "strategy"),
    (_BACKENDS.cudnn, "allow_tf32"),
    (torch.utils.deterministic, "fill_uninitialized_memory"),
    (_BACKENDS.cudnn, "enabled"),
    (_BACKENDS.cudnn, "benchmark"),
    (_BACKENDS.cudnn, "deterministic"),
    *((torch._tensor_str.PRINT_OPTS, name) for name in vars(torch._tensor_str.PRINT_OPTS)),
]


def _global_hooks():
    """The dictionaries of hooks that torch calls for every module and every optimiser."""
    for module in map(sys.modules.get, ("torch.nn.modules.module", "torch.optim.optimizer")):
        for name, value in list(vars(module).items()):
            if name.startswith("_global_") and isinstance(value, dict):
                yield value


@contextlib.contextmanager
def _switches():
    """Restores what the process has only once: torch's switches, printing, logging and the hooks of all modules."""
    before = [(read(), write, read) for read, write in _SWITCHES]
    attributes = [(where, name, getattr(where, name)) for where, name in _ATTRIBUTES if hasattr(where, name)]
    pictures = getattr(sys.modules.get("matplotlib"), "rcParams", {})
    drawn = dict(dict.items(pictures))
    hooks = [(each, dict(each)) for each in _global_hooks()]
    full = torch.nn.modules.module._global_is_full_backward_hook
    try:
        yield
    finally:
        for value, write, read in before:
            if read() != value:
                write(value)
        for where, name, value in attributes:
            if getattr(where, name) is not value:
                setattr(where, name, value)
        dict.update(pictures, drawn)  # without its warnings for what is outdated
        for each, values in hooks:
            each.clear()
            each.update(values)
        torch.nn.modules.module._global_is_full_backward_hook = full


_STREAMS = ("stdin", "stderr", "excepthook", "displayhook")
_WATCHED = [
    builtins,
    torch,
    torch.nn,
    torch.nn.functional,
    torch.Tensor,
    torch.optim,
    einops,
    math,
    random,
    time,
    np,
    np.random,
    np.linalg,
    os,
    torch.linalg,
    torch.nn.init,
    *(each for place in (torch.nn, torch.optim) for each in vars(place).values() if isinstance(each, type)),
]


@contextlib.contextmanager
def _namespaces():
    """Restores functions that the candidate replaced (torch.softmax = ...) or deleted."""
    ours = [m for n, m in list(sys.modules.items()) if n.split(".")[0] == __name__.split(".")[0]]
    before = [(where, dict(vars(where))) for where in (*_WATCHED, *ours)]
    try:
        yield
    finally:
        for where, names in before:
            now = dict(vars(where))
            if isinstance(where, type):  # the candidate may have overridden an inherited method
                for name in now.keys() - names.keys():
                    with contextlib.suppress(AttributeError, TypeError):
                        delattr(where, name)
            for name, value in names.items():
                if now.get(name) is not value:
                    with contextlib.suppress(AttributeError, TypeError):
                        setattr(where, name, value)


def _refuse(function):
    def refuse(*args, **kwargs):
        raise Forbidden(
            Sentence(
                "{function} does not belong in an answer: it would end, block or change your whole session",
                function=function,
            )
        )

    return refuse


@contextlib.contextmanager
def _no_exits():
    """While a candidate runs, refuses whatever would end the process, wait for the keyboard or could not be restored."""
    places = [(os, n) for n in ("_exit", "abort", "kill", "killpg", "fork", "execv", "execve")]
    places += [(signal, "raise_signal"), (sys, "setrecursionlimit"), (builtins, "input")]
    places += [(builtins, "breakpoint"), (torch, "set_num_interop_threads")]  # which cannot be set back
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    if shell is not None:  # exit() and quit() ask the kernel to leave
        places.append((shell, "ask_exit"))
    before = [(where, name, getattr(where, name)) for where, name in places if hasattr(where, name)]
    for where, name, _ in before:
        setattr(where, name, _refuse(f"{name.replace('ask_exit', 'exit')}()"))
    keeps = getattr(shell, "keepkernel_on_exit", None)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)
        if shell is not None and hasattr(shell, "keepkernel_on_exit"):
            shell.keepkernel_on_exit = keeps


@contextlib.contextmanager
def _whole_attention():
    """While a candidate runs, refuses attention with fewer or more values than keys.

    Torch does not count them on the CPU: it reads what lies behind the shorter of the two in memory, and may end the process.
    """
    attention = F.scaled_dot_product_attention

    @functools.wraps(attention)
    def checked(query, key, value, *args, **kwargs):
        if key.shape[-2:-1] != value.shape[-2:-1]:
            raise RuntimeError(
                Sentence(
                    "scaled_dot_product_attention needs a value for each key, but the keys are {keys} and the values {values}",
                    keys=tuple(key.shape),
                    values=tuple(value.shape),
                )
            )
        return attention(query, key, value, *args, **kwargs)

    F.scaled_dot_product_attention = checked
    try:
        yield
    finally:
        F.scaled_dot_product_attention = attention


@contextlib.contextmanager
def _memory():
    """Limits the address space to MEMORY_LIMIT above what is in use. Only Linux enforces it.

    With a GPU there is no limit, because the driver reserves hundreds of gigabytes of addresses.
    """
    try:
        with open("/proc/self/statm", encoding="utf-8") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
    except (OSError, AttributeError):
        yield
        return
    ceiling = used + MEMORY_LIMIT
    limit = before[0] == resource.RLIM_INFINITY or ceiling < before[0]
    if limit and not torch.cuda.is_available():
        resource.setrlimit(resource.RLIMIT_AS, (ceiling, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
