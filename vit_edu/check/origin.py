"""Finds out whether an answer is the learner's own, or is, inherits or calls the course's own answer."""

import inspect
import sys

from vit_edu.check import guard


class Watch:
    """Notices, in the thread in which it is entered, when the candidate's work is done by the reference.

    `used` is then True. It counts only what the candidate itself calls or inherits: a case may use the reference as well.
    """

    def __init__(self, candidate, reference):
        self.candidate, self.used = candidate, candidate is reference
        self._reference = {id(code) for code in _main_code(reference)}
        self._candidate = {id(f.__code__) for f in guard.functions(candidate)}

    def __enter__(self):
        if not self.used:
            sys.setprofile(self._look)
        return self

    def __exit__(self, *error):
        sys.setprofile(None)

    def _look(self, frame, event, _argument):
        if event == "call" and id(frame.f_code) in self._reference and self._is_asked_for(frame):
            self.used = True
            sys.setprofile(None)

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
