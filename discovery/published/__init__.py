"""Methods of single papers, one file each."""

from . import atp_star as atp_star
from . import flow_routes as flow_routes
from . import ig_activations as ig_activations
