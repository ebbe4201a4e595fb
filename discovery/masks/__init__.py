"""Learned masks: a gate for every edge, or node, trained on the loss."""

from . import edge_pruning as edge_pruning
from . import subnetwork_probing as subnetwork_probing
from . import ugs as ugs
