"""Circuits of other tools: EAP-IG's graphs, MIB's folders, ACDC's and Edge-Pruning's edge lists.

| tool | file | here |
| --- | --- | --- |
| EAP-IG | `.json`: names; `.pt`: matrices [senders, ports] | `read_eap_ig`, `write_eap_ig` |
| MIB | a folder of EAP-IG's files, one or a size each | `read_sizes`, `write_submission` |
| ACDC | `blocks.0.hook_mlp_out[:] -> blocks.1.hook_resid_post[:]` | `read_acdc` |
| Edge-Pruning | `edges.json`: `[["a0.h1", "a2.h3.q"], …]` | `read_edge_pruning` |
| none | a list of this project's names of edges: `m0->a3.h1<q>` | `read_named` |

`read_foreign` tells them apart by what is in them. These formats know no key/value groups, no
provenance and no certificate, so they give a `Circuit` and not a circuit file. Scores come as they
are: EAP-IG's have the sign of this project, but its gradient methods divide by the number of
examples twice; ACDC's are by how much the loss rose when the edge was removed.
"""

from .acdc import read_acdc
from .eap_ig import read_eap_ig, write_eap_ig
from .edge_pruning import read_edge_pruning
from .foreign import TOOLS, Foreign, is_foreign, read_foreign, read_sizes
from .mib import Submitted, write_submission
from .named import NamedEdges, is_named, read_named

__all__ = [
    "TOOLS",
    "Foreign",
    "NamedEdges",
    "Submitted",
    "is_foreign",
    "is_named",
    "read_acdc",
    "read_eap_ig",
    "read_edge_pruning",
    "read_foreign",
    "read_named",
    "read_sizes",
    "write_eap_ig",
    "write_submission",
]
