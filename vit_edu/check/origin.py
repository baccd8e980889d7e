"""Finds out whether an answer is the learner's own, or is, inherits or calls the course's own answer."""

import inspect
import sys

from vit_edu.check import guard


class Watch:
    """Notices, in the thread and between `start` and `stop`, when the candidate's work is done by the reference.

    `used` is then True. It counts only what the candidate itself calls or inherits: a case may use the reference as well. It is
    meant for a single call of the candidate in each case, because it makes every function of Python begin more slowly.
    """

    def __init__(self, candidate, reference):
        self.candidate, self.used = candidate, candidate is reference
        self._reference = {id(code) for code in _main_code(reference)}
        self._candidate = {id(f.__code__) for f in guard.functions(candidate)}
        # A tracer is asked only when a function begins, a profiler four times as often. A debugger may already be the tracer.
        self._set, self._on = (sys.setprofile if sys.gettrace() else sys.settrace), False

    def start(self):
        if not self.used:
            self._on = True
            self._set(self._look)

    def stop(self):
        if self._on:
            self._on = False
            self._set(None)

    def _look(self, frame, event, _argument):
        if event == "call" and id(frame.f_code) in self._reference and self._is_asked_for(frame):
            self.used = True
            self.stop()

    def _is_asked_for(self, frame):
        """Was the reference called by the candidate's code, or as a method that the candidate inherits?"""
        names = frame.f_code.co_varnames
        if isinstance(self.candidate, type) and names and type(frame.f_locals[names[0]]) is self.candidate:
            return True
        while frame is not None:
            if id(frame.f_code) in self._candidate:
                return True
            frame = frame.f_back
        return False


def _main_code(reference):
    """The code that does the work: a function's own, or a class's forward, or else its __init__."""
    if isinstance(reference, type):
        methods = vars(reference)
        reference = methods.get("forward", methods.get("__init__"))
    function = inspect.unwrap(reference)
    return [function.__code__] if inspect.isfunction(function) else []
