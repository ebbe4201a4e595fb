"""The order of the vertices in each row by Graphviz's `dot`, if the machine has it.

It receives the skeleton, trunks included. Only the order is taken, in which layered layouts differ.
"""

from __future__ import annotations

import subprocess

from .placement import NODE_GAP, TRUNK_GAP
from .skeleton import Skeleton

_INCH = 72.0
_SEP = 1.5  # points; the rest of the distance is part of each vertex's width


class DotFailed(Exception):
    """`dot` gave no usable layout; the built-in one takes over."""


def order_with_dot(skeleton: Skeleton, program: str, *, timeout: float) -> list[list[int]]:
    """Return the vertices of each row from left to right as `dot` places them.

    Raises:
        DotFailed: an error, more than `timeout` seconds, or an answer that cannot be read.
    """
    try:
        done = subprocess.run(
            [program, "-Tplain"], input=skeleton_source(skeleton), capture_output=True, text=True,
            timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise DotFailed(f"took longer than {timeout:g} s") from None
    except (OSError, UnicodeError) as error:
        raise DotFailed(f"could not be run ({error})") from None
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["no message"]
        raise DotFailed(f"ended with status {done.returncode} ({words[0]})")
    return _read_plain(done.stdout, skeleton)


def skeleton_source(skeleton: Skeleton) -> str:
    """Write a skeleton in the DOT language, one rank for each row."""
    lines = [
        "digraph {",
        f"rankdir=BT; splines=none; ranksep=0.3; nodesep={_SEP / _INCH:.4f}; nslimit=4; mclimit=2;",
        'node [shape=box, fixedsize=true, height=0.2, label=""];',
    ]
    for row, members in enumerate(skeleton.rows):
        lines.append(f"r{row} [width=0.01, style=invis];")
        if row:
            lines.append(f"r{row - 1} -> r{row} [weight=0, style=invis];")
        lines.append(f"{{rank=same; r{row}; {' '.join(f'v{v};' for v in members)}}}")
    for i, vertex in enumerate(skeleton.vertices):
        gap = TRUNK_GAP if vertex.node is None else NODE_GAP
        lines.append(f"v{i} [width={(vertex.width + gap - _SEP) / _INCH:.4f}];")
    for segment in skeleton.segments:
        weight = max(1, segment.pull // segment.crossing_weight)
        edge = f"v{segment.lower} -> v{segment.upper} [weight={weight}];"
        lines += [edge] * segment.crossing_weight
    return "\n".join([*lines, "}", ""])


def _read_plain(text: str, skeleton: Skeleton) -> list[list[int]]:
    """Read the order out of the `plain` format."""
    at: dict[str, float] = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["node"]:
            try:
                at[words[1]] = float(words[2])
            except (IndexError, ValueError):
                raise DotFailed(f"answered '{line[:60]}'") from None
    try:
        return [sorted(row, key=lambda v: (at[f"v{v}"], v)) for row in skeleton.rows]
    except KeyError as missing:
        raise DotFailed(f"did not place vertex {missing}") from None
