"""The roles that a head can have: each a pattern of attention and an effect along a way.

Names and rules are those of indirect object identification (Wang et al. 2022), said of any task: a
`name` is a token that is an answer, a subject (`S`) one that is a distractor. A role whose pattern
needs positions that a task's prompts have not, or whose way leads through a role that no head has,
is not measured. Roles stand in the order in which they are given: what leads to `logits` first.
"""

from __future__ import annotations

from dataclasses import dataclass

LEAST_WEIGHT = 0.2
"""Attention from which up a head has a pattern, in the mean over prompts."""

LEVEL, NEAREST = 0.95, 40
"""An effect exceeds this quantile of those of so many of the nearest heads without the pattern."""

LEAST_SHARE = 0.01
"""Least effect, as a share of the loss between all edges and none; of smaller ones no interval."""

CONTROL = 0.25
"""Most of an effect, as a share, that corruptions which leave the answer the same may have."""


@dataclass(frozen=True)
class Way:
    """How a head acts: on `logits` itself, or on some inputs of the heads of another role.

    `cut`: on `logits` itself, by how much more where the heads of that role are cut.

    >>> str(Way()), str(Way("name mover", "q")), str(Way(cut="name mover"))
    ('direct', '→ name mover<q>', 'direct without name mover')
    """

    through: str | None = None
    letters: str = ""
    cut: str | None = None

    def __str__(self) -> str:
        if self.through is not None:
            return f"→ {self.through}<{','.join(self.letters)}>"
        return "direct" if self.cut is None else f"direct without {self.cut}"

    @property
    def needs(self) -> str | None:
        """Return the role whose heads it leads through, or that are cut."""
        return self.through or self.cut


@dataclass(frozen=True)
class CausalRole:
    """A name for heads that attend by a relation and act along one of some ways.

    `pattern`: one of `patching.heads.attended.RELATIONS`. `sign`: 1 if what flows there must help,
    -1 if it must work against the task. `unless`: roles whose heads do not get this one.
    """

    name: str
    pattern: str
    ways: tuple[Way, ...]
    sign: int = 1
    unless: tuple[str, ...] = ()


MOVER, NEGATIVE = "name mover", "negative name mover"
INHIBITION, INDUCTION = "S-inhibition", "induction"

CAUSAL_ROLES = (
    CausalRole(MOVER, "end → answer", (Way(),)),
    CausalRole(NEGATIVE, "end → answer", (Way(),), sign=-1),
    CausalRole("distractor suppression", "end → distractor", (Way(),), unless=(MOVER,)),
    CausalRole("backup name mover", "end → answer", (Way(cut=MOVER),), unless=(MOVER, NEGATIVE)),
    CausalRole(INHIBITION, "end → last distractor", (Way(MOVER, "q"),)),
    CausalRole("duplicate token", "again → before", (Way(INHIBITION, "kv"),)),
    CausalRole(INDUCTION, "again → behind", (Way(INHIBITION, "kv"),)),
    CausalRole("previous token", "behind → before", (Way(INDUCTION, "k"), Way(MOVER, "k"))),
)
"""The roles, in the order in which they are given."""
