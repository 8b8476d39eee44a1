"""A thousand images in two hundred sessions hold as much memory as the first hundred; nightly, in a process of its own."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from soak import CYCLE, IMAGES

SETTLED = 100
"""Images until every strategy has run in every role, and whatever is kept on purpose is there."""
SLACK = 1.02

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read as Linux tells it"),
]


def soak(sessions, *leak):
    """What the program holds from the hundredth image on, a line for every session."""
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), str(sessions), *leak]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(lines) == sessions and lines[-1]["images"] == IMAGES * sessions
    return [line for line in lines if line["images"] >= SETTLED]


def growth(lines, name):
    """The last cycle's median over the first's: the allocator's ups and downs are not what is asked."""
    first, last = ([line[name] for line in some] for some in (lines[:CYCLE], lines[-CYCLE:]))
    return statistics.median(last) / statistics.median(first)


def test_memory_is_flat_from_the_hundredth_image_to_the_thousandth():
    lines = soak(1000 // IMAGES)
    print({name: (lines[0][name], lines[-1][name], growth(lines, name)) for name in lines[0]})
    assert {(line["tensors"], line["tensor bytes"]) for line in lines} == {(lines[0]["tensors"], lines[0]["tensor bytes"])}
    assert lines[-1]["objects"] < lines[0]["objects"] + len(lines)  # less than an object a session, as in test_service.py
    assert growth(lines, "resident") < SLACK


def test_plans_that_are_kept_are_noticed():
    lines = soak(2 * CYCLE, "sessions")
    assert lines[-1]["tensors"] > lines[0]["tensors"] and lines[-1]["tensor bytes"] > lines[0]["tensor bytes"]


def test_bytes_that_are_kept_are_noticed():
    assert growth(soak(6 * CYCLE, "bytes"), "resident") > SLACK
