"""Writes the course as pages, with every solution run in full on the data that is found."""

import os
import re
import sys
import time

from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from tqdm import tqdm

from vit_edu import data
from vit_edu.authoring.notebooks import execute, read, solutions


def course(root, out, only=()):
    """Run every solution in full on the data that is found, and write one page each and an index into `out`.

    If a solution fails, its page shows the error, and the others are run all the same. Returns an exit status.
    """
    paths = [p for p in solutions(root) if not only or p.name[:2] in only]
    if not paths:
        numbers = ", ".join(dict.fromkeys(p.name[:2] for p in solutions(root)))
        print(
            f"vit-edu course: no solution has the number {' or '.join(only)}; the numbers are {numbers}.",
            file=sys.stderr,
        )
        return 1
    try:
        print(data.load())  # chosen, and downloaded if need be, before the first notebook runs
    except data.DataError as error:
        print(f"vit-edu course: {error}", file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    notebooks = {p: read(p) for p in paths}
    failed, rows = [], []
    with tqdm(total=sum(len(n.cells) for n in notebooks.values()), unit="cell", file=sys.stdout) as bar:
        for path, notebook in notebooks.items():
            bar.set_description(path.stem)
            started, before = time.perf_counter(), bar.n
            try:
                execute(
                    notebook,
                    path.parent,
                    lambda index, start=before: bar.update(start + index - bar.n),
                )
            except CellExecutionError as error:
                failed.append(path.name)
                bar.write(f"{path.name} failed:\n{str(error)[-1500:]}")
            bar.update(before + len(notebook.cells) - bar.n)
            (out / f"{path.stem}.html").write_text(_page(notebook, path.stem), encoding="utf-8")
            rows.append((path.stem, time.perf_counter() - started))
    (out / "index.html").write_text(_index(rows), encoding="utf-8")
    print(
        f"{len(rows) - len(failed)} of {len(rows)} solutions ran without an error. Open {os.path.relpath(out / 'index.html')}."
    )
    return 1 if failed else 0


def _page(notebook, name):
    """A notebook as HTML, with links to other lessons leading to their pages."""
    # Without embed_images, which parses cell text piece by piece and closes every <details> before its answer
    page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": name}})
    return re.sub(r'href="(\d\d\w+)\.ipynb', r'href="\1.html', page)


def _index(rows):
    """The page that lists all others. rows: (name, seconds) of each."""
    items = "".join(
        f'<li><a href="{name}.html">{name}</a> ({seconds:.0f} s)</li>\n' for name, seconds in rows
    )
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>vit_edu: the course</title>\n'
        f"<h1>The course, with its solutions run</h1>\n<ul>\n{items}</ul>\n</html>\n"
    )
