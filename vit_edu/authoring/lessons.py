"""Derives lessons/ from solutions/, which is written by hand.

This uses nbgrader's own preprocessors, so that whatever is between BEGIN SOLUTION and END SOLUTION is treated as teachers
with nbgrader expect. An unclosed or nested marker is an error.
"""

from concurrent.futures import ThreadPoolExecutor

import nbformat
from nbgrader.preprocessors import ClearOutput, ClearSolutions, LockCells
from tqdm import tqdm
from traitlets.config import Config

from vit_edu.authoring.notebooks import COMPARED, as_text, execute, read, solutions, tidy

STUB = {"python": 'raise NotImplementedError("write your answer here")'}


def derive(notebook):
    """The lesson that follows from a solution: answers replaced by a stub, outputs cleared, answer cells kept.

    notebook: a NotebookNode; it is not changed. Returns a new one. Raises RuntimeError for a marker that is not
    closed, is nested, or is in a cell without nbgrader's metadata.
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


def derive_all(root, refresh=False, check=False):
    """Make lessons/ from solutions/; with `refresh`, first run the solutions and store their outputs.

    Returns an exit status. With `check`, nothing is written, and the status is 1 if anything would change.
    """
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
        print(
            f"lessons/ differs from what follows from solutions/: {', '.join(changed)}. Run `make lessons`."
        )
        return 1
    print(f"{len(wanted)} lessons, {len(changed)} changed.")
    return 0


def _refresh(path):
    notebook = tidy(execute(read(path), path.parent))
    path.write_text(as_text(notebook), encoding="utf-8")
