"""What the fields of a prompt pair are called, here and in other people's files.

One table: every field of a pair, what its values are, and the names that others give it. A name is
looked up however it is written: `Correct-Idx` is `correct_idx`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ...graphs.errors import PromptError

TEXT, TEXTS, IDS, NUMBER, FLAG, PLACES = "text", "texts", "ids", "number", "flag", "places"


@dataclass(frozen=True)
class Field:
    """One field of a pair: what its values are, what it means, and its other names."""

    name: str
    kind: str
    meaning: str
    others: tuple[str, ...] = ()


def _field(name: str, kind: str, meaning: str, others: str = "") -> Field:
    return Field(name, kind, meaning, tuple(others.split()))


FIELDS: dict[str, Field] = {
    one.name: one
    for one in (
        _field(
            "clean", TEXT, "the prompt that calls for the behaviour",
            "clean_prompt clean_text clean_sentence clean_input original original_prompt base "
            "base_prompt prompt",
        ),
        _field(
            "corrupted", TEXT, "the prompt that differs where the answer is decided",
            "corrupt corrupted_prompt corrupt_prompt corrupted_text corrupted_sentence "
            "corrupted_input counterfactual counterfactual_prompt counterfactual_text "
            "corrupted_hard corrupt_hard corrupted_easy",
        ),
        _field(
            "answers", TEXTS, "the right continuations",
            "answer correct correct_answer correct_answers right_answer right_answers target "
            "targets clean_answer clean_answers clean_target target_true",
        ),
        _field(
            "distractors", TEXTS, "wrong continuations",
            "distractor wrong_answer wrong_answers wrong incorrect incorrect_answer "
            "incorrect_answers corrupted_answer corrupted_answers corrupt_answer corrupt_answers "
            "corrupted_target counterfactual_answer counterfactual_answers foil foils "
            "target_false target_new wrong_target",
        ),
        _field(
            "clean_ids", IDS, "the clean prompt as token ids",
            "clean_tokens clean_token_ids clean_input_ids clean_prompt_ids",
        ),
        _field(
            "corrupted_ids", IDS, "the corrupted prompt as token ids",
            "corrupted_tokens corrupted_token_ids corrupted_input_ids corrupt_ids corrupt_tokens "
            "corrupt_token_ids corrupt_input_ids corrupted_prompt_ids counterfactual_ids",
        ),
        _field(
            "answer_ids", IDS, "token ids of the answers",
            "answer_id answer_idx answers_idx answers_ids answer_token_id answer_token_ids "
            "correct_idx correct_id correct_ids correct_token_id correct_token_ids "
            "correct_answer_id correct_answer_idx correct_answer_ids target_id target_ids "
            "target_idx target_token_id clean_answer_id clean_answer_idx clean_answer_ids",
        ),
        _field(
            "distractor_ids", IDS, "token ids of the distractors",
            "distractor_id distractor_idx distractors_idx distractors_ids distractor_token_id "
            "distractor_token_ids incorrect_idx incorrect_id incorrect_ids incorrect_token_id "
            "incorrect_token_ids incorrect_answer_id incorrect_answer_idx incorrect_answer_ids "
            "wrong_idx wrong_id wrong_ids wrong_answer_id wrong_answer_idx wrong_answer_ids "
            "wrong_token_id corrupted_answer_id corrupted_answer_idx corrupted_answer_ids "
            "corrupted_answers_idx corrupted_answers_ids corrupt_answer_idx corrupted_idx "
            "corrupted_correct_idx foil_id foil_idx",
        ),
        _field("answer_position", NUMBER, "where the answer is predicted", "answer_pos"),
        _field("group", TEXT, "a label for reports"),
        _field("bos_prepended", FLAG, "with ids: whether the prompts begin with BOS"),
        _field(
            "spans", PLACES,
            "names of token positions, counted as answer_position is: one, or [first, last]",
        ),
        _field("span_labels", PLACES, "the same, where noise is not confined to these positions"),
    )
}  # fmt: skip
"""The fields of a pair by name."""

ASIDE = {
    "corrupted_hard": "a second corrupted prompt",
    "corrupt_hard": "a second corrupted prompt",
    "corrupted_easy": "a second corrupted prompt",
}
"""Names that stand beside the usual one in known collections, which is then the one that counts."""

FOREIGN = {
    "label": "in EAP-IG's tables the two digits of a year, or which class the prompt is of",
    "plural": "in EAP-IG's tables whether the verb is to be plural (1) or not (0), not which verbs",
    "seq_labels": "in auto-circuit's files the names of all positions",
    "word_idxs": "in auto-circuit's files named positions, which stand beside the list of prompts",
}
"""Names of other people's files that are no field of a pair, and what they say."""

ALIKE = 0.8
"""From which likeness of two names on one is taken for the other, mistyped."""


def plain(key: str) -> str:
    """Return how a name is looked up: `Correct-Idx ` and `correctIdx` as `correct_idx`."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key.strip())
    return re.sub(r"[^\w]+", "_", apart.lower()).strip("_")


NAMES: dict[str, Field] = {name: one for one in FIELDS.values() for name in (one.name, *one.others)}
"""Every name of every field."""


def fields_of(keys: Iterable[str]) -> dict[str, Field]:
    """Map those names that are a field's to the field.

    >>> {key: field.name for key, field in fields_of(["Clean", "correct_idx", "h1"]).items()}
    {'Clean': 'clean', 'correct_idx': 'answer_ids'}
    """
    names = list(keys)
    found = {key: NAMES[plain(key)] for key in names if plain(key) in NAMES}
    for finding in (_of_a_kind, _by_words, _of_another_name, _by_a_bare_word):
        found = finding(names, found) | found
    return found


# -- names that are put together of words --------------------------------------------------------


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_RIGHT_PROMPT = _words("clean original orig base")
_WRONG_PROMPT = _words(
    "corrupt corrupted corr counterfactual cf patch patched perturbed flipped dirty noised noisy "
    "altered"
)
_RIGHT = _RIGHT_PROMPT | _words("correct right true good gold expected")
_WRONG = _WRONG_PROMPT | _words("incorrect wrong false bad foil alternative")
_OF_PROMPT = _words("prompt text sentence input prefix string str question query context")
_OF_ANSWER = _words(
    "answer answers target targets label labels completion continuation output response object "
    "token tokens word words"
)
_OF_IDS = _words("id ids idx idxs index indices")
SIDES = (_RIGHT_PROMPT | _WRONG_PROMPT | {"source"}) - {"cf", "corr", "orig"}
"""Words that say which of a pair's two prompts something is of."""

BARE = {
    "clean": ("input", "text", "sentence", "question", "query", "context", "prefix", "instruction"),
    "answers": ("completion", "continuation", "output", "response", "gold", "expected", "chosen"),
    "distractors": ("rejected", "alternative"),
}
"""Names that mean a field where nothing better is there, and one of them alone."""


def words_of_names() -> list[tuple[str, tuple[str, ...]]]:
    """List the words that names are put together of, by what they say, for people."""
    kinds = {
        "of the clean prompt, and of answers": _RIGHT_PROMPT,
        "of the corrupted prompt (`source` against `base`), and of distractors": _WRONG_PROMPT,
        "of answers": _RIGHT - _RIGHT_PROMPT,
        "of distractors": _WRONG - _WRONG_PROMPT,
        "a prompt": _OF_PROMPT,
        "an answer or distractor": _OF_ANSWER,
        "an id": _OF_IDS,
    }
    return [(what, tuple(sorted(words))) for what, words in kinds.items()]


def side_of(words: frozenset[str]) -> str | None:
    """Return which prompt some words say that something is of, if they say nothing else."""
    if words <= _RIGHT_PROMPT:
        return "clean"
    return "corrupted" if words <= _WRONG_PROMPT else None


def is_name(key: str) -> bool:
    """Tell whether a name is one that some field may have, whatever else is there."""
    name = plain(key)
    bare = any(name in words for words in BARE.values())
    return name in NAMES or bare or _meant(name, based=False) is not None


def _by_words(keys: Iterable[str], known: Mapping[str, Field]) -> dict[str, Field]:
    """Find names put together of usual words: `sentence_corrupted`, `label_true`, `cf_answer`.

    `source` is what stands against `base`, as in interchange interventions.
    """
    names = [key for key in keys if key not in known]
    based = any(plain(key).split("_")[0] == "base" for key in keys)
    have = {_ROLE.get(field.name, field.name) for field in known.values()}
    found = {}
    for key in names:
        field = _meant(plain(key), based)
        if field is not None and _ROLE.get(field, field) not in have:
            found[key] = FIELDS[field]
    return found


_ROLE = {"clean_ids": "clean", "corrupted_ids": "corrupted", "answer_ids": "answers",
         "distractor_ids": "distractors"}  # fmt: skip
_WITH_IDS = {text: ids for ids, text in _ROLE.items()}


def _meant(name: str, based: bool) -> str | None:
    """Return which field is meant by a name of several words, if each of them says something."""
    words = set(name.split("_"))
    if len(words) < 2 and not (based and words == {"source"}):
        return None
    ids = words & _OF_IDS
    rest = words - ids
    wrong = _WRONG | {"source"} if based else _WRONG
    of_answer = rest & _OF_ANSWER
    sides = [side for side, of in (("answers", _RIGHT), ("distractors", wrong)) if rest & of]
    if of_answer and len(sides) == 1 and not rest - of_answer - _RIGHT - wrong:
        return _WITH_IDS[sides[0]] if ids else sides[0]
    wrong = _WRONG_PROMPT | {"source"} if based else _WRONG_PROMPT
    sides = [side for side, of in (("clean", _RIGHT_PROMPT), ("corrupted", wrong)) if rest & of]
    if len(sides) == 1 and not rest - _OF_PROMPT - _RIGHT_PROMPT - wrong:
        return _WITH_IDS[sides[0]] if ids else sides[0]
    return None


def _by_a_bare_word(keys: Iterable[str], known: Mapping[str, Field]) -> dict[str, Field]:
    """Find a prompt, or its answers, under a word that can mean them, if there is one alone."""
    names, found = list(keys), dict[str, Field]()
    have = {_ROLE.get(field.name, field.name) for field in known.values()}
    for field, words in BARE.items():
        meant = [key for key in names if key not in known and plain(key) in words]
        if field not in have and len(meant) == 1:
            found[meant[0]] = FIELDS[field]
    return found


def _of_another_name(keys: Iterable[str], known: Mapping[str, Field]) -> dict[str, Field]:
    """Find the corrupted prompt under a name that begins so, where no usual one is there.

    Of several, as `corrupted_1` and `corrupted_2`, the first counts.
    """
    if {"corrupted", "corrupted_ids"} & {field.name for field in known.values()}:
        return {}
    rest = r"(?!.*(idx|ids?|tokens?|answers?|target|label|position|messages|conversations?)$)"
    begun = re.compile(rf"(corrupt|counterfactual){rest}")
    named = [key for key in keys if key not in known and begun.match(plain(key))]
    return {named[0]: FIELDS["corrupted"]} if named else {}


def _of_a_kind(keys: Iterable[str], known: Mapping[str, Field]) -> dict[str, Field]:
    """Find ids called after what they are of: `country_idx` and `corrupted_country_idx`."""
    names = {plain(key): key for key in keys}
    if {"answer_ids", "answers"} & {field.name for field in known.values()}:
        return {}
    for name, key in names.items():
        pairs = [f"{prefix}_{name}" for prefix in ("corrupted", "corrupt", "counterfactual")]
        twin = next((one for one in pairs if one in names), None)
        if twin and re.search(r"_(idx|ids?|token_ids?)$", name) and name not in NAMES:
            return {key: FIELDS["answer_ids"], names[twin]: FIELDS["distractor_ids"]}
    return {}


def mistyped(row: Mapping[str, object], given: Mapping[str, str]) -> PromptError | None:
    """Return what to say of a name that is nearly a field's, whose value fits it, if there is one.

    `given`: the fields whose key is known, and that key; a longer name is another thing.
    """
    known = set(given.values())
    for key, value in row.items():
        name = plain(key)
        if name in NAMES or name in FOREIGN or not name or key in known:
            continue
        near = difflib.get_close_matches(name, FIELDS, n=1, cutoff=ALIKE)
        near = near or difflib.get_close_matches(name, NAMES, n=1, cutoff=ALIKE)
        if not near or (near[0] in name and NAMES[near[0]].name in given):
            continue  # as `clean2` beside `clean`
        if not _word_by_word(name, near[0]):
            continue
        if fits(NAMES[near[0]], value):
            accepted = ", ".join(FIELDS)
            return PromptError(
                f"unknown key '{key}'; did you mean '{near[0]}'? Accepted: {accepted}."
            )
    return None


def _word_by_word(name: str, other: str) -> bool:
    """Tell whether each word of a name is that of another, but for a slip.

    >>> _word_by_word("corect_idx", "correct_idx"), _word_by_word("answers_type", "answers")
    (True, False)
    >>> _word_by_word("corrupted_type", "corrupted_text")
    False
    """
    words, others = name.split("_"), other.split("_")
    if len(words) != len(others):
        return name.replace("_", "") == other.replace("_", "")

    def alike(a: str, b: str) -> bool:
        one_letter = len(a) == len(b) and sum(x != y for x, y in zip(a, b, strict=True)) == 1
        return one_letter or difflib.SequenceMatcher(None, a, b).ratio() >= ALIKE

    return all(alike(a, b) for a, b in zip(words, others, strict=True))


def fits(field: Field, value: object) -> bool:
    """Tell whether a value can be meant for a field."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    first = value[0] if isinstance(value, list) and value else value
    number = isinstance(first, int) and not isinstance(first, bool)
    digits = isinstance(value, str) and value.strip().lstrip("+-").isdigit()
    if field.kind in (TEXT, TEXTS):
        return isinstance(first, str) and not digits
    if field.kind in (IDS, NUMBER):
        return number or digits or whole or value is None
    return True
