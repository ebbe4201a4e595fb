"""The attributes rate: how many of the tokens that a stream says are true of the subject.

1. The stream behind a layer at the subject's last token is read as the final one is: through the
   final norm and the unembedding.
2. Of its K most probable tokens (50) those are *attributes* whose word is among the subject's
   attributes. Their share is the attributes rate.

A token has a word if it begins one (its mark is a space), and is three or more letters and nothing
else; words are compared in lower case, and words of `STOP` never count. A subject's attributes are
the words of texts about it, which whoever asks names. Beside it stands the rate of the other
subjects' attributes, mean over them: what is said of anything.

Source: Geva et al. 2023, section 4, who take words of paragraphs about the subject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...graphs.calls.typed import typed
from ...graphs.lift.lifted import LiftedModel
from .prompts import FactPrompt
from .tracing import clean_run

TOP = 50
LEAST = 3  # letters of a word

STOP = frozenset(
    [
        "about",
        "above",
        "after",
        "again",
        "all",
        "also",
        "although",
        "always",
        "among",
        "and",
        "another",
        "any",
        "are",
        "around",
        "because",
        "been",
        "before",
        "being",
        "below",
        "between",
        "both",
        "but",
        "can",
        "could",
        "did",
        "does",
        "down",
        "during",
        "each",
        "either",
        "enough",
        "etc",
        "even",
        "ever",
        "every",
        "few",
        "for",
        "from",
        "further",
        "get",
        "had",
        "has",
        "have",
        "having",
        "her",
        "here",
        "hers",
        "him",
        "his",
        "how",
        "however",
        "into",
        "its",
        "itself",
        "just",
        "least",
        "less",
        "like",
        "made",
        "make",
        "many",
        "may",
        "might",
        "more",
        "most",
        "much",
        "must",
        "near",
        "neither",
        "never",
        "nor",
        "not",
        "now",
        "off",
        "often",
        "once",
        "one",
        "only",
        "onto",
        "other",
        "our",
        "out",
        "over",
        "own",
        "per",
        "quite",
        "rather",
        "same",
        "she",
        "should",
        "since",
        "some",
        "still",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "though",
        "through",
        "too",
        "toward",
        "two",
        "under",
        "until",
        "upon",
        "use",
        "used",
        "using",
        "very",
        "was",
        "well",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "whose",
        "why",
        "will",
        "with",
        "within",
        "without",
        "would",
        "yet",
        "you",
        "your",
    ]
)
"""Words that say nothing of a subject."""


@typed
def words_in(texts: Sequence[str]) -> frozenset[str]:
    """Return the words of texts that can be attributes.

    >>> sorted(words_in(["Paris is the capital, with 2 airports."]))
    ['airports', 'capital', 'paris']
    """
    found = (word.lower() for text in texts for word in re.findall(r"[^\W\d_]+", text))
    return frozenset(word for word in found if len(word) >= LEAST and word not in STOP)


@typed
def token_words(marks: Sequence[str]) -> tuple[str, ...]:
    """Return the word that each token begins and is, empty for one that is none.

    `marks`: the tokens as the vocabulary has them, with the mark of a space.

    >>> token_words(["Ġparis", "ris", "▁City", "Ġof"])
    ('paris', '', 'city', '')
    """
    found = []
    for mark in marks:
        word = mark[1:].lower() if mark.startswith(("Ġ", "▁")) else ""
        fits = word.isascii() and word.isalpha() and len(word) >= LEAST and word not in STOP
        found.append(word if fits else "")
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Rates:
    """One prompt's attributes rate behind each layer, of its subject's and of others', [L]."""

    prompt: FactPrompt
    own: np.ndarray = field(repr=False)
    others: np.ndarray = field(repr=False)


@typed
@torch.no_grad()
def attribute_rates(
    model: LiftedModel,
    prompts: Mapping[str, Sequence[FactPrompt]],
    attributes: Mapping[str, frozenset[str]],
    words: Sequence[str],
    top: int = TOP,
) -> list[Rates]:
    """Return the rates of every prompt, by its subject; `words`: see `token_words`."""
    index = {word: i for i, word in enumerate(dict.fromkeys(words))}
    places = torch.tensor([index[word] for word in words])
    tables = np.zeros((len(attributes), len(index)), dtype=bool)
    for row, own in zip(tables, attributes.values(), strict=True):
        row[[index[word] for word in own if word in index]] = True
    found = []
    for number, subject in enumerate(attributes):
        for prompt in prompts.get(subject, ()):
            run = clean_run(model, prompt)
            stream = torch.stack([x[0, prompt.subject[-1]] for x in run.before[1:]])
            best = model.logits(stream).topk(top, -1).indices.cpu()  # [L, top]
            hits = tables[:, places[best].numpy()].mean(-1)  # [subjects, L]
            rest = np.delete(hits, number, 0)
            others = rest.mean(0) if len(rest) else np.full(len(stream), np.nan)
            found.append(Rates(prompt, hits[number], others))
    return found
