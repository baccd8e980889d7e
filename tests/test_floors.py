"""The package is a house: a room imports only from the floors below. The plan is the table in `vit_edu`'s docstring."""

import ast
import re
from pathlib import Path

import vit_edu

ROOT = Path(vit_edu.__file__).parent
FLOORS = [line.split(", ") for line in re.findall(r"^    (\w+(?:, \w+)*)  ", vit_edu.__doc__, re.M)]
FORBIDDEN = {
    ("pretrained", "training")
}  # although it is below, because loading weights should not need the trainer


def room_of(file, root):
    return file.relative_to(root).parts[0].removesuffix(".py")


def imported(file, root):
    """(line, dotted name) of everything that a module of the package imports from it, at any depth of its code."""
    package = ["vit_edu", *file.relative_to(root).parent.parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [
                ast.unparse(node.args[0]).lstrip("f").strip("'\"")
            ]  # f"vit_edu.check.catalogue.{name}", too
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "vit_edu")


def climbs(root, floors, forbidden=()):
    """A sentence for each import in the package at `root` that goes up, or that is forbidden."""
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in rooms}
    found = []
    for file in sorted(root.rglob("*.py")):
        here = room_of(file, root)
        for line, name in imported(file, root):
            there = name.split(".")[1] if "." in name else ""
            if here not in floor_of or there not in floor_of:
                continue
            where = f"{file.relative_to(root.parent)}, line {line}: {here} imports {there}"
            if floor_of[there] < floor_of[here]:
                found.append(f"{where}, which is above it. Move what is needed down, or the caller up.")
            elif (here, there) in forbidden:
                found.append(f"{where}, and must not.")
    return found


def test_no_room_imports_from_above():
    found = climbs(ROOT, FLOORS, FORBIDDEN)
    assert not found, "\n".join(found)


def test_every_room_has_its_floor_and_every_name_a_room():
    planned = [room for rooms in FLOORS for room in rooms]
    there = {room_of(file, ROOT) for file in ROOT.rglob("*.py")} - {"__init__", "__main__"}
    assert len(planned) == len(set(planned))
    assert there == set(planned)
    assert set(vit_edu.__all__) <= there


def test_every_way_to_import_is_seen(tmp_path):
    root = tmp_path / "vit_edu"
    (root / "low").mkdir(parents=True)
    ways = (
        "import vit_edu.top",
        "import vit_edu.top.inner as t",
        "from vit_edu import low, top",
        "from vit_edu.top import x",
        "from vit_edu.top.inner import x",
        "from ..top import x",
        "from .. import top",
        "def lazy():\n    from vit_edu import top",
        "import importlib; importlib.import_module('vit_edu.top')",
        "from importlib import import_module as i; import_module(f'vit_edu.top.{name}')",
    )
    for number, way in enumerate(ways):
        (root / "low" / f"way{number}.py").write_text(way, encoding="utf-8")
    (root / "low" / "fine.py").write_text(
        "from vit_edu import low\nfrom . import x\nimport top, os.path\n", encoding="utf-8"
    )
    (root / "top.py").write_text("from vit_edu.low import x", encoding="utf-8")
    found = climbs(root, [["top"], ["low"]])
    assert [re.search(r"way(\d)", sentence)[1] for sentence in found] == list("0123456789")
    assert found[7] == (
        "vit_edu/low/way7.py, line 2: low imports top, which is above it. Move what is needed down, or the caller up."
    )
    assert climbs(root, [["top"], ["low"]], {("top", "low")})[-1].endswith("top imports low, and must not.")
