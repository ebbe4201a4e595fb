"""The compiled engine: the lifted description as pure JAX functions.

`crossing.py` turns a description into arrays, `segments.py` into runs of equal layers, which run as
a scan. Each part of a description has one counterpart in `parts/`, which knows no family. What runs
is `attribution.py`, and `masked.py` for circuits.

Nothing imports these modules but where the engine is asked for; `engines.py`, one folder up, says
what to install where JAX is not.
"""
