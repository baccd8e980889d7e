"""docs/weight-files.md: its code runs, and shows what the page says."""

import re
from pathlib import Path

import torch

PAGE = Path(__file__).parents[1] / "docs" / "weight-files.md"


def test_the_page_about_files_of_weights(capsys):
    left = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        exec(compile(code, str(PAGE), "exec"), left)
    assert 4 < left["errors"][torch.bfloat16] / left["errors"][torch.float16] < 16
    assert '"__metadata__"' in left["header"]
    assert left["refused"] is not None
    said = capsys.readouterr().out
    assert said.count("printed by the file") == 1
    assert said.index("printed by the file") < said.index("pretrained.read:")
