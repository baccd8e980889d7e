r"""What learners and teachers read about the exercises: hints, diagnoses and talking points.

They are in `text/LANGUAGE/NN_name.md`, one file per lesson. Each file is Markdown that can also be read as a page:

    # 01 Patches

    Anything before the first exercise is only for readers of the file.

    ## patchify

    1. The first hint.
    2. The second hint.
    3. `x = images.reshape(...)`\
       `return x`

    ### reshape_only (easily made)

    The diagnosis: what learners read if their answer behaves like this mistake.

    > The talking point: a question or a demonstration for the class.

Lines are joined with a space, so they may be wrapped anywhere. A backslash at the end of a line keeps its line break, and
a fence of ``` keeps all line breaks inside it and is left out itself. "(easily made)" in the English file marks the one mistake
of an exercise that is also told after a right answer.

The English files are the table of contents of the course: they say which lessons and exercises there are, and in which
order an answer is compared with the known mistakes. A translation is another folder, named like the language in lower
case, with files of the same names. Whatever it lacks is taken from English, and so is a whole file that has a fault, because a
learner's answer must not fail for it. `problems` names such faults to the translator.
"""

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path

from vit_edu import settings

FOLDER = Path(__file__).parent / "text"
SOURCE = "en"

# A lesson that is too long for one sitting goes on in further notebooks. Their names, and their exercises
LATER = {
    "11": {
        "11b_segmentation": ("tokens_to_map", "class_iou", "dice_loss"),
        "11c_detection": (
            "CrossAttention",
            "to_corners",
            "box_iou",
            "generalized_box_iou",
            "matching_cost",
            "set_loss",
            "average_precision",
        ),
        "11d_video": ("tubelets", "space_time_positions", "video_attention_cost", "inflate"),
    },
    "12": {"12b_few_labels": ("knn_predict", "layer_rate")},
}
MARK = " (easily made)"


class TextError(Exception):
    """A text is missing, duplicated, empty or unused. The message names its file and its section."""


@dataclass
class Section:
    """What one file says about one exercise. mistakes: {name: (diagnosis, talking point)}, in the order of the file.

    easily_made: the name of the mistake that is marked as such, or ""."""

    hints: tuple = ()
    mistakes: dict = field(default_factory=dict)
    easily_made: str = ""


def lessons():
    """{number: name} of all lessons in order, such as {"00": "start_here"}."""
    return {f.stem[:2]: f.stem[3:] for f in sorted((FOLDER / SOURCE).glob("[0-9][0-9]_*.md"))}


def exercises():
    """{exercise: number of its lesson}, in the order of the course."""
    return _contents(FOLDER)


def notebooks():
    """{name: its exercises} of all notebooks in the order of the course, such as {"03_attention": ["split_heads", ...]}."""
    found = {}
    for number, name in lessons().items():
        held = [exercise for exercise, lesson in exercises().items() if lesson == number]
        later = LATER.get(number, {})
        found[f"{number}_{name}"] = [e for e in held if not any(e in theirs for theirs in later.values())]
        for notebook, theirs in later.items():
            found[notebook] = [e for e in held if e in theirs]
    return found


def hints(exercise):
    """The hints for an exercise in the best language that has them. TextError if there is no such section."""
    return next(s.hints for s in _sections(exercise) if s.hints)


def mistakes(exercise, written):
    """The names of an exercise's known mistakes, in the order in which an answer is compared with them.

    written: the names of those that have code. TextError if text and code do not have the same names.
    """
    file, section = _source(exercise)
    if missing := [name for name in written if name not in section.mistakes]:
        raise TextError(
            f"{_short(file)}, {exercise}: no section for {', '.join(missing)}. Write one below "
            f"'## {exercise}', under '### {missing[0]}'."
        )
    if unused := [name for name in section.mistakes if name not in written]:
        raise TextError(
            f"{_short(file)}, {exercise}: there is no mistake called {', '.join(unused)} in the catalogue. Rename the "
            "section or delete it."
        )
    return list(section.mistakes)


def mistake(exercise, name):
    """(diagnosis, talking point) of a known mistake in the best language that has them. TextError if none has."""
    for section in _sections(exercise):
        if name in section.mistakes:
            return section.mistakes[name]
    raise TextError(f"{_short(_source(exercise)[0])}, {exercise}: no section for {name}.")


def easily_made(exercise):
    """The name of the mistake that is told even after a right answer, or "" if none is marked."""
    return _source(exercise)[1].easily_made


def translation(language, lesson):
    """{exercise: Section} of a lesson in one language; empty if the lesson is not translated.

    TextError if the file cannot be read as the text of this lesson.
    """
    source = _file(lesson)
    file = FOLDER / language / source.name
    if not file.exists():
        return {}
    found, known = _read(file), _read(source)
    for exercise, section in found.items():
        if exercise not in known:
            raise TextError(f"{_short(file)}, {exercise}: the lesson has no such exercise.")
        if unused := [name for name in section.mistakes if name not in known[exercise].mistakes]:
            raise TextError(f"{_short(file)}, {exercise}: there is no mistake called {', '.join(unused)}.")
        if section.hints and len(section.hints) != len(known[exercise].hints):
            raise TextError(
                f"{_short(file)}, {exercise}: {len(section.hints)} hints, but there are "
                f"{len(known[exercise].hints)} in {_short(source)}."
            )
    return found


def problems(language):
    """What is wrong with the files of a language, a list of texts. Learners read these lessons in English."""
    names = {_file(lesson).name for lesson in lessons()}
    files = sorted((FOLDER / language).glob("*.md"))
    found = [
        f"{_short(file)}: no lesson has a text of this name." for file in files if file.name not in names
    ]
    for lesson in lessons():
        try:
            translation(language, lesson)
        except TextError as error:
            found.append(str(error))
    return found


# ---------------------------------------------------------------- finding a section


@functools.cache
def _contents(folder):
    """What `exercises` gives for FOLDER, which is the key of the cache."""
    found = {}
    for number in lessons():
        for exercise in _read(_file(number)):
            if exercise in found:
                raise TextError(f"{_short(_file(number))}, {exercise}: also in lesson {found[exercise]}.")
            found[exercise] = number
    return found


def _file(lesson):
    return FOLDER / SOURCE / f"{lesson}_{lessons()[lesson]}.md"


def _source(exercise):
    """The English file with this exercise, and its section."""
    if exercise not in exercises():
        raise TextError(f"no file in {_short(FOLDER / SOURCE)} has a section called {exercise}.")
    file = _file(exercises()[exercise])
    return file, _read(file)[exercise]


def _sections(exercise):
    """The sections about an exercise, in the best language first; English comes last."""
    _, source = _source(exercise)
    for language in settings.languages():
        if language == SOURCE:
            break
        try:
            translated = translation(language, exercises()[exercise])
        except TextError:  # `problems` names it
            continue
        if exercise in translated:
            yield translated[exercise]
    yield source


def _short(path):
    return path.relative_to(FOLDER.parent).as_posix()


# ---------------------------------------------------------------- reading a file


@functools.cache
def _read(file):
    """{exercise: Section} of one file. TextError for what is duplicated, empty or out of place."""
    sections = {}
    parts, marked = _split(file)
    for (exercise, name), lines in parts.items():
        where = f"{_short(file)}, {exercise}" + f", {name}" * bool(name)
        if not name:
            sections[exercise] = Section(_items(lines, where), easily_made=marked.get(exercise, ""))
            continue
        said = _joined([line for line in lines if not line.startswith(">")])
        talk = _joined([line[1:] for line in lines if line.startswith(">")])
        if not said:
            raise TextError(f"{where}: the diagnosis is empty.")
        if not talk:
            raise TextError(
                f"{where}: there is no talking point. Write it as a paragraph that starts with '> '."
            )
        sections[exercise].mistakes[name] = said, talk
    for exercise, section in sections.items():
        if file.parent.name == SOURCE and not section.hints:
            raise TextError(
                f"{_short(file)}, {exercise}: there are no hints. Write them as a list, '1. ', '2. ', '3. '."
            )
    return sections


def _split(file):
    """{(exercise, mistake or ""): its lines} in the order of the file, and {exercise: the mistake with MARK}."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(f"{_short(file)} cannot be read: {error}.") from error
    parts, marked, exercise, lines, fenced = {}, {}, None, [], False
    for line in text.splitlines():
        heading = None if fenced else re.fullmatch(r"(##|###) (.*)", line)
        if heading:
            name = heading[2].strip()
            if heading[1] == "###" and name.endswith(MARK):
                name = name.removesuffix(MARK)
                if marked.setdefault(exercise, name) != name:
                    raise TextError(
                        f"{_short(file)}, {exercise}: {marked[exercise]} and {name} are both marked with '{MARK.strip()}'."
                    )
            if not name.isidentifier():
                raise TextError(f"{_short(file)}: '{line}' is not the name of an exercise or of a mistake.")
            if heading[1] == "##":
                exercise = name
            elif exercise is None:
                raise TextError(f"{_short(file)}: '{line}' comes before the first exercise.")
            key = (exercise, "") if heading[1] == "##" else (exercise, name)
            if key in parts:
                raise TextError(
                    f"{_short(file)}, {', '.join(filter(None, key))}: there are two such sections."
                )
            lines = parts[key] = []
        else:
            fenced ^= bool(re.match(r"(\d+\. )?\s*```", line))
            lines.append(line)
    return parts, marked


def _items(lines, where):
    """The items of a numbered list, as a tuple of texts."""
    items = []
    for line in lines:
        if re.match(r"\d+\. ", line):
            items.append([line.split(" ", 1)[1]])
        elif items:
            items[-1].append(line.removeprefix("   "))
        elif line.strip():
            raise TextError(f"{where}: '{line}' comes before the first hint.")
    if not all(texts := tuple(_joined(item) for item in items)):
        raise TextError(f"{where}: hint {texts.index('') + 1} is empty.")
    return texts


def _joined(lines):
    """The lines joined into one text. The module's docstring says which line breaks are kept."""
    text, fenced, between = "", False, ""
    for line in lines:
        if line.strip().startswith("```"):
            fenced = not fenced
            between = "\n" * bool(text)
        elif fenced or line.strip():
            kept = fenced or line.endswith("\\")
            line = line if fenced else line.rstrip().removesuffix("\\").rstrip()
            text += between + (line if between == "\n" else line.lstrip())
            between = "\n" if kept else " "
    return text.strip()
