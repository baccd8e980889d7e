"""Your own right answers, wherever you need them: `mine.patchify`, `mine.Attention`, `mine.ViT`.

Where you have not solved an exercise, the name holds the course's answer. `mine` itself, printed, is a table of whose is whose.
Your `mine.ViT` is made of *your* `Attention`, `Block` and `Embeddings`, as far as they are right.

What you solve is kept by `check.keep`, in one Python file for each lesson. Here it is run, and checked again before it is
used, so you may edit the files. The checker itself never sees them.
"""

import contextlib
import html
import sys
import traceback
import types
from dataclasses import dataclass

from vit_edu import check
from vit_edu.check import keep
from vit_edu.check.language import N_, _
from vit_edu.check.report import frame

YOURS, OURS = N_("yours"), N_("the course's")


@dataclass(frozen=True)
class Answer:
    """What a name stands for. thing: a function or a class. whose: YOURS or OURS. remark: what is worth saying about it."""

    thing: object
    whose: str = OURS
    remark: str = ""


_known = {}  # exercise -> (what it was made from, its Answer)
_being_made = set()
_pieces = {"whose": YOURS}  # whose answers the kept code is given for the names of other exercises


def answer(name):
    """The `Answer` for an exercise. AttributeError if there is no exercise of that name."""
    lesson = check.texts.exercises().get(name)
    if lesson is None:
        raise AttributeError(
            _("there is no exercise called {name}; the answers are {names}.").format(
                name=name, names=", ".join(check.names())
            )
        )
    ours = check.get(name).reference
    if name in _being_made or _pieces["whose"] == OURS:  # an answer that needs itself gets the course's
        return Answer(ours)
    made_from = _state()
    if _known.get(name, ("",))[0] != made_from:
        _being_made.add(name)
        try:
            made = _make(name, lesson, ours)
        finally:
            _being_made.discard(name)
        _known[name] = made_from, made
    return _known[name][1]


def _state():
    """Something that changes when an answer is added, or when one of the files is."""
    files = [keep.file_of(lesson) for lesson in check.LESSONS]
    changed = [f.stat().st_mtime_ns for f in files if f and f.exists()]
    return str(keep.folder()), changed, [(name, id(thing)) for name, thing in keep.live.items()]


def _make(name, lesson, ours):
    if keep.folder() is None:
        return Answer(ours)
    if name in keep.unkept:
        return Answer(keep.live[name], YOURS, _("in this session only: {why}").format(why=keep.unkept[name]))
    answers, remark = keep.read(lesson)
    kept = answers.get(name)
    if kept is None:
        return Answer(ours, OURS, remark or _("not solved yet"))
    thing, wrong = _tried(kept, lesson)
    if not wrong:
        return Answer(thing, YOURS, _("right on {date}").format(date=kept.date))
    if "from vit_edu.mine import" in kept.code:
        with _with_pieces_of(OURS):
            thing, still_wrong = _tried(kept, lesson)
        if not still_wrong:
            remark = _("made of the course's parts, because with yours: {wrong}")
            return Answer(thing, YOURS, remark.format(wrong=wrong))
    return Answer(
        ours,
        OURS,
        _("yours, in {file}, is not right: {wrong}").format(file=keep.file_of(lesson), wrong=wrong),
    )


@contextlib.contextmanager
def _with_pieces_of(whose):
    before, _pieces["whose"] = _pieces["whose"], whose
    try:
        yield
    finally:
        _pieces["whose"] = before


def _tried(kept, lesson):
    """(what the kept code defines, why it cannot be used or "")."""
    module = types.ModuleType(f"mine_{kept.name}")
    module.__file__ = str(keep.file_of(lesson))
    sys.modules[module.__name__] = module  # classes are looked up there, for instance to find their source
    try:
        code = compile("\n" * kept.line + kept.code, module.__file__, "exec", dont_inherit=True)
        exec(code, vars(module))
        thing = vars(module)[kept.name]
    except KeyError:
        return None, _("the name is not defined")
    except Exception as error:
        return None, "".join(traceback.format_exception_only(error)).strip()
    report = check.run(kept.name, thing)
    if report.is_reference:
        return None, _("it is the course's own answer")
    if not report.passed:
        return None, report.diagnosis or "; ".join(f"{_(c.name)}: {c.message}" for c in report.failed[:1])
    thing.__mine__ = kept.name
    return thing, ""


# ---------------------------------------------------------------- the table


def _rows():
    """Yield (lesson, exercise, `Answer`) for all exercises."""
    for lesson, names in ((n, check.names(n)) for n in check.LESSONS):
        for name in names:
            yield lesson, name, answer(name)


def _headline(rows):
    count = sum(found.whose == YOURS for _lesson, _name, found in rows)
    text = _("{yours} of {total} answers are yours").format(yours=count, total=len(rows))
    inside = keep.folder()
    where = _("nothing is kept here") if inside is None else _("kept in {folder}").format(folder=inside)
    return f"{text}; {where}."


class _Mine(types.ModuleType):
    """A module that looks up exercises as its attributes and shows itself as a table."""

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return answer(name).thing

    def __dir__(self):
        return check.names()

    def __repr__(self):
        rows = list(_rows())
        lines = [f"{lesson}  {name:30} {_(a.whose):14} {a.remark}".rstrip() for lesson, name, a in rows]
        return "\n".join([_headline(rows), "", *lines])

    def _repr_mimebundle_(self, include=None, exclude=None):
        rows = list(_rows())
        cells = "".join(
            "<tr>"
            + "".join(
                f"<td style='text-align:left'>{html.escape(str(c))}</td>"
                for c in (lesson, name, _(a.whose), a.remark)
            )
            + "</tr>"
            for lesson, name, a in rows
        )
        heads = "".join(
            f"<th scope='col' style='text-align:left'>{html.escape(word)}</th>"
            for word in (_("lesson"), _("answer"), _("whose"), _("remark"))
        )
        page = (
            f"<p style='margin:0'><strong>{html.escape(_headline(rows))}</strong></p>"
            f"<table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>"
        )
        return {"text/plain": repr(self), "text/html": frame(page, "#1565c0")}


sys.modules[__name__].__class__ = _Mine
