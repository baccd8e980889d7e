"""What a newcomer waits for: the import, and the answer of each exercise. Prints one table and asserts nothing.

python benchmarks/first_impressions.py
"""

import platform
import statistics
import subprocess
import sys
import time

ROUNDS = 7


def seconds_to_run(code):
    """The wall time of a fresh interpreter that runs `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def main():
    import torch

    from vit_edu import check

    print(f"{platform.platform()}, Python {platform.python_version()}, torch {torch.__version__}")
    pairs = [(seconds_to_run("import torch"), seconds_to_run("import torch, vit_edu")) for _ in range(ROUNDS)]
    alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
    extra = statistics.median(b - a for a, b in pairs)
    print(f"import torch {alone:.2f} s, with vit_edu {both:.2f} s: {extra:+.2f} s, {both / alone:.2f} x")
    print(f"(medians of {ROUNDS} pairs, taken in turn)\n")

    print("exercise                        first answer   later answers   a wrong answer, seconds")
    for name in check.names():
        exercise, times = check.get(name), []
        for candidate in (exercise.reference, exercise.reference, exercise.mistakes[0].build):
            start = time.perf_counter()
            exercise.check(candidate)
            times.append(time.perf_counter() - start)
        print(f"{name:32} {times[0]:11.3f} {times[1]:15.3f} {times[2]:16.3f}")


if __name__ == "__main__":
    main()
