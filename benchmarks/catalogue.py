"""What the catalogue of exercises catches: `python benchmarks/catalogue.py [LESSON or EXERCISE ...] [--survivors] [--readme]`.

For each exercise it prints the number of checks, correct alternatives that are accepted, known mistakes that are rejected
and those that get their own diagnosis, pairs of mistakes that look alike, mutants of the reference that survive (see
tests/mutation.py), and the seconds that one answer takes. With --readme, the figures of all exercises replace those in
README.md.
"""

import argparse
import itertools
import re
import sys
import time
from pathlib import Path

import torch

from vit_edu import atomic, check
from vit_edu.check.compare import compare

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))

import alternatives  # noqa: E402
import mutation  # noqa: E402

try:
    from benchmarks import measure
except ImportError:  # started as a script
    import measure

# The part of README.md that --readme writes.
MARKERS = "<!-- written by benchmarks/catalogue.py --readme -->", "<!-- end -->"

COLUMNS = (
    "checks",
    "alternatives",
    "accepted",
    "mistakes",
    "rejected",
    "named",
    "alike",
    "mutants",
    "survivors",
    "explained",
    "seconds",
)


def alike(exercise):
    """Pairs of mistakes that give the same result on every case."""
    seen = [(m, exercise.observations(m.build)) for m in exercise.mistakes]
    return [
        (a.name, b.name)
        for (a, x), (b, y) in itertools.combinations(seen, 2)
        if all(compare(c, p, q)[0] for c, p, q in zip(exercise.cases, x, y, strict=True))
        and all(compare(c, q, p)[0] for c, p, q in zip(exercise.cases, x, y, strict=True))
    ]


def counts(exercise):
    """{column: value} for what can be counted without checking an answer."""
    return {
        "checks": len(exercise.cases),
        "alternatives": len(alternatives.of(exercise.name)),
        "mistakes": len(exercise.mistakes),
    }


def figures(exercise):
    """{column: value} for one exercise."""
    started = time.perf_counter()
    check.run(exercise.name, exercise.reference)
    first = time.perf_counter() - started
    found = [exercise.check(m.build) for m in exercise.mistakes]
    total, passed = mutation.survivors(exercise)
    explained = mutation.EXPLAINED.get(exercise.name, {})
    return counts(exercise) | {
        "accepted": sum(exercise.check(a).passed for a in alternatives.of(exercise.name)),
        "rejected": sum(not r.passed for r in found),
        "named": sum(r.diagnosis == m.diagnosis for r, m in zip(found, exercise.mistakes, strict=True)),
        "alike": alike(exercise),
        "mutants": total,
        "survivors": [p for p in passed if p not in explained],
        "explained": sum(p in explained for p in passed),
        "seconds": first,
    }


def summed(rows):
    """{column: sum over all exercises}. For a list, its length counts."""
    return {c: sum(_value(row, c) for row in rows) for c in COLUMNS if all(c in row for row in rows)}


def _value(row, column):
    return len(row[column]) if isinstance(row[column], list) else row[column]


def _line(name, row):
    cells = (f"{_value(row, c):>13.2f}" if c == "seconds" else f"{_value(row, c):>13}" for c in COLUMNS)
    return f"{name:30}{''.join(cells)}"


# ---------------------------------------------------------------- README.md


def readme_head(exercises, total):
    """The first line of the table in README.md."""
    return f"| {exercises} exercises, {total['checks']:,} checks | |"


def readme_part(rows, conditions):
    """What README.md says between MARKERS. rows: {exercise: figures}."""
    total, slowest = summed(rows.values()), max(row["seconds"] for row in rows.values())
    rejected = total["mutants"] - total["explained"] - total["survivors"]
    return f"""
What the checks know, as counted by `python benchmarks/catalogue.py` ({conditions}):

{readme_head(len(rows), total)}
|---|---|
| right answers written in other ways, accepted | {total["accepted"]} of {total["alternatives"]} |
| known mistakes, rejected | {total["rejected"]} of {total["mistakes"]} |
| ... and named by their own diagnosis | {total["named"]} of {total["mistakes"]} |
| pairs of mistakes that look alike | {total["alike"]} |
| mutants of the reference, made by a program, rejected | {rejected} of {total["mutants"]} |
| ... that pass and are right answers as well: each with its reason | {total["explained"]} |
| slowest first answer | {slowest:.2f} s |

"""


def between_markers(text):
    """The start and the end of the part of README.md that --readme writes."""
    start, end = MARKERS
    found = re.search(f"(?<={re.escape(start)}\n)(.*?)(?={re.escape(end)})", text, re.DOTALL)
    if not found:
        raise SystemExit(f"README.md has no part between the lines\n{start}\n{end}")
    return found.span()


def write_readme(rows, conditions):
    file = ROOT / "README.md"
    text = file.read_text(encoding="utf-8")
    start, end = between_markers(text)
    atomic.write(file, text[:start] + readme_part(rows, conditions) + text[end:])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="lessons or exercises")
    parser.add_argument("--survivors", action="store_true", help="list them")
    parser.add_argument(
        "--readme", action="store_true", help="write the figures of all exercises to README.md"
    )
    args = parser.parse_args()
    if args.only and args.readme:
        parser.error("--readme needs the figures of all exercises: leave out the names.")
    names = check.names()
    if args.only:
        names = [n for o in args.only for n in (check.names(o) if o in check.LESSONS else [o])]
    started, rows = time.perf_counter(), {n: figures(check.get(n)) for n in names}
    conditions = f"{time.perf_counter() - started:.0f} s, {measure.hardware('cpu')}, torch {torch.__version__.split('+')[0]}"
    print(f"{'exercise':30}" + "".join(f"{c:>13}" for c in COLUMNS))
    for name, row in rows.items():
        print(_line(name, row))
        if args.survivors:
            for what in row["survivors"]:
                print(f"    survives: {what}")
            for pair in row["alike"]:
                print(f"    alike: {' and '.join(pair)}")
    print(_line(f"all {len(rows)}", summed(rows.values())))
    print(
        f"\nslowest first answer {max(r['seconds'] for r in rows.values()):.2f} s; all of this: {conditions}"
    )
    if args.readme:
        write_readme(rows, conditions)


if __name__ == "__main__":
    main()
