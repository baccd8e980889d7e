"""For translators: `python -m vit_edu.check.sentences LANGUAGE --out messages.po` writes every English sentence of the checks.

Without --out, they are printed. --out may name the file that is read, which is replaced as a whole; redirecting the output onto
that file would empty it before it is read. The file keeps what text/LANGUAGE/messages.po already translates and leaves the
rest empty; for a new language, that is everything. How much is translated, and what is wrong with it, is printed to standard
error, and the exit status is 1 if anything is wrong. Diagnoses, hints and talking points are not included: they are in the
other files in text/LANGUAGE/, whose faults are named as well.
"""

import argparse
import ast
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from vit_edu import atomic, check
from vit_edu.check import language, texts
from vit_edu.check.compare import is_phrase

HERE = Path(__file__).parent

# Function or class that takes sentences -> how many of its first arguments are sentences.
TAKERS = {"_": 1, "N_": 1, "Sentence": 1, "CaseFailed": 1, "ngettext": 2}


@dataclass
class Source:
    """An English sentence, its form for many (the same if it has no plural), and the places where it is used."""

    one: str
    many: str
    places: list = field(default_factory=list)


def sources():
    """{English text: `Source`} of all sentences that a learner may read. It runs the known mistakes, which takes seconds."""
    found = {}
    said = [*in_code()]
    said += [(title, title, "lesson") for title in map(_title, check.texts.notebooks())]
    for name in check.names():
        said += [(text, text, name) for text in [*in_cases(name), *in_observations(name)]]
    for one, many, place in said:
        found.setdefault(one, Source(one, many)).places.append(place)
    return found


def _title(notebook):
    return notebook.split("_", 1)[1].replace("_", " ")


def in_code(folder=HERE):
    """(one, many, "file.py:line") of every sentence in the source, in order.

    ValueError for a sentence that is put together in code, such as an f-string, because it could not be looked up.
    """
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = isinstance(node, ast.Call) and getattr(node.func, "id", "")
            if name in TAKERS and node.args:
                place = f"{path.relative_to(folder).as_posix()}:{node.lineno}"
                for forms in zip(*(_texts(arg, place) for arg in node.args[: TAKERS[name]]), strict=True):
                    yield forms[0], forms[-1], place


def _texts(node, place):
    """The texts that an argument can be; none for a variable, whose text is marked where it comes from."""
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, place), *_texts(node.orelse, place)]
    if isinstance(node, ast.JoinedStr | ast.BinOp):
        raise ValueError(
            f"{place}: a sentence that is put together in code cannot be looked up; use {{placeholders}}."
        )
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


def in_cases(name):
    """Names and hints of an exercise's cases."""
    cases = check.get(name).cases
    return [text for case in cases for text in (case.name, case.hint) if text]


def in_observations(name):
    """What the cases of an exercise say in words about the reference and known mistakes, such as "about half"."""
    exercise = check.get(name)
    for build in (exercise.reference, *(mistake.build for mistake in exercise.mistakes)):
        yield from filter(is_phrase, _leaves(exercise.observations(build)))


def _leaves(value):
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if not isinstance(value, list | tuple):
        return [value]
    return [leaf for each in value for leaf in _leaves(each)]


# ---------------------------------------------------------------- the file


def as_po(code, found):
    """The text of a messages.po for the language `code`, with the translations that exist."""
    path = language.TEXT / code / "messages.po"
    old = {e.one: e for e in language.entries(path.read_text(encoding="utf-8"))} if path.exists() else {}
    head = old.pop(
        "", language.Entry("", "", [f"Language: {code}\nContent-Type: text/plain; charset=UTF-8\n"])
    )
    parts = [_part(head, [])]
    for one, source in found.items():
        empty = [""] if source.one == source.many else ["", ""]
        entry = old.get(one, language.Entry(one, source.many, empty))
        entry.fuzzy |= not entry.fits and any(entry.forms)
        parts.append(_part(entry, source.places))
    return "\n".join(parts)


def _part(entry, places):
    lines = [f"#: {' '.join(dict.fromkeys(places))}"] if places else []
    flags = ["fuzzy"] * entry.fuzzy + ["python-brace-format"] * bool(language.placeholders(entry.one))
    lines += [f"#, {', '.join(flags)}"] if flags else []
    lines.append(f"msgid {_quoted(entry.one)}")
    if entry.one == entry.many:
        lines.append(f"msgstr {_quoted(entry.forms[0])}")
    else:
        lines.append(f"msgid_plural {_quoted(entry.many)}")
        lines += [f"msgstr[{i}] {_quoted(form)}" for i, form in enumerate(entry.forms)]
    return "\n".join(lines) + "\n"


def _quoted(text):
    return json.dumps(text, ensure_ascii=False)


def problems(code, found):
    """(how many sentences are translated, what is wrong): misfits, and translations of sentences that are no longer used."""
    path = language.TEXT / code / "messages.po"
    translated, wrong = language.translations(path)
    unused = [f"{path}: this sentence is no longer used: {one!r}" for one in translated if one not in found]
    return len(translated) - len(unused), [*wrong, *unused]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("language", help='in lower case, as in "de" or "pt_br"')
    parser.add_argument("--out", metavar="FILE", help="write to this file instead of printing")
    asked = parser.parse_args(arguments)
    code, found = asked.language, sources()
    done, wrong = problems(code, found)
    if not any("cannot be read" in problem for problem in wrong):
        if asked.out:
            atomic.write(asked.out, as_po(code, found))
        else:
            sys.stdout.write(as_po(code, found))
    wrong += texts.problems(code)
    print(f"{code}: {done} of {len(found)} sentences are translated.", *wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
