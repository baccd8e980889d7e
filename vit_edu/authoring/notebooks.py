"""Reads and runs notebooks, and writes them in the one form in which the course keeps them."""

import asyncio
import os

import nbformat
from nbclient import NotebookClient

# The tag by which nbval compares a stored output. Only solutions carry it: lessons have no outputs.
COMPARED = "nbval-check-output"


def solutions(root):
    """The solution notebooks, in the order of the course."""
    return sorted((root / "solutions").glob("[0-9][0-9]*_*.ipynb"))


def read(path):
    """A notebook from disk, validated."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def as_text(notebook):
    """The text of a notebook, as it is written to disk."""
    return nbformat.writes(notebook, version=4) + "\n"


def execute(notebook, folder, on_cell=None):
    """Run all cells of a notebook in place, with `folder` as the working directory. Returns the notebook.

    on_cell(index) is called before each cell. Raises CellExecutionError if a cell fails.
    """
    client = NotebookClient(
        notebook, timeout=None, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    # Log errors only, not remarks on the connection
    client.extra_arguments = ["--IPKernelApp.log_level=40"]
    if on_cell:
        client.on_cell_start = lambda cell, cell_index: on_cell(cell_index)
    # The solutions must not count as the learner's progress
    asyncio.run(client.async_execute(env={**os.environ, "VIT_EDU_PROGRESS": "off", "VIT_EDU_MINE": "off"}))
    return notebook


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
        # To nbval, a cell without a number looks as if it had not run, and it is not compared.
        cell.execution_count = number if compared else None
        cell.outputs = _joined(cell.outputs, number) if compared else []
    return notebook


def _joined(outputs, number):
    """The outputs, with printed text joined into one piece and the cell's number on results."""
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
