"""What a learner reads, in the learner's language.

English is the source: a sentence is written in the code where it is used, as `_("{passed} of {total} checks passed")`. Its
translations are in text/<language>/messages.po, a text file in the format of GNU gettext, which translators' tools know and
which need not be compiled. `python -m vit_edu.check.sentences` writes such a file and checks it. The folder has the name that
`settings.languages()` gives to the language, in lower case: "de", "pt_br".

A sentence that has no translation, or one that does not fit, is shown in English. Programs only compare the English text, so
whatever is stored, compared or passed on is a `Sentence`, which is translated when it is shown.
"""

import ast
import functools
import re
import string
from dataclasses import dataclass
from pathlib import Path

from vit_edu import settings

TEXT = Path(__file__).parent / "text"

_LINE = re.compile(r'(?:(msgid|msgid_plural|msgstr)(?:\[\d\])?\s+)?(".*")')


def _(text):
    """The translation of an English text into the learner's language, or the text itself if there is none."""
    return ngettext(text, text, 1)


def ngettext(one, many, number):
    """The same for a text with a form for one thing and one for many, both in English; `number` decides."""
    for language in settings.languages():
        if language == "en":
            break
        if forms := translations(TEXT / language / "messages.po")[0].get(one):
            return forms[0 if number == 1 else -1]
    return one if number == 1 else many


def N_(text):
    """The text itself. This marks an identifier that programs compare and that is translated where it is shown."""
    return text


class Sentence:
    """An English sentence and the values of its {placeholders}, translated each time it is shown.

    A value may be a Sentence, too. Without values, the text is shown unchanged, braces included. Two Sentences are equal when
    they read the same in English.
    """

    def __init__(self, text, **values):
        self.text, self.values = text, values

    @property
    def english(self):
        values = {k: v.english if isinstance(v, Sentence) else v for k, v in self.values.items()}
        return self.text.format(**values) if values else self.text

    def __str__(self):
        return _(self.text).format(**self.values) if self.values else _(self.text)

    def __repr__(self):
        return f"Sentence({self.english!r})"

    def __eq__(self, other):
        return isinstance(other, Sentence) and self.english == other.english

    def __hash__(self):
        return hash(self.english)


# ---------------------------------------------------------------- files of translations


@functools.cache
def translations(path):
    """({English text: its forms, for one thing and for many}, problems) of a messages.po, which is read once.

    Translations without the placeholders of the English text are left out and named among the problems. A file that cannot
    be read gives no translations, and a missing file gives no problems either. Never raises.
    """
    try:
        found = entries(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError) as error:
        return {}, [f"{path} cannot be read: {error}"]
    fitting, problems = {}, []
    for entry in found:
        if entry.fuzzy or not entry.one or not entry.forms or not all(entry.forms):
            continue  # marked as fuzzy, the header of the file, or not translated yet
        if entry.fits:
            fitting[entry.one] = entry.forms
        else:
            problems.append(f"{path}: the placeholders differ from those in {entry.one!r}: {entry.forms!r}")
    return fitting, problems


@dataclass
class Entry:
    """One text of a .po file: msgid, msgid_plural (else msgid again), the texts of msgstr, and whether they are fuzzy."""

    one: str
    many: str
    forms: list
    fuzzy: bool = False

    @property
    def fits(self):
        """Do the translations have the placeholders of the English text? "One try" may do without its number."""
        wanted = placeholders(self.many)
        if wanted is None:  # not a template, for instance code with braces
            return True
        here = [placeholders(form) for form in self.forms]
        plural = self.one != self.many and len(here) > 1
        return None not in here and here[0] <= wanted and all(p == wanted for p in here[plural:])


def entries(text):
    """The entries of a .po file, in its order. ValueError with the number of a line that cannot be read."""
    found, parts, fuzzy = [], [], False
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line.startswith("#,"):
            fuzzy = "fuzzy" in line
        if not line or line.startswith("#"):
            continue
        said = _LINE.fullmatch(line)
        try:
            keyword, words = said[1], ast.literal_eval(said[2])
        except (TypeError, SyntaxError, ValueError):
            raise ValueError(f'line {number} is not msgid "...", msgstr "..." or "...": {line}') from None
        if keyword == "msgid":
            parts = []
            found.append((parts, fuzzy))
            fuzzy = False
        if keyword:
            parts.append([keyword, words])
        elif parts:
            parts[-1][1] += words
    return [_entry(parts, fuzzy) for parts, fuzzy in found]


def _entry(parts, fuzzy):
    ids = [words for keyword, words in parts if keyword != "msgstr"]
    return Entry(ids[0], ids[-1], [words for keyword, words in parts if keyword == "msgstr"], fuzzy)


def placeholders(text):
    """{(name, format, conversion)} of a text for str.format, or None if it is not such a text."""
    try:
        return {field[1:] for field in string.Formatter().parse(text) if field[1] is not None}
    except ValueError:
        return None
