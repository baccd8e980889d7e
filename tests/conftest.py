"""Figures that a test leaves behind are closed after it. A table ends a run: which published models were compared with ours."""

import sys

import pytest


@pytest.fixture(autouse=True)
def closed_figures():
    """Whatever a test draws is gone before the next, which may run in the same process or in another."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


def pytest_terminal_summary(terminalreporter):
    reports = [r for group in ("passed", "failed") for r in terminalreporter.getreports(group)]
    rows = [dict(r.user_properties) for r in reports if r.when == "call"]
    rows = sorted((r for r in rows if "variant" in r), key=lambda r: (r["family"], r["variant"]))
    if not rows:
        return
    terminalreporter.section(f"published models against ours: {len(rows)} variants, random weights")
    terminalreporter.write_line(
        "largest relative difference, in units of 1e-7: after the embedding | after each block | of the output\n"
        f"{'family':20} {'variant':34} {'ours':12} {'pixels':>6} {'keys':>4} {'ignored':>7}  difference"
    )
    for r in rows:
        terminalreporter.write_line(
            f"{r['family']:20} {r['variant']:34} {r['ours']:12} {r['pixels']:6} {r['mapped']:4} {r['ignored']:7}  {r['difference']}"
        )
