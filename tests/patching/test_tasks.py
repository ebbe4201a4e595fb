from __future__ import annotations

import hashlib
import inspect
import json
import os
import random
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import EdgewiseError, PromptError, UnknownName
from edgewise.patching.prompts.pair_files import read_pairs
from edgewise.patching.tasks import (
    TASKS,
    TaskResult,
    describe_tasks,
    format_samples,
    make_task,
    preview,
)
from edgewise.patching.tasks._registry import task
from edgewise.patching.tasks._space import Candidate, Pick, Space, shuffled, walk

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in sorted(TASKS)),
    ("ioi", {"corruption": "abc"}),
    ("ioi", {"corruption": "flip"}),
    ("entity-tracking", {"corruption": "contents"}),
    ("entity-tracking", {"boxes": 2}),
    ("greater-than", {"form": "tens"}),
    ("induction", {"period": 6, "repeat": 1}),
    ("induction", {"period": 20, "repeat": 19}),
    ("successor", {"shown": 2}),
]
variants = pytest.mark.parametrize(
    ("name", "options"),
    VARIANTS,
    ids=[f"{n}-{'-'.join(map(str, o.values()))}" for n, o in VARIANTS],
)


# -- what must hold for every task -----------------------------------------------------------


def test_the_tasks_of_the_project_are_there() -> None:
    assert sorted(TASKS) == [
        "capitals",
        "entity-tracking",
        "facts",
        "gendered-pronoun",
        "greater-than",
        "induction",
        "ioi",
        "subject-verb-agreement",
        "successor",
    ]


def check(result: TaskResult, tokenizer: Any, bos: bool) -> None:
    """State what every pair of every task must satisfy."""
    for pair, sample in zip(result.pairs, result.samples, strict=True):
        assert len(pair.clean) == len(pair.corrupted)
        assert pair.clean != pair.corrupted
        assert pair.answers and pair.distractors
        assert not set(pair.answers) & set(pair.distractors)
        assert pair.answer_position == len(pair.clean) - 1
        assert pair.group == sample.group != ""
        assert (pair.clean[0] == tokenizer.bos_token_id) is bos
        for ids, texts in ((pair.answers, sample.answers), (pair.distractors, sample.distractors)):
            assert [tokenizer.decode([one]) for one in ids] == list(texts)
        bare = pair.clean[1:] if bos else pair.clean
        assert tokenizer.decode(bare) == sample.clean
    assert len({(pair.clean, pair.corrupted) for pair in result.pairs}) == len(result.pairs)
    assert result.pairs.bos_prepended is bos


@variants
@pytest.mark.parametrize("bos", [False, True])
def test_pairs_align_differ_and_have_answers_of_one_token(
    byte_tokenizer: Any, name: str, options: dict[str, Any], bos: bool
) -> None:
    tokenizer = byte_tokenizer(bos=bos)
    result = make_task(name, tokenizer=tokenizer, examples=100, **options)
    check(result, tokenizer, bos)
    report = result.report
    assert len(result.pairs) == report.kept == 100
    assert report.generated == report.kept + sum(report.left_out.values())
    assert result.pairs.name == name and result.pairs.seed == 0


@variants
def test_a_seed_decides_everything_and_fewer_is_a_prefix_of_more(
    byte_tokenizer: Any, name: str, options: dict[str, Any]
) -> None:
    def pairs(examples: int, seed: int) -> tuple[Any, ...]:
        made = make_task(name, tokenizer=byte_tokenizer(), examples=examples, seed=seed, **options)
        return made.pairs.pairs

    many = pairs(60, 3)
    assert pairs(60, 3) == many
    assert pairs(10, 3) == many[:10]
    assert len(set(pairs(60, 4)) & set(many)) < 30


@variants
def test_500_distinct_pairs_of_several_templates(
    byte_tokenizer: Any, name: str, options: dict[str, Any]
) -> None:
    result = make_task(name, tokenizer=byte_tokenizer(), examples=500, **options)
    assert len(set(result.pairs)) == 500
    groups = [pair.group for pair in result.pairs]
    assert len(set(groups)) >= 3
    assert min(map(groups.count, groups)) >= 500 / len(set(groups)) / 4


def test_ioi_has_ten_templates_in_both_orders(byte_tokenizer: Any) -> None:
    groups = {p.group for p in make_task("ioi", tokenizer=byte_tokenizer(), examples=200).pairs}
    numbers = [{g[4:] for g in groups if g.startswith(order)} for order in ("ABBA", "BABA")]
    assert numbers[0] == numbers[1] and len(numbers[0]) >= 10


def test_the_hash_seed_changes_nothing() -> None:
    code = (
        "from edgewise.patching.tasks import *\n"
        "print([preview(n, examples=9, seed=5) for n in sorted(TASKS)])\n"
        "print(make_task('induction', vocab_size=50, seed=2).pairs)"
    )
    seen = {
        hashlib.sha256(
            subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONHASHSEED": seed},
                capture_output=True,
                check=True,
            ).stdout
        ).hexdigest()
        for seed in ("0", "1")
    }
    assert len(seen) == 1


def test_listing_tasks_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from edgewise.patching.tasks import *; describe_tasks(); preview('ioi')\n"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -- what the corrupted twin does ------------------------------------------------------------


def mentions(text: str, *words: str) -> list[int]:
    return [len(re.findall(rf"\b{word.strip()}\b", text)) for word in words]


def test_ioi_repeats_one_name_and_the_answer_is_the_other() -> None:
    for sample in preview("ioi", examples=100):
        (answer,), (distractor,) = sample.answers, sample.distractors
        assert mentions(sample.clean, answer, distractor) == [1, 2]
        assert mentions(sample.corrupted, answer, distractor) == [1, 1]
        order = sample.clean.index(answer.strip()) < sample.clean.index(distractor.strip())
        assert order is sample.group.startswith("ABBA")


def test_ioi_flip_exchanges_answer_and_distractor() -> None:
    for sample in preview("ioi", examples=100, corruption="flip"):
        (answer,), (distractor,) = sample.answers, sample.distractors
        assert mentions(sample.corrupted, answer, distractor) == [2, 1]


def test_ioi_abc_has_three_other_names() -> None:
    for sample in preview("ioi", examples=100, corruption="abc"):
        assert mentions(sample.corrupted, *sample.answers, *sample.distractors) == [0, 0]
        changed = [
            b for a, b in zip(sample.clean.split(), sample.corrupted.split(), strict=True) if a != b
        ]
        assert len({name.strip(",") for name in changed}) == 3


def test_ioi_third_name_changes_one_token(byte_tokenizer: Any) -> None:
    for pair in make_task("ioi", tokenizer=byte_tokenizer(), examples=100).pairs:
        assert sum(a != b for a, b in zip(pair.clean, pair.corrupted, strict=True)) == 1


@pytest.mark.parametrize("period", [5, 10])
def test_induction_answers_what_followed_the_last_token(period: int) -> None:
    result = make_task("induction", vocab_size=60, period=period, repeat=3)
    for pair in result.pairs:
        for prompt, (answer,) in ((pair.clean, pair.answers), (pair.corrupted, pair.distractors)):
            first = prompt[:period]
            assert len(prompt) == period + 3 and len(set(first)) == period
            assert first[first.index(prompt[-1]) + 1] == answer
        assert pair.clean[period:] == pair.clean[:3] == pair.corrupted[period:]
        assert sum(a != b for a, b in zip(pair.clean, pair.corrupted, strict=True)) == 2
        assert max(pair.clean) < 60


def test_induction_draws_plain_words_from_a_tokenizer(byte_tokenizer: Any) -> None:
    result = make_task("induction", tokenizer=byte_tokenizer(bos=True))
    for sample in result.samples:
        assert all(word.isalpha() and word.islower() for word in sample.clean.split())


def year(text: str) -> int:
    return int(re.findall(r"\d{4}", text)[0])


@pytest.mark.parametrize(
    ("digits", "form", "start"), [(1, "tens", 2), (2, "two-digits", 2), (3, "units", 3)]
)
def test_greater_than_takes_the_form_that_suits_the_tokenizer(
    byte_tokenizer: Any, digits: int, form: str, start: int
) -> None:
    tokenizer = byte_tokenizer(digits)
    result = make_task("greater-than", tokenizer=tokenizer, examples=100)
    check(result, tokenizer, False)
    width = {"tens": 1, "two-digits": 2, "units": 1}[form]
    for pair, sample in zip(result.pairs, result.samples, strict=True):
        assert sample.group.startswith(form)
        first, given = year(sample.clean), sample.clean.split()[-1]
        assert len(given) == start and str(first).startswith(given)
        equal = str(first)[start : start + width]
        assert all(len(end) == width and end > equal for end in sample.answers)
        assert all(len(end) == width and end <= equal for end in sample.distractors)
        assert len(sample.answers) == int("9" * width) - int(equal)
        assert year(sample.corrupted) < first
        # the whole year is the prompt's last token (or two) and then an answer token
        whole = tokenizer(sample.clean + sample.answers[0])["input_ids"]
        assert tuple(whole) == (*pair.clean, pair.answers[0])


@pytest.mark.parametrize("name", ["capitals", "successor", "gendered-pronoun"])
def test_the_corrupted_prompts_answer_is_the_distractor(name: str) -> None:
    by_prompt: dict[str, set[str]] = {}
    for sample in preview(name, examples=400):
        by_prompt.setdefault(sample.clean, set()).update(sample.answers)
        by_prompt.setdefault(sample.corrupted, set()).update(sample.distractors)
    assert all(len(answers) == 1 for answers in by_prompt.values())


def test_successors_follow_in_order() -> None:
    seen = {}
    for sample in preview("successor", examples=600, shown=1):
        last = sample.clean.replace(",", "").replace(":", "").split()[-1]
        seen[last] = sample.answers[0].strip()
    expected = {"Sunday": "Monday", "December": "January", "one": "two", "A": "B", "ninth": "tenth"}
    assert seen.items() >= expected.items()
    assert "Z" not in seen and "twenty" not in seen


def test_verbs_agree_with_the_subject() -> None:
    for sample in preview("subject-verb-agreement", examples=200):
        plural = sample.group[0] == "P"
        assert (" are" in sample.answers) is plural and (" is" in sample.answers) is not plural
        subjects = [text.split()[1] for text in (sample.clean, sample.corrupted)]
        assert subjects[0] != subjects[1]
        assert sample.clean.split()[2:] == sample.corrupted.split()[2:]


@pytest.mark.parametrize("corruption", ["question", "contents"])
def test_a_box_contains_what_was_put_into_it(corruption: str) -> None:
    def content(text: str) -> str:
        """Find the object whose statement names the box of the question."""
        facts, question = re.fullmatch(r"(.*)\. (.*)", text).groups()  # type: ignore[union-attr]
        asked = re.search(r"Box (\w)", question)[1]  # type: ignore[index]
        facts = facts.lower().replace("i put ", "").replace(" and ", ", ")
        (fact,) = [f for f in facts.split(", ") if re.search(rf"box {asked.lower()}\b", f)]
        words = set(fact.split()) - {"the", "a", "box", "is", "in", "into", "holds", "went"}
        return next(word for word in words if len(word) > 1)

    for sample in preview("entity-tracking", examples=200, corruption=corruption):
        assert f" {content(sample.clean)}" == sample.answers[0]
        assert f" {content(sample.corrupted)}" == sample.distractors[0]


def test_one_token_for_both_bos_and_unknown_hides_no_pair(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.unk_token = tokenizer.bos_token
    check(make_task("ioi", tokenizer=tokenizer, bos=True), tokenizer, True)


# -- what is left out and what is refused ----------------------------------------------------


def test_what_a_small_vocabulary_cannot_say_is_counted(byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(size=1800)
    result = make_task("gendered-pronoun", tokenizer=tokenizer, examples=20)
    check(result, tokenizer, False)
    assert result.report.left_out["the prompts do not align"] > 0
    assert "the prompts do not align" in str(result.report)
    named = make_task("ioi", tokenizer=tokenizer, examples=5)
    assert named.report.words_left_out["names"] > 0
    check(named, tokenizer, False)


def test_unknown_words_are_no_words(word_tokenizer: Any) -> None:
    with pytest.raises(PromptError) as caught:
        make_task("ioi", tokenizer=word_tokenizer, examples=5)
    assert re.match(r"task 'ioi' has (no|only \d) ", str(caught.value))
    assert "a word is unknown to the tokenizer" in str(caught.value)


def test_a_tokenizer_that_invents_spaces_gets_the_right_answers(space_tokenizer: Any) -> None:
    for name in sorted(TASKS):
        result = make_task(name, tokenizer=space_tokenizer, examples=20)
        for pair, sample in zip(result.pairs, result.samples, strict=True):
            marks = space_tokenizer.convert_ids_to_tokens([*pair.answers, *pair.distractors])
            if name != "induction":
                texts = [*sample.answers, *sample.distractors]
                assert marks == [text.replace(" ", "▁") for text in texts]


def test_more_examples_than_pairs_is_an_error_that_counts_them() -> None:
    with pytest.raises(
        PromptError, match=r"has only 240 distinct pairs .* but 1000 were asked for"
    ):
        make_task("induction", vocab_size=5, period=5, repeat=1, examples=1000)
    assert make_task("induction", vocab_size=5, period=5, repeat=1, examples=240).report.kept == 240


def test_the_exact_number_of_pairs_can_be_had(byte_tokenizer: Any) -> None:
    options: dict[str, Any] = {"tokenizer": byte_tokenizer(), "groups": ["t0"]}
    with pytest.raises(PromptError) as caught:
        make_task("capitals", examples=10**5, **options)
    possible = int(re.findall(r"at most (\d+) examples", str(caught.value))[0])
    result = make_task("capitals", examples=possible, **options)
    assert len({(p.clean, p.corrupted) for p in result.pairs}) == possible


def test_length_and_groups_narrow_a_task(byte_tokenizer: Any) -> None:
    result = make_task("ioi", tokenizer=byte_tokenizer(), length=14, groups=["ABBA0", "BABA3"])
    assert {len(pair.clean) for pair in result.pairs} == {14}
    assert {pair.group for pair in result.pairs} <= {"ABBA0", "BABA3"}
    with pytest.raises(PromptError, match=r"has no pairs .* not 99 tokens long"):
        make_task("ioi", tokenizer=byte_tokenizer(), length=99)
    with pytest.raises(UnknownName, match="unknown group of task 'ioi' 'ABBA99'; did you mean"):
        make_task("ioi", tokenizer=byte_tokenizer(), groups=["ABBA99"])


def test_ids_stay_below_the_models_vocabulary(byte_tokenizer: Any) -> None:
    small = make_task("induction", tokenizer=byte_tokenizer(), vocab_size=1000).pairs
    assert max(max(pair.clean) for pair in small) < 1000
    with pytest.raises(PromptError, match="a token lies beyond vocab_size"):
        make_task("ioi", tokenizer=byte_tokenizer(), vocab_size=20)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ioj", {}, "unknown task 'ioj'; did you mean 'ioi'? Accepted: "),
        ("ioi", {"corruptoin": "abc"}, "unknown option of task 'ioi' 'corruptoin'; did you mean"),
        (
            "ioi",
            {"corruption": "abd"},
            "unknown corruption of task 'ioi' 'abd'; did you mean 'abc'",
        ),
        ("capitals", {"period": 3}, "unknown option 'period' of task 'capitals', which has no op"),
        (
            "induction",
            {"period": "ten"},
            "period='ten' does not fit task 'induction'; accepted: a ",
        ),
        ("induction", {"period": 0}, "period=0 does not fit"),
        ("induction", {"period": True}, "period=True does not fit"),
    ],
)
def test_unknown_names_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownName, match=re.escape(message)):
        make_task(name, vocab_size=100, **options)
    with pytest.raises(UnknownName, match=re.escape(message)):
        preview(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ioi", {}, "needs the model's tokenizer, but none was given; .* vocab_size: induction"),
        ("induction", {"vocab_size": None}, "needs the size of the model's vocabulary"),
        ("induction", {"vocab_size": 0}, "vocab_size is 0; accepted: a whole number from 1 up"),
        ("induction", {"examples": 0}, "examples is 0; accepted"),
        ("induction", {"seed": -1}, "seed is -1; accepted: a whole number from 0 up"),
        ("induction", {"bos": True}, "bos=True needs a tokenizer"),
        ("induction", {"period": 4}, "got period=4 and repeat=7; accepted: a period from 5 up"),
        ("induction", {"repeat": 10}, "got period=10 and repeat=10"),
        ("induction", {"vocab_size": 9}, "has no pairs for this vocabulary and these options"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        make_task(name, **({"vocab_size": 100} | options))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("entity-tracking", {"boxes": 1}),
        ("entity-tracking", {"boxes": 99}),
        ("successor", {"shown": 6}),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, options: dict[str, int]) -> None:
    with pytest.raises(PromptError, match=r"got \w+=\d+; accepted: \d to \d"):
        preview(name, **options)


def test_numbers_may_come_as_text() -> None:
    result = make_task("induction", vocab_size=90, examples=2, period="8", repeat="3")
    assert result.options == {"period": 8, "repeat": 3}
    assert len(result.pairs.pairs[0].clean) == 11


# -- how a task is made and shown ------------------------------------------------------------


def test_descriptions_are_json_and_match_the_functions() -> None:
    described = {str(row["name"]): row for row in json.loads(json.dumps(describe_tasks()))}
    assert list(described) == sorted(TASKS)
    for name, found in TASKS.items():
        row = described[name]
        assert row["summary"] == found.summary and len(found.summary) < 70
        keywords = [
            p.name
            for p in inspect.signature(found.spaces).parameters.values()
            if p.kind == p.KEYWORD_ONLY
        ]
        assert [option["name"] for option in row["options"]] == keywords
    assert described["ioi"]["options"] == [
        {
            "name": "corruption",
            "default": "third-name",
            "type": "choice",
            "choices": ["third-name", "abc", "flip"],
        }
    ]
    assert [row["name"] for row in described.values() if not row["needs_tokenizer"]] == [
        "induction"
    ]


def test_samples_read_well() -> None:
    text = format_samples(preview("greater-than", examples=2))
    assert len(text.splitlines()) == 10
    assert text.startswith("[tens")
    many = preview("greater-than", examples=1, form="two-digits", seed=1)
    shown = format_samples(many)
    assert f"… {len(many[0].answers) - 6} more" in shown or len(many[0].answers) <= 6


def test_a_task_is_a_decorated_function(
    monkeypatch: pytest.MonkeyPatch, byte_tokenizer: Any
) -> None:
    registry = dict(TASKS)
    monkeypatch.setattr("edgewise.patching.tasks._registry.TASKS", registry)
    monkeypatch.setattr("edgewise.patching.tasks._make.TASKS", registry)

    @task("echo", summary="say the word again")
    def echo(vocabulary: Any, *, times: int = 2) -> Any:
        def build(pair: tuple[str, str]) -> Candidate:
            a, b = (" ".join([word] * times) for word in pair)
            return Candidate(a, b, (f" {pair[0]}",), (f" {pair[1]}",))

        words = vocabulary.keep_words("words", ("tree", "river", "xyzzy"))
        yield Space("only", (Pick(words, 2),), build)

    result = make_task("echo", tokenizer=byte_tokenizer(), examples=2, times=3)
    assert sorted(sample.clean for sample in result.samples) == [
        "river river river",
        "tree tree tree",
    ]
    assert result.report.words_left_out == {"words": 1}
    with pytest.raises(EdgewiseError, match="registered already"):
        task("echo", summary="again")(echo)


def test_pairs_written_as_text_are_read_back_as_the_same_ids(
    tmp_path: Any, byte_tokenizer: Any
) -> None:
    for digits in (1, 2, 3):
        tokenizer = byte_tokenizer(digits, bos=True)
        for name in sorted(TASKS):
            result = make_task(name, tokenizer=tokenizer, examples=10)
            rows = [
                {
                    "clean": s.clean,
                    "corrupted": s.corrupted,
                    "answers": s.answers,
                    "distractors": s.distractors,
                    "group": s.group,
                }
                for s in result.samples
            ]
            path = tmp_path / f"{name}.jsonl"
            path.write_text("\n".join(json.dumps(row) for row in rows))
            assert read_pairs(path, tokenizer).sha256 == result.pairs.sha256


# -- spaces ----------------------------------------------------------------------------------


@given(st.integers(0, 6), st.integers(1, 3))
def test_picks_are_all_ordered_choices_once(items: int, count: int) -> None:
    import itertools

    pick = Pick(range(items), count)
    assert sorted(pick[i] for i in range(pick.size)) == sorted(
        itertools.permutations(range(items), count)
    )


@given(st.integers(0, 40), st.integers(0, 5))
def test_a_shuffle_takes_every_number_once(size: int, seed: int) -> None:
    assert sorted(shuffled(size, random.Random(seed))) == list(range(size))


@given(st.lists(st.integers(0, 6), max_size=4), st.integers(0, 5))
def test_a_walk_takes_every_candidate_once_and_the_spaces_in_turn(
    sizes: list[int], seed: int
) -> None:
    def build(number: int) -> Any:
        return lambda item: None if item == (0,) else Candidate((number,), item, (), ())

    spaces = [Space(str(n), (Pick(range(size)),), build(n)) for n, size in enumerate(sizes)]
    walked = list(walk(spaces, random.Random(seed)))
    expected = [(n, i) for n, size in enumerate(sizes) for i in range(1, size)]
    assert sorted((c.clean[0], c.corrupted[0]) for _, c in walked) == expected
    full = sum(size > 1 for size in sizes)
    assert len({group for group, _ in walked[:full]}) == full


# -- the real tokenizer ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_tokenizer() -> Any:
    from edgewise.graphs.errors import ModelNotFound
    from edgewise.graphs.load.loading import load_tokenizer

    try:
        return load_tokenizer("smollm2-135m")
    except ModelNotFound as error:
        pytest.skip(f"the real model is not there: {error}")


@pytest.mark.real
@variants
def test_500_pairs_under_a_real_tokenizer(
    real_tokenizer: Any, name: str, options: dict[str, Any]
) -> None:
    result = make_task(name, tokenizer=real_tokenizer, examples=500, **options)
    check(result, real_tokenizer, False)


@pytest.mark.real
def test_a_real_tokenizer_has_single_digits(real_tokenizer: Any) -> None:
    result = make_task("greater-than", tokenizer=real_tokenizer)
    assert {pair.group[:4] for pair in result.pairs} == {"tens"}
    mary, john = real_tokenizer(" Mary John")["input_ids"]
    assert mary == 5099
    assert john != mary
