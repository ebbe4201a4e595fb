from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewise.graphs.errors import EdgewiseError, PromptError
from edgewise.patching.prompts.pair_files import read_pairs, write_pairs
from edgewise.patching.prompts.pairs import Pair, PromptPairs

GOOD_TEXT = {
    "clean": "When Mary and John went to the store, John gave a drink to",
    "corrupted": "When Mary and John went to the store, Anna gave a drink to",
    "answers": [" Mary"],
    "distractors": [" John"],
}
GOOD_IDS = {
    "clean_ids": [5, 17, 3],
    "corrupted_ids": [5, 9, 3],
    "answer_ids": [40],
    "distractor_ids": [41],
}


def lines(folder: Path, *rows: Any) -> Path:
    path = folder / "mine.jsonl"
    texts = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def refusal(path: Path, *args: Any, **options: Any) -> str:
    with pytest.raises(PromptError) as caught:
        read_pairs(path, *args, **options)
    return str(caught.value)


# -- what is read ----------------------------------------------------------------------------


def test_ids_are_read_as_they_are(tmp_path: Path) -> None:
    row = GOOD_IDS | {"answer_position": -2, "group": "t0"}
    pairs = read_pairs(lines(tmp_path, GOOD_IDS, "", row))
    assert pairs.name == "mine"
    assert pairs.bos_prepended is None
    assert pairs.pairs == (
        Pair((5, 17, 3), (5, 9, 3), (40,), (41,), 2),
        Pair((5, 17, 3), (5, 9, 3), (40,), (41,), 1, "t0"),
    )


def test_text_gives_the_tokenizers_ids(tmp_path: Path, word_tokenizer: Any) -> None:
    pairs = read_pairs(lines(tmp_path, GOOD_TEXT), word_tokenizer)
    (pair,) = pairs
    assert pair.clean == tuple(word_tokenizer(GOOD_TEXT["clean"])["input_ids"])
    assert pair.corrupted == tuple(word_tokenizer(GOOD_TEXT["corrupted"])["input_ids"])
    assert [i for i in range(14) if pair.clean[i] != pair.corrupted[i]] == [9]
    assert word_tokenizer.convert_ids_to_tokens([*pair.answers, *pair.distractors]) == [
        "Mary",
        "John",
    ]
    assert pair.answer_position == 13
    assert pairs.bos_prepended is False


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("asked", [None, False, True])
def test_bos_is_the_tokenizers_unless_forced(
    tmp_path: Path, byte_tokenizer: Any, own: bool, asked: bool | None
) -> None:
    path = lines(tmp_path, GOOD_TEXT)
    bare = read_pairs(path, byte_tokenizer(), bos=False).pairs[0]
    pairs = read_pairs(path, byte_tokenizer(bos=own), bos=asked)
    expected = own if asked is None else asked
    assert pairs.bos_prepended is expected
    assert pairs.pairs[0].clean == ((0,) if expected else ()) + bare.clean
    assert pairs.pairs[0].corrupted == ((0,) if expected else ()) + bare.corrupted
    assert pairs.pairs[0].answers == bare.answers


def test_answers_follow_the_text_not_a_special_token_after_it(
    tmp_path: Path, byte_tokenizer: Any
) -> None:
    (pair,) = read_pairs(lines(tmp_path, GOOD_TEXT), byte_tokenizer(bos=True, eos=True))
    assert pair.clean[0] == 0 and pair.clean[-1] == 1
    assert pair.answer_position == len(pair.clean) - 2


def test_an_answer_is_the_token_that_continues_the_prompt(
    tmp_path: Path, space_tokenizer: Any
) -> None:
    year = {
        "clean": "The war lasted from the year 1247 to the year 12",
        "corrupted": "The war lasted from the year 1207 to the year 12",
        "answers": ["5"],
        "distractors": ["3"],
    }
    (name, digit) = read_pairs(lines(tmp_path, GOOD_TEXT, year), space_tokenizer)
    assert space_tokenizer.convert_ids_to_tokens(name.answers) == ["▁Mary"]
    assert space_tokenizer.convert_ids_to_tokens(digit.answers) == ["5"]


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD_IDS).encode() + b"\r\n\r\n")
    assert len(read_pairs(path)) == 1


def test_a_line_separator_inside_a_text_is_no_end_of_line(
    tmp_path: Path, byte_tokenizer: Any
) -> None:
    row = GOOD_TEXT | {key: f"\u2028{GOOD_TEXT[key]}" for key in ("clean", "corrupted")}
    path = lines(tmp_path, json.dumps(row, ensure_ascii=False))
    assert len(read_pairs(path, byte_tokenizer())) == 1


# -- writing ---------------------------------------------------------------------------------

ids = st.integers(0, 60_000)


@st.composite
def some_pairs(draw: st.DrawFn) -> PromptPairs:
    def pair() -> Pair:
        length = draw(st.integers(1, 6))
        row = st.lists(ids, min_size=length, max_size=length).map(tuple)
        tokens = draw(st.lists(ids, min_size=2, max_size=5, unique=True))
        cut = draw(st.integers(1, len(tokens)))
        position = draw(st.integers(-length, length - 1))
        clean, corrupted = draw(row), draw(row)
        answers, rest = tuple(tokens[:cut]), tuple(tokens[cut:])
        return Pair(clean, corrupted, answers, rest, position, draw(st.text(max_size=3)))

    many = tuple(pair() for _ in range(draw(st.integers(1, 4))))
    return PromptPairs(many, name="mine", bos_prepended=draw(st.sampled_from([None, True, False])))


@given(some_pairs())
def test_written_pairs_are_read_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, pairs: PromptPairs
) -> None:
    path = tmp_path_factory.mktemp("pairs") / "mine.jsonl"
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs
    assert read_pairs(path).sha256 == pairs.sha256


def test_text_and_the_ids_it_became_are_the_same_pairs(tmp_path: Path, byte_tokenizer: Any) -> None:
    path = lines(tmp_path, GOOD_TEXT | {"group": "t0"})
    pairs = read_pairs(path, byte_tokenizer(bos=True))
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs
    assert json.loads(path.read_text())["bos_prepended"] is True


def test_writing_replaces_a_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = lines(tmp_path, "old")
    pairs = PromptPairs((Pair((1,), (2,), (3,)),), name="mine")
    write_pairs(path, pairs)
    assert read_pairs(path) == pairs
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgewiseError, match="cannot write"):
        write_pairs(tmp_path / "no" / "mine.jsonl", PromptPairs((Pair((1,), (2,), (3,)),)))


# -- what is refused, with its line ----------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"clean_ids": [5', r"is not JSON \(.* at column \d+\): \{\"clean_ids\": \[5; accepted"),
        ("[" * 100_000, "is not JSON"),
        ("[1, 2]", "is a list; accepted: one JSON object"),
        ("null", "is null; accepted: one JSON object"),
        ('{"clean_ids": [1], "clean_ids": [2]}', "'clean_ids' is given twice"),
        ({}, "no prompt is given; needed: clean, corrupted, answers, or clean_ids"),
        (GOOD_IDS | {"answer_idz": [1]}, "unknown key 'answer_idz'; did you mean 'answer_ids'"),
        ({"clena": "a"}, "unknown key 'clena'; did you mean 'clean'"),
        ({"clean_ids": [1], "corrupted_ids": [1]}, "'answer_ids' is missing; found: clean_ids, "),
        (GOOD_IDS | {"clean_ids": "5 17 3"}, "'clean_ids' is \"5 17 3\"; accepted: a list of tok"),
        (GOOD_IDS | {"clean_ids": [5, 1.5, 3]}, "'clean_ids' holds 1.5; accepted: a list of token"),
        (GOOD_IDS | {"clean_ids": [5, True, 3]}, "'clean_ids' holds true"),
        (GOOD_IDS | {"clean_ids": [5, [17], 3]}, "'clean_ids' holds a list"),
        (GOOD_IDS | {"clean_ids": [], "corrupted_ids": []}, "'clean_ids' is empty"),
        (GOOD_IDS | {"answer_ids": []}, "'answer_ids' is empty"),
        (GOOD_IDS | {"answer_ids": "40"}, "'answer_ids' is \"40\"; accepted: a list"),
        (GOOD_IDS | {"clean_ids": [5, -1, 3]}, "'clean_ids' holds the id -1; accepted: 0 to 99"),
        (GOOD_IDS | {"answer_ids": [100]}, "'answer_ids' holds the id 100; accepted: 0 to 99"),
        (GOOD_IDS | {"distractor_ids": [7e3]}, "'distractor_ids' holds 7000.0"),
        (GOOD_IDS | {"clean_ids": [5, 17]}, "clean_ids holds 2 tokens and corrupted_ids 3; acc"),
        (GOOD_IDS | {"answer_position": 3}, "answer_position 3 lies outside the 3 .*: -3 to 2"),
        (GOOD_IDS | {"answer_position": -4}, "answer_position -4 lies outside"),
        (GOOD_IDS | {"answer_position": "last"}, "'answer_position' is \"last\"; accepted: a wh"),
        (GOOD_IDS | {"answer_position": True}, "'answer_position' is true"),
        (GOOD_IDS | {"group": 3}, "'group' is 3; accepted: a text"),
        (GOOD_IDS | {"bos_prepended": 1}, "'bos_prepended' is 1; accepted: true or false"),
        (GOOD_IDS | {"bos_prepended": True}, "'bos_prepended' is true, but null in the lines be"),
        (GOOD_IDS | {"distractor_ids": [40]}, "a token is both answer and distractor"),
        (GOOD_IDS | {"answer_ids": [40, 40]}, "the answers name the same token twice"),
        (GOOD_IDS | {"clean": "a"}, "mixes text and ids"),
        (GOOD_TEXT, "is written as text, but the lines before it as ids; accepted: one form"),
    ],
)
def test_a_bad_line_of_ids_is_named(tmp_path: Path, row: Any, message: str) -> None:
    found = refusal(lines(tmp_path, GOOD_IDS, "", row), vocab_size=100)
    assert re.match(rf"'.*mine\.jsonl', line 3: .*{message}", found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"clean": "When Mary went"},
            "clean has 3 tokens and corrupted 14; .*'When' 'Mary' 'went'",
        ),
        ({"clean": ["a"]}, "'clean' is a list; accepted: a text"),
        ({"clean": ""}, "'clean' holds an empty text"),
        ({"clean": "\ud800"}, "'clean' holds half of a surrogate pair"),
        ({"answers": {"a": 1}}, "'answers' is an object; accepted: a list of texts"),
        ({"answers": [5]}, "'answers' holds 5; accepted: a list of texts"),
        ({"answers": [""]}, "'answers' holds an empty text"),
        ({"answers": []}, "'answers' is empty"),
        ({"answers": [" Mary John"]}, r"' Mary John', which is 2 tokens \('Mary' 'John'\)"),
        ({"distractors": [" Paul"]}, "'distractors' holds ' Paul', which the tokenizer does not"),
        ({"distractors": [" Mary"]}, "a token is both answer and distractor"),
        ({"answer_position": 14}, "answer_position 14 lies outside the 14 tokens"),
        ({"answer": [" Anna"]}, "'answers' and 'answer' both say what the answers are; accepted"),
        ({"bos_prepended": True}, "unknown key 'bos_prepended'"),
    ],
)
def test_a_bad_line_of_text_is_named(
    tmp_path: Path, word_tokenizer: Any, change: dict[str, Any], message: str
) -> None:
    found = refusal(lines(tmp_path, GOOD_TEXT, GOOD_TEXT | change), word_tokenizer)
    assert re.match(rf"'.*mine\.jsonl', line 2: .*{message}", found)


def test_tokens_are_shown_with_their_spaces(tmp_path: Path, byte_tokenizer: Any) -> None:
    row = GOOD_TEXT | {"clean": "When Mary", "answers": [" Mary"]}
    found = refusal(lines(tmp_path, row), byte_tokenizer())
    assert "clean has 2 tokens and corrupted" in found
    assert "clean: 'When' ' Mary'; corrupted: 'When' ' Mary' ' and'" in found


def test_every_bad_line_is_counted_and_five_are_shown(tmp_path: Path) -> None:
    found = refusal(lines(tmp_path, *[GOOD_IDS | {"clean_ids": [i]} for i in range(8)]))
    assert found.startswith(f"'{tmp_path}/mine.jsonl' has 8 lines that cannot be used:")
    assert re.findall(r"line (\d+):", found) == ["1", "2", "3", "4", "5"]
    assert found.endswith("… and 3 more.")


def test_an_id_without_a_known_vocabulary_has_a_limit_too(tmp_path: Path) -> None:
    assert "accepted: 0 to 2147483647" in refusal(
        lines(tmp_path, GOOD_IDS | {"answer_ids": [2**70]})
    )


def test_text_needs_a_tokenizer_and_says_so_once(tmp_path: Path) -> None:
    found = refusal(lines(tmp_path, GOOD_TEXT, GOOD_TEXT))
    assert re.search("line 1: holds text, but no tokenizer was given; accepted: a `model`", found)
    assert "line 2" not in found


def test_a_decision_about_bos_does_not_fit_ids(tmp_path: Path) -> None:
    assert "line 1: holds token ids" in refusal(lines(tmp_path, GOOD_IDS), bos=False)


def test_bos_needs_a_token_to_prepend(tmp_path: Path, word_tokenizer: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=word_tokenizer.backend_tokenizer)
    assert "this tokenizer has none" in refusal(lines(tmp_path, GOOD_TEXT), bare, bos=True)


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_a_file_without_pairs_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    assert "holds no prompt pairs: every line is blank" in refusal(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.jsonl")
    assert "cannot read prompt pairs" in refusal(tmp_path)


def test_other_encodings_are_refused_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(json.dumps(GOOD_IDS).encode() + b"\n" + '{"group": "é"}'.encode("latin-1"))
    assert "line 2: the byte 0xe9 is not UTF-8" in refusal(path)
