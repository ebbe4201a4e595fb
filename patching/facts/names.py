"""What can be put back, and from where attention is cut, by name; no model is loaded for this."""

from __future__ import annotations

STREAM, MLP, ATTENTION = "stream", "mlp", "attention"
KINDS = {
    STREAM: "the stream behind the layer",
    MLP: "what the MLPs of the window add to the stream",
    ATTENTION: "what attention, or the mixer, of the window's layers adds to the stream",
}
"""What can be put back, by its name."""

SUBJECT, LAST_SUBJECT, RELATION, FIRST, LAST = (
    "subject", "last subject", "relation", "first", "last",
)  # fmt: skip
SPANS = {
    SUBJECT: "the subject's tokens, but for the prompt's first",
    LAST_SUBJECT: "the subject's last token, unless it is the prompt's first",
    RELATION: "all other tokens before the last, but for the first",
    FIRST: "the prompt's first token, whatever it is",
    LAST: "the token behind which the answer is predicted, and the answer's own first ones",
}
"""The spans that every prompt about a subject has; those that a task names count too."""

USUAL = (LAST_SUBJECT, SUBJECT, RELATION, FIRST)
"""From which spans attention is cut, unless others are named."""
