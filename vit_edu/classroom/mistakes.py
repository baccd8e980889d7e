"""`vit-edu mistakes`: what learners get wrong, listed for the teacher from the catalogue that the checks use."""

import re
import textwrap

from vit_edu import check


def catalogue(only=()):
    """The text for lessons ("03") or exercises ("patchify"), or for all. KeyError for an unknown name."""
    parts = []
    for lesson, module in check.LESSONS.items():
        names = [n for n in check.names(lesson) if not only or lesson in only or n in only]
        if names:
            parts.append(f"Lesson {lesson}, {module.replace('_', ' ')}")
            parts.append("=" * len(parts[-1]))
        for name in names:
            parts += ["", *_exercise(check.get(name)), ""]
    for asked in only:
        if asked.isdigit() and asked not in check.LESSONS:
            raise KeyError(f"there is no lesson {asked}; the lessons are {', '.join(check.LESSONS)}.")
        if not asked.isdigit():
            check.get(asked)
    return "\n".join(parts).rstrip()


def _exercise(exercise):
    lines = [f"{exercise.name}: {len(exercise.mistakes)} known mistakes", ""]
    for number, mistake in enumerate(exercise.mistakes, start=1):
        lines.append(f"{number:3}. {_words(mistake.name)}")
        lines += _indented(f"The learner reads: {mistake.diagnosis}")
        lines += _indented(f"In class: {mistake.talk}")
    return lines


def _words(name):
    """softmax_over_queries and SoftmaxOverQueries -> softmax over queries."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").strip().lower()


def _indented(text):
    return textwrap.wrap(text, 96, initial_indent="     ", subsequent_indent="       ")
