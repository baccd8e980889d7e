"""The life of a notebook: solutions/ is written by hand, lessons/ is derived from it, pages are rendered from it.

Deriving uses nbgrader's own preprocessors, so that what stands between BEGIN SOLUTION and END SOLUTION is treated as
teachers with nbgrader expect; an unclosed or nested marker is an error.
"""

import asyncio
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbgrader.preprocessors import ClearOutput, ClearSolutions, LockCells
from tqdm import tqdm
from traitlets.config import Config

# The tag by which nbval compares a stored output. Only solutions carry it: lessons have no outputs.
COMPARED = "nbval-check-output"
STUB = {"python": 'raise NotImplementedError("write your answer here")'}


def derive(notebook):
    """The lesson that follows from a solution: answers replaced by a stub, outputs cleared, answer cells kept.

    notebook: a NotebookNode; it is not changed. Returns another. Raises RuntimeError for a marker that is not
    closed, is nested, or stands in a cell without nbgrader's metadata.
    """
    lesson = nbformat.from_dict(notebook)
    for preprocessor in (ClearSolutions, LockCells, ClearOutput):
        config = Config({"ClearSolutions": {"code_stub": STUB}})
        lesson, _ = preprocessor(config=config).preprocess(lesson, {})
    for cell in lesson.cells:
        tags = [t for t in cell.metadata.pop("tags", []) if t != COMPARED]
        if tags:
            cell.metadata["tags"] = tags
    return lesson


def tidy(notebook):
    """Take out of a notebook, in place, what running it leaves behind: counts, times, outputs that are not compared."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        cell.metadata.pop("execution", None)
        compared = COMPARED in cell.metadata.get("tags", [])
        # A cell without a number looks to nbval as if it had not run, and is not compared.
        cell.execution_count = number if compared else None
        cell.outputs = _joined(cell.outputs, number) if compared else []
    return notebook


def _joined(outputs, number):
    """Outputs with what was printed in several pieces as one, and the cell's number on results."""
    joined = []
    for output in outputs:
        if "execution_count" in output:
            output["execution_count"] = number
        last = joined[-1] if joined else {}
        if output.output_type == "stream" == last.get("output_type") and output.name == last["name"]:
            last["text"] += output.text
        else:
            joined.append(output)
    return joined


def read(path):
    """A notebook from disk, validated."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def as_text(notebook):
    """A notebook as it is written to disk."""
    return nbformat.writes(notebook, version=4) + "\n"


def execute(notebook, folder, on_cell=None):
    """Run all cells in place, in `folder`. on_cell(index): called before each. Raises CellExecutionError."""
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    # Errors only: no remarks on the connection
    client.extra_arguments = ["--IPKernelApp.log_level=40"]
    if on_cell:
        client.on_cell_start = lambda cell, cell_index: on_cell(cell_index)
    # Not the learner's progress
    asyncio.run(client.async_execute(env={**os.environ, "VIT_EDU_PROGRESS": "off"}))
    return notebook


def solutions(root):
    """The solution notebooks, in the order of the course."""
    return sorted((root / "solutions").glob("[0-9][0-9]_*.ipynb"))


def derive_all(root, refresh=False, check=False):
    """Make lessons/ from solutions/. Returns an exit status: with `check`, 1 if anything would change."""
    if refresh:
        with ThreadPoolExecutor(2) as pool:
            list(
                tqdm(
                    pool.map(_refresh, solutions(root)),
                    total=len(solutions(root)),
                    desc="solutions",
                    unit="nb",
                )
            )
    changed, wanted = [], set()
    for path in solutions(root):
        target = root / "lessons" / path.name
        wanted.add(target)
        text = as_text(derive(read(path)))
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            changed.append(target.name)
            if not check:
                target.parent.mkdir(exist_ok=True)
                target.write_text(text, encoding="utf-8")
    for extra in sorted(set((root / "lessons").glob("*.ipynb")) - wanted):
        changed.append(extra.name)
        if not check:
            extra.unlink()
    if check and changed:
        print(f"lessons/ is not what follows from solutions/: {', '.join(changed)}. Run: make lessons")
        return 1
    print(f"{len(wanted)} lessons, {len(changed)} changed.")
    return 0


def _refresh(path):
    notebook = tidy(execute(read(path), path.parent))
    path.write_text(as_text(notebook), encoding="utf-8")


# ---------------------------------------------------------------- pages


def course(root, out, only=()):
    """Run every solution in full on the data that is found, and write one page each and an index into `out`.

    A solution that fails costs its own page; the others are written. Returns an exit status.
    """
    from nbconvert import HTMLExporter

    from vit_edu import data

    paths = [p for p in solutions(root) if not only or p.name[:2] in only]
    if not paths:
        print(
            f"no solution has a number in {', '.join(only)}; there are {', '.join(p.name[:2] for p in solutions(root))}."
        )
        return 1
    try:
        print(data.load())  # decided, and downloaded where need be, before the first notebook
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
            # Not embed_images: it parses cell text piece by piece, and closes every <details> before its answer
            page, _ = HTMLExporter().from_notebook_node(notebook, {"metadata": {"name": path.stem}})
            page = re.sub(r'href="(\d\d_\w+)\.ipynb', r'href="\1.html', page)
            (out / f"{path.stem}.html").write_text(page, encoding="utf-8")
            rows.append((path.stem, time.perf_counter() - started))
    items = "".join(
        f'<li><a href="{stem}.html">{stem}</a> ({seconds:.0f} s)</li>\n' for stem, seconds in rows
    )
    (out / "index.html").write_text(
        '<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>vit_edu: the course</title>\n'
        f"<h1>The course, with its solutions run</h1>\n<ul>\n{items}</ul>\n</html>\n",
        encoding="utf-8",
    )
    print(
        f"{len(rows) - len(failed)} of {len(rows)} solutions ran. Pages: {os.path.relpath(out / 'index.html')}"
    )
    return 1 if failed else 0
