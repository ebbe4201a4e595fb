"""EAP-IG's graphs, as JSON and as torch's tensors: checked entry by entry, and written.

What counts is what EAP-IG itself goes by when it runs a graph: the edges' `in_graph`. It makes the
nodes' anew from the edges, so a node's flag decides nothing; where the two disagree, that is said.
A flag is true, false, 1 or 0; a score is a number, and null, NaN or nothing where an edge has none.
Edges and nodes that a file does not list are not in the circuit. Where no edge has a score, nodes'
scores are taken, or the sums of their neurons'. How nodes that keep some of their neurons are
taken: `putting`.
"""

from __future__ import annotations

from pathlib import Path

from ....calls.typed import typed
from ....circuit import Circuit
from ....scores import Scores
from ...circuit import unscored
from ...reading import parse_json, read_text
from ..kinds import holds_tensors
from .json_form import of_json
from .putting import put_together
from .tensor_form import load_tensors, of_tensors
from .values import WHAT, EapIg
from .writing import write_eap_ig

__all__ = ["EapIg", "parse_eap_ig", "read_eap_ig", "write_eap_ig"]


@typed
def read_eap_ig(path: str | Path, *, kv_heads: int = 0) -> tuple[Circuit, Scores]:
    """Read a graph saved by EAP-IG, which does not tell `kv_heads`; nothing in a `.pt` is run.

    Raises:
        FileFormatError: it is no such graph, an entry is of a wrong kind, or no node that writes a
            kept edge keeps a neuron; names the first few places.
    """
    found = parse_eap_ig(path, kv_heads=kv_heads)
    scores = found.scores
    if scores is None:
        scores = Scores(found.circuit.graph, unscored(found.circuit.graph, 1)[0])
    return found.circuit, scores


def parse_eap_ig(path: str | Path, document: object = None, *, kv_heads: int = 0) -> EapIg:
    """Read a graph of EAP-IG with everything that is to be said of it; `document`: its JSON."""
    if document is None and holds_tensors(path):
        return put_together(path, of_tensors(path, load_tensors(path), kv_heads))
    if document is None:
        document = parse_json(path, read_text(path, WHAT), WHAT, allow_nan=True)
    return put_together(path, of_json(path, document, kv_heads))
