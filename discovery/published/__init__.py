"""Methods of single papers, one file each."""

from . import ig_activations as ig_activations
