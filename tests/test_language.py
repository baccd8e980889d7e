"""Another language is only a file. With a made-up language, in which every letter looks different, no English is left."""

import contextlib
import dataclasses
import html
import json
import os
import re
import shutil
import string
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

from vit_edu import check, settings
from vit_edu.check import after, guard, language, report, sentences, texts

ROOT = Path(__file__).parents[1]

# Letters of full width: still letters, none of them English.
WIDE = {ord(c): ord(c) + 0xFEE0 for c in string.ascii_letters}


def pseudo(text):
    """The text in the made-up language, with its placeholders unchanged."""
    if not language.placeholders(text):
        return text.translate(WIDE)
    said = ""
    for words, name, spec, conversion in string.Formatter().parse(text):
        said += words.translate(WIDE).replace("{", "{{").replace("}", "}}")
        if name is not None:
            said += "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
    return said


def po(translations):
    """A .po file of {English: translation}, or of {(one, many): [translation, ...]}."""
    lines = []
    for source, said in translations.items():
        if isinstance(source, tuple):
            lines += [f"msgid {json.dumps(source[0])}", f"msgid_plural {json.dumps(source[1])}"]
            lines += [f"msgstr[{i}] {json.dumps(form)}" for i, form in enumerate(said)]
        else:
            lines += [f"msgid {json.dumps(source)}", f"msgstr {json.dumps(said)}"]
        lines.append("")
    return "\n".join(lines)


@pytest.fixture(scope="module")
def said():
    """(one, many) of all sentences in the code and of all cases, and what the cases of one exercise say in words."""
    found = [(one, many) for one, many, _place in sentences.in_code()]
    for name in check.names():
        found += [(text, text) for text in sentences.in_cases(name)]
    found += [(text, text) for text in sentences.in_observations("random_flip")]
    return found + [(t := module.replace("_", " "), t) for module in check.LESSONS.values()]


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Write a file of translations: text("de", {English: German}) or text("de", the file itself)."""
    monkeypatch.setattr(language, "TEXT", tmp_path / "text")

    def write(code, content):
        path = language.TEXT / code / "messages.po"
        path.parent.mkdir(parents=True)
        path.write_text(content if isinstance(content, str) else po(content), encoding="utf-8")
        monkeypatch.setenv("VIT_EDU_LANG", code)
        return path

    return write


@pytest.fixture
def in_pseudo(said, text):
    """From here on, everything is said in the made-up language."""
    text(
        "xx",
        {(a if a == b else (a, b)): pseudo(a) if a == b else [pseudo(a), pseudo(b)] for a, b in said},
    )


def english(shown, *but):
    """The English words in what is shown, as text or as a page; `but`: what is code or the learner's own text."""
    shown = html.unescape(re.sub(r"<[^>]+>", " ", shown))
    for own in sorted(but, key=len, reverse=True):
        shown = shown.replace(own, " ")
    return re.findall(r"[A-Za-z]{2,}", shown)


def forms(found):
    """A report as text and as a page, without its diagnosis, which is in another file."""
    found = dataclasses.replace(found, diagnosis=None)
    return found.text, found._repr_mimebundle_()["text/html"]


def no_return(height, width, patch_size):
    print("learner")


def crashes(height, width, patch_size):
    return torch.zeros(height).reshape(7)


def aborts(height, width, patch_size):
    os.abort()


def unwritten(height, width, patch_size):
    raise NotImplementedError


class Renamed(nn.Module):
    def __init__(self, in_features, hidden_features):
        super().__init__()
        self.first = nn.Linear(in_features, hidden_features)
        self.second = nn.Linear(hidden_features, in_features)

    def forward(self, x):
        return self.second(nn.functional.gelu(self.first(x)))


class Unequal(Renamed):
    def __init__(self, in_features, hidden_features):
        super().__init__(in_features, hidden_features)
        self.second = nn.Linear(hidden_features, in_features, bias=False)


PARAMETERS = ("first.", "second.", "fc1.", "fc2.", "weight", "bias")
# (exercise, answer, status, what stays in English)
ANSWERS = {
    "right": ("count_patches", check.get("count_patches").reference, report.RIGHT, ()),
    "not attempted": ("count_patches", unwritten, report.EMPTY, ("check.hint",)),
    "crashed": (
        "count_patches",
        crashes,
        report.CRASHED,
        ("RuntimeError", "shape '[7]' is invalid for input of size", "crashes", "return torch.zeros(height).reshape(7)"),
    ),
    "forbidden": (
        "count_patches",
        aborts,
        report.CRASHED,
        ("os.abort()", "abort()", "aborts"),
    ),
    "nothing returned": ("count_patches", no_return, report.WRONG, ("learner",)),
    "a case in words": ("random_flip", lambda images: images.flip(-2), report.WRONG, ()),
    "a case that fails": ("random_flip", lambda images: images.double(), report.WRONG, ("torch.float", "torch.uint")),
    "a worked case": ("patchify", lambda x, p: x.reshape(len(x), -1, p * p * x.shape[1]), report.WRONG, ()),
    "a picture": ("sincos_positions", lambda *sizes: torch.zeros(sizes[0] * sizes[1], sizes[2]), report.WRONG, ()),
    "other names": ("Mlp", Renamed, report.RIGHT, PARAMETERS),
    "other parameters": ("Mlp", Unequal, report.WRONG, PARAMETERS),
}  # fmt: skip


@pytest.mark.parametrize(("name", "candidate", "status", "own"), ANSWERS.values(), ids=ANSWERS)
def test_no_english_is_left_in_an_answer(name, candidate, status, own, in_pseudo):
    found = check.run(name, candidate)
    assert found.status == status  # for programs, in English
    for shown in forms(found):
        assert english(shown, name, "check.hint", *own) == []
        assert len(re.findall("[\uff21-\uff5a]", shown)) > 15
    for alternative in re.findall(r"alt='([^']*)'", shown):
        assert english(alternative) == []


@pytest.mark.parametrize("folder", ["lessons", "nowhere"])
@pytest.mark.parametrize("name", ["patchify", "overlapping_patches", check.names()[-1]])
def test_no_english_is_left_after_a_right_answer(name, folder, in_pseudo, monkeypatch, tmp_path):
    if folder == "nowhere":
        monkeypatch.setattr(settings, "course_root", lambda: None)
    else:
        monkeypatch.chdir(ROOT / folder)
    shown = after.page(name, no_return, check.get(name).reference)
    mistake = texts.mistake(name, texts.easily_made(name))[0]
    shown = re.sub(
        r"<pre.*?</pre>|<code>.*?</code>", " ", shown.replace(report.inline(mistake), " "), flags=re.S
    )
    assert english(shown, *(f"solutions/{p.name}" for p in (ROOT / "solutions").glob("*.ipynb"))) == []


def test_no_english_is_left_where_an_answer_loops(in_pseudo, monkeypatch):
    def forever(height, width, patch_size):
        while True:
            with contextlib.suppress(BaseException):
                let_go.wait(0.05)
            if let_go.is_set():
                return

    let_go = threading.Event()
    check.run("count_patches", check.get("count_patches").reference)  # remembered from here on
    monkeypatch.setattr(guard, "clock", lambda: float("inf"))  # the time is up at once
    found = check.run("count_patches", forever)
    let_go.set()
    assert found.status == report.SLOW
    for shown in forms(found):
        assert english(shown, "count_patches", "check.hint") == []


def test_hints_progress_and_errors_are_translated(in_pseudo, tmp_path, monkeypatch):
    file = tmp_path / "progress.json"
    monkeypatch.setenv("VIT_EDU_PROGRESS", str(file))
    names = check.names()
    file.write_text(
        json.dumps(
            {"exercises": {names[0]: {"right": "x", "tries": 1}, names[1]: {"right": None, "tries": 2}}}
        ),
        encoding="utf-8",
    )
    shown = check.progress()
    page = shown._repr_mimebundle_()["text/html"]
    assert english(shown.text, *names) == english(page, *names) == []
    assert english(re.search(r"aria-label='([^']*)'", page)[1]) == []
    file.write_text("{", encoding="utf-8")
    assert english(check.progress().remark, str(tmp_path), "progress.damaged", "json") == []
    for step in (1, 3):
        hint = check.hint("patchify", step)
        notebook = "solutions/01_patches.ipynb"
        assert english(hint.text, "patchify", notebook, *hint.hints) == []
        closing = hint._repr_mimebundle_()["text/html"].partition("</ol>")[2]
        assert english(closing, notebook) == []
    with pytest.raises(TypeError) as error:
        check.exercise(3)
    assert english(str(error.value), "check.exercise", "def", "class", "int") == []
    for wrong in ("patchfy", "nothing like it"):
        with pytest.raises(KeyError) as error:
            check.get(wrong)
        assert english(error.value.args[0], wrong, *names) == []
    with pytest.raises(KeyError) as error:
        check.names("99")
    assert english(error.value.args[0]) == []


# ---------------------------------------------------------------- programs and people


def test_a_session_may_change_its_language_and_programs_do_not_notice(in_pseudo, monkeypatch):
    """What mistakes do is remembered; a sentence remembered in one language must equal the same one in another."""
    exercise = check.get("random_crop")
    monkeypatch.setattr(exercise, "_observed", {})
    seen = {}
    for code in ("en", "xx"):
        monkeypatch.setenv("VIT_EDU_LANG", code)
        # By name, because diagnoses may be translated, too
        by_words = {m.diagnosis: m.name for m in exercise.mistakes}
        found = [exercise.check(m.build) for m in exercise.mistakes]
        seen[code] = [
            (r.status, by_words[r.diagnosis], [(c.name, c.passed) for c in r.checks]) for r in found
        ]
        failed = [c.message for r in found for c in r.checks if not c.passed]
        assert bool(english(failed[0])) == (code == "en")
    assert seen["en"] == seen["xx"]


def test_sentences_are_equal_when_they_read_the_same_in_english():
    one = language.Sentence("holds {value:.4g}", value=1 / 3)
    assert one == language.Sentence("holds {value:.4g}", value=0.33331)
    assert one != language.Sentence("holds {value:.4g}", value=0.5)
    assert language.Sentence("{what}", what=one).english == "holds 0.3333"
    assert str(language.Sentence("{as it is}")) == "{as it is}"


# ---------------------------------------------------------------- incomplete and damaged translations


def headline():
    return check.run("count_patches", check.get("count_patches").reference).headline


COUNT, RIGHT = "{passed} of {total} checks passed", "✓ {name}: right. {count}."


def test_what_is_not_translated_is_english(text):
    text("de_at", {COUNT: "{passed} von {total} Prüfungen bestanden"})
    assert headline() == "✓ count_patches: right. 4 von 4 Prüfungen bestanden."


def test_a_language_serves_its_regions(text, monkeypatch):
    text("de", {COUNT: "{passed} von {total} bestanden", RIGHT: "✓ {name}: stimmt. {count}."})
    text("de_at", {RIGHT: "✓ {name}: passt. {count}."})
    monkeypatch.setenv("VIT_EDU_LANG", "de-AT")
    assert headline() == "✓ count_patches: passt. 4 von 4 bestanden."


@pytest.mark.parametrize(
    "wrong",
    [
        "{passed} von {all}",
        "{passed} bestanden",
        "{passed:d} von {total}",
        "{} von {}",
        "{passed} von {total",
        "}",
    ],
)
def test_a_translation_that_does_not_fit_is_named_and_english_is_shown(text, wrong, capsys):
    path = text("de", {COUNT: wrong, "right": "richtig"})
    assert headline() == "✓ count_patches: right. 4 of 4 checks passed."
    done, problems = sentences.problems("de", {COUNT: None, "right": None})
    assert done == 1
    assert len(problems) == 1
    assert str(path) in problems[0]
    assert COUNT in problems[0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('msgid "a"\nmsgstr "b', "line 2 is not"),
        ("not a file of translations", "line 1 is not"),
        ('msgctxt "menu"\nmsgid "a"\nmsgstr "b"', "line 1 is not"),
        ('msgid "a" "b"\nmsgstr ""c"', "line 2 is not"),
    ],
)
def test_a_damaged_file_is_named_and_english_is_shown(text, content, says):
    path = text("de", content)
    assert headline() == "✓ count_patches: right. 4 of 4 checks passed."
    done, problems = sentences.problems("de", {})
    assert done == 0
    assert says in problems[0]
    assert str(path) in problems[0]


def test_a_file_as_translators_tools_write_it(text):
    text(
        "de",
        '# Deutsch\nmsgid ""\nmsgstr "Language: de\\n"\n\n'
        '#: report.py:12\n#, python-brace-format\nmsgid ""\n"{passed} of {total} "\n"checks passed"\n'
        'msgstr ""\n"{passed} von {total} \\"Checks\\" "\n"bestanden"\n\n'
        f'#, fuzzy, python-brace-format\nmsgid "{RIGHT}"\nmsgstr "geraten {{name}} {{count}}"\n\n'
        '#~ msgid "old"\n#~ msgstr "alt"\n\n'
        'msgid "right"\nmsgstr ""\n\n'
        'msgid ", {number} try"\nmsgid_plural ", {number} tries"\nmsgstr[0] ", ein Versuch"\nmsgstr[1] ", {number} Versuche"\n',
    )
    assert headline() == '✓ count_patches: right. 4 von 4 "Checks" bestanden.'
    assert language._("right") == "right"
    assert language._("old") == "old"
    tries = [language.ngettext(", {number} try", ", {number} tries", n) for n in (1, 2)]
    assert tries == [", ein Versuch", ", {number} Versuche"]


def test_a_language_with_one_form_for_all_numbers(text):
    text("zh", {(", {number} try", ", {number} tries"): ["，{number} 次"]})
    tries = [language.ngettext(", {number} try", ", {number} tries", n).format(number=n) for n in (1, 2)]
    assert tries == ["，1 次", "，2 次"]


# ---------------------------------------------------------------- for translators


def test_every_sentence_is_listed(said):
    """What the checks of this course say, however it is said in code."""
    listed = {one for one, _many in said}
    assert {
        COUNT,
        RIGHT,
        "no gradient reaches the input, so nothing before this layer could learn",
    } <= listed  # call, class
    assert {
        "all images are shifted alike",
        "all images are shifted alike, and always by the same amount",
    } <= listed  # ... if ... else
    assert {
        "the image is mirrored at its border, where zeros should come in",
        "not yet",
    } <= listed  # marked with N_
    assert {"upside down", "three colour channels", "start here"} <= listed
    assert ("expected {number} value, got {got}", "expected {number} values, got {got}") in said


@pytest.mark.parametrize(
    "source", ['_(f"{n} left")', 'CaseFailed("a " + b)', 'Sentence("a" if b else f"{c}")']
)
def test_a_sentence_that_cannot_be_looked_up_is_an_error(tmp_path, source):
    (tmp_path / "code.py").write_text(f"n = 1\n{source}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"code\.py:2: a sentence that is put together"):
        list(sentences.in_code(tmp_path))


def test_the_command_writes_a_file_to_go_on_with(text, said, monkeypatch, capsys):
    found = {one: sentences.Source(one, many, ["here"]) for one, many in said}
    monkeypatch.setattr(sentences, "sources", lambda: found)
    path = text("de", {"right": "richtig", COUNT: "{passed}", "no longer said": "weg"})
    shutil.copytree(texts.FOLDER / "en", language.TEXT / "en")
    monkeypatch.setattr(texts, "FOLDER", language.TEXT)
    path.with_name("99_none.md").write_text("", encoding="utf-8")
    assert sentences.main(["de"]) == 1
    out, told = capsys.readouterr()
    assert f"de: 1 of {len(found)} sentences are translated." in told
    assert "the placeholders differ from those in '{passed} of {total} checks passed'" in told
    assert "this sentence is no longer used: 'no longer said'" in told
    entries = {e.one: e for e in language.entries(out)}
    assert entries.keys() == found.keys() | {""}
    assert entries["right"].forms == ["richtig"]
    assert "text/de/99_none.md: no lesson has a text of this name." in told
    assert entries[COUNT].fuzzy  # kept, to be mended
    assert entries[COUNT].forms == ["{passed}"]
    assert all(e.many == found[e.one].many for e in entries.values() if e.one)
    text("fr", out)
    monkeypatch.delitem(found, "right")
    assert sentences.main(["xx"]) == 0
    assert f"xx: 0 of {len(found)} sentences are translated.\n" in capsys.readouterr().err


def test_the_file_that_is_read_can_be_written(text, said, monkeypatch, capsys):
    found = {one: sentences.Source(one, many, ["here"]) for one, many in said}
    monkeypatch.setattr(sentences, "sources", lambda: found)
    text("de", {"right": "richtig"})
    path = language.TEXT / "de" / "messages.po"
    assert sentences.main(["de", "--out", str(path)]) == 0
    assert capsys.readouterr().out == ""
    entries = {e.one: e for e in language.entries(path.read_text(encoding="utf-8"))}
    assert entries.keys() == found.keys() | {""}
    assert entries["right"].forms == ["richtig"]


@pytest.mark.parametrize(
    "path", sorted(language.TEXT.glob("*/messages.po")), ids=lambda path: path.parent.name
)
def test_translations_of_the_course_fit(path):
    assert sentences.problems(path.parent.name, sentences.sources())[1] == []
