"""Notebooks as files: read, run and written in the one form in which they are kept."""

import asyncio
import os

import nbformat
from nbclient import NotebookClient

# The tag by which nbval compares a stored output. Only solutions carry it: lessons have no outputs.
COMPARED = "nbval-check-output"


def solutions(root):
    """The solution notebooks, in the order of the course."""
    return sorted((root / "solutions").glob("[0-9][0-9]_*.ipynb"))


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
