"""Files of prompts in the shapes that others use: read as the same pairs written by hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgewise.graphs.errors import PromptError
from edgewise.patching.prompts.keys import FIELDS, NAMES, fields_of, mistyped
from edgewise.patching.prompts.pair_files import fitting_pairs, read_pairs, write_pairs
from edgewise.patching.prompts.pairs import PromptPairs
from edgewise.patching.prompts.shapes import read_shape, recognise, shapes

CASES = Path(__file__).parents[1] / "data" / "cases" / "prompts"

TEXT = """
[UNK] The goat bird cat dog cow ate some grass seeds fish hay When Olga and Piet Hugo Ann met , gave
the kite to Elbe Loire Rhine Po flows through Germany France Italy Box A B has pen cup key hat . is
in capital of Paris Rome lies
"""
WORDS = list(dict.fromkeys(TEXT.split()))
Tokenizer = Any
ID = {word: number for number, word in enumerate(WORDS)}


def make_tokenizer(*, bos: bool = False) -> Tokenizer:
    """Make a tokenizer of whole words; its first token stands for BOS too, if there is one."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(ID, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    more = {"bos_token": "[UNK]"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **more)


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return make_tokenizer()


Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: str) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode("utf-8"))
        return path

    return written


def refusal(path: Path, *args: Any, **options: Any) -> str:
    with pytest.raises(PromptError) as caught:
        read_pairs(path, *args, **options)
    return str(caught.value)


def said(pairs: PromptPairs) -> str:
    shape = pairs.origin["shape"]
    assert isinstance(shape, dict)
    return str(shape["understood"])


GOAT = {
    "clean": "The goat ate some",
    "corrupted": "The bird ate some",
    "answers": [" grass"],
    "distractors": [" seeds"],
}
BIRD = {
    "clean": "The bird ate some",
    "corrupted": "The goat ate some",
    "answers": [" seeds"],
    "distractors": [" grass"],
}


@pytest.fixture
def expected(write: Write, words: Tokenizer) -> PromptPairs:
    lines = "".join(json.dumps(row) + "\n" for row in (GOAT, BIRD))
    return read_pairs(write("expected.jsonl", lines), words)


GRASS, SEEDS = ID["grass"], ID["seeds"]

TABLE = f"""clean,corrupted,correct_idx,incorrect_idx
The goat ate some,The bird ate some,{GRASS},{SEEDS}
The bird ate some,The goat ate some,{SEEDS},{GRASS}
"""
RENAMED = [
    {"clean": one["clean"], "corrupt": one["corrupted"], "answers": one["answers"],
     "wrong_answers": one["distractors"]}
    for one in (GOAT, BIRD)
]  # fmt: skip

SAME: dict[str, tuple[str, str]] = {
    "ids in a table": ("a.csv", TABLE),
    "without an ending": ("pairs", TABLE),
    "in quotation marks": ("a.csv", re.sub(r"(The \w+ ate some)", r'"\1"', TABLE)),
    "Windows": ("a.csv", "\ufeff" + TABLE.replace("\n", "\r\n")),
    "tabs": ("a.tsv", TABLE.replace(",", "\t")),
    "tabs in a file called CSV": ("a.csv", TABLE.replace(",", "\t")),
    "semicolons": ("a.csv", TABLE.replace(",", ";")),
    "upright lines": ("a.csv", TABLE.replace(",", "|")),
    "an index and blank lines": (
        "a.csv",
        "\n".join(f"{line and ('' if i == 0 else i)}{line and ','}{line}\n"
                  for i, line in enumerate(TABLE.split("\n"))),
    ),
    "a second corrupted prompt": (
        "a.csv",
        f"clean,corrupted,corrupted_hard,correct_idx,incorrect_idx\n"
        f"The goat ate some,The bird ate some,The cow ate some,{GRASS},{SEEDS}\n"
        f"The bird ate some,The goat ate some,The cow ate some,{SEEDS},{GRASS}\n",
    ),
    "another name of the corrupted prompt": (
        "a.csv", TABLE.replace("corrupted,", "corrupted_hard,")
    ),
    "a name that nobody listed": (
        "a.csv", TABLE.replace("corrupted,", "corrupted_by_name,")
    ),
    "numbers that pandas wrote": ("a.csv", re.sub(r",(\d+)", r",\1.0", TABLE)),
    "lists of numbers": ("a.csv", re.sub(r",(\d+)", r",[\1]", TABLE)),
    "text": (
        "a.csv",
        "clean,corrupted,answers,distractors\n"
        "The goat ate some,The bird ate some, grass, seeds\n"
        "The bird ate some,The goat ate some, seeds, grass\n",
    ),
    "lists as Python writes them": (
        "a.csv",
        "clean,corrupted,answer,wrong_answers\n"
        "The goat ate some,The bird ate some,[' grass'],[' seeds']\n"
        "The bird ate some,The goat ate some,[' seeds'],[' grass']\n",
    ),
    "lists as JSON writes them": (
        "a.csv",
        "clean,corrupted,correct,incorrect\n"
        'The goat ate some,The bird ate some,"["" grass""]","["" seeds""]"\n'
        'The bird ate some,The goat ate some,"["" seeds""]","["" grass""]"\n',
    ),
    "ids named after what they are of": (
        "a.csv",
        "clean,food,food_idx,corrupted,corrupted_food,corrupted_food_idx\n"
        f"The goat ate some,grass,{GRASS},The bird ate some,seeds,{SEEDS}\n"
        f"The bird ate some,seeds,{SEEDS},The goat ate some,grass,{GRASS}\n",
    ),
    "text and its ids": (
        "a.csv",
        "clean,answers,answers_idx,corrupted,corrupted_answers,corrupted_answers_idx,clean2\n"
        f"The goat ate some,['grass'],[{GRASS}],The bird ate some,['seeds'],[{SEEDS}],x\n"
        f"The bird ate some,['seeds'],[{SEEDS}],The goat ate some,['grass'],[{GRASS}],y\n",
    ),
    "auto-circuit": (
        "a.json",
        json.dumps({"seq_labels": [""], "word_idxs": {"end": 3}, "prompts": RENAMED}, indent=1),
    ),
    "a list": ("a.json", json.dumps([GOAT, BIRD])),
    "a list over several lines": ("a", json.dumps([GOAT, BIRD], indent=2)),
    "under data": ("a.json", json.dumps({"version": 1, "data": [GOAT, BIRD]})),
    "under another name": ("a", json.dumps({"version": 1, "results": [GOAT, BIRD]})),
    "columns": ("a.json", json.dumps({key: [GOAT[key], BIRD[key]] for key in GOAT})),
    "columns of pandas": (
        "a.json", json.dumps({key: {"0": GOAT[key], "1": BIRD[key]} for key in GOAT})
    ),
    "text with ids": (
        "a.jsonl",
        "".join(
            json.dumps({"clean": one["clean"], "corrupted": one["corrupted"],
                        "answer_ids": [right], "distractor_ids": [wrong]}) + "\n"
            for one, right, wrong in ((GOAT, GRASS, SEEDS), (BIRD, SEEDS, GRASS))
        ),
    ),
    "one text for a list": (
        "a.jsonl",
        "".join(
            json.dumps({**one, "answers": one["answers"][0], "distractors": one["distractors"][0]})
            + "\n" for one in (GOAT, BIRD)
        ),
    ),
    "other names": (
        "a.jsonl",
        "".join(
            json.dumps({"Clean Prompt": one["clean"], "counterfactual": one["corrupted"],
                        "target": one["answers"], "foil": one["distractors"], "id": 7}) + "\n"
            for one in (GOAT, BIRD)
        ),
    ),
    "one number for a list": (
        "a.jsonl",
        "".join(
            json.dumps({"clean": one["clean"], "corrupt": one["corrupted"], "correct_idx": right,
                        "incorrect_idx": wrong}) + "\n"
            for one, right, wrong in ((GOAT, GRASS, SEEDS), (BIRD, SEEDS, GRASS))
        ),
    ),
    "ids under the names of text": (
        "a.json",
        json.dumps({"prompts": [
            {"clean": [ID[w] for w in str(one["clean"]).split()],
             "corrupt": [ID[w] for w in str(one["corrupted"]).split()],
             "answers": [right], "wrong_answers": [wrong]}
            for one, right, wrong in ((GOAT, GRASS, SEEDS), (BIRD, SEEDS, GRASS))]}),
    ),
    "Excel's first line": ("a.csv", "sep=;\r\n" + TABLE.replace(",", ";").replace("\n", "\r\n")),
    "comments above a table": ("a.csv", "# pairs, made by hand\n#\n" + TABLE),
    "a header behind a hash": ("a.tsv", "# " + TABLE.replace(",", "\t")),
    "comments above lines": ("a.jsonl", f"# goats\n{json.dumps(GOAT)}\n{json.dumps(BIRD)}\n"),
    "spaces before quoted cells": (
        "a.csv",
        'clean, corrupted, answer, distractor\n'
        '"The goat ate some", "The bird ate some", " grass", " seeds"\n'
        '"The bird ate some", The goat ate some , " seeds", " grass"\n',
    ),
    "numpy's lists": (
        "a.csv",
        "clean,corrupted,answers,wrong_answers\n"
        "The goat ate some,The bird ate some,[' grass'],[' seeds']\n"
        "The bird ate some,The goat ate some,[' seeds'],[' grass']\n",
    ),
    "rows of the data server": (
        "a.json",
        json.dumps({"features": [{"name": "clean"}], "rows": [
            {"row_idx": at, "row": one, "truncated_cells": []}
            for at, one in enumerate((GOAT, BIRD))]}),
    ),
    "rows under numbers": ("a.json", json.dumps({"0": GOAT, "1": BIRD})),
    "rows and columns apart": (
        "a.json",
        json.dumps({"columns": [*GOAT], "index": [0, 1],
                    "data": [[*GOAT.values()], [*BIRD.values()]]}),
    ),
    "a list, the first of names": (
        "a.json", json.dumps([[*GOAT], [*GOAT.values()], [*BIRD.values()]])
    ),
    "one object after another": (
        "a.jsonl", json.dumps(GOAT, indent=2) + "\n" + json.dumps(BIRD, indent=2)
    ),
    "what Python prints": ("a.jsonl", f"{GOAT}\n{BIRD}\n"),
    "nothing as null": (
        "a.json", json.dumps([{**one, "group": None, "spans": None} for one in (GOAT, BIRD)])
    ),
    "camels": ("a.jsonl", "".join(json.dumps({
        "cleanPrompt": one["clean"], "corruptedPrompt": one["corrupted"],
        "correctAnswer": one["answers"], "wrongAnswer": one["distractors"]}) + "\n"
        for one in (GOAT, BIRD))),
    "sides and patches": ("a.jsonl", "".join(json.dumps({
        "clean_prefix": one["clean"], "patch_prefix": one["corrupted"],
        "clean_answer": one["answers"], "patch_answer": one["distractors"], "case": "x"}) + "\n"
        for one in (GOAT, BIRD))),
    "base and source": ("a.jsonl", "".join(json.dumps({
        "base": one["clean"], "source": one["corrupted"],
        "base_label": one["answers"], "source_label": one["distractors"]}) + "\n"
        for one in (GOAT, BIRD))),
    "objects for sides": ("a.jsonl", "".join(json.dumps({
        "clean": {"prompt": one["clean"], "answer": one["answers"]},
        "corrupted": {"prompt": one["corrupted"], "answer": one["distractors"]}}) + "\n"
        for one in (GOAT, BIRD))),
    "words in another order": (
        "a.tsv",
        "text\ttext_corrupted\tlabel_true\tlabel_false\n"
        "The goat ate some\tThe bird ate some\t grass\t seeds\n"
        "The bird ate some\tThe goat ate some\t seeds\t grass\n",
    ),
    "input and output": (
        "a.csv",
        "input,counterfactual,output,counterfactual_output,answer_type\n"
        "The goat ate some,The bird ate some, grass, seeds,food\n"
        "The bird ate some,The goat ate some, seeds, grass,food\n",
    ),
    "a document within": ("a.json", json.dumps({"dataset": {"prompts": [GOAT, BIRD]}})),
    "columns within": (
        "a.json", json.dumps({"data": {key: [GOAT[key], BIRD[key]] for key in GOAT}})
    ),
    "names with brackets": ("a.jsonl", "".join(json.dumps({
        "Prompt (clean)": one["clean"], "Prompt (corrupted)": one["corrupted"],
        "Answer": one["answers"], "Wrong answer": one["distractors"]}) + "\n"
        for one in (GOAT, BIRD))),
    "scored targets": (
        "a.json",
        json.dumps({"name": "food", "examples": [
            {"input": one["clean"], "counterfactual": one["corrupted"],
             "target_scores": {wrong: 0, right: 1}}
            for one, right, wrong in ((GOAT, " grass", " seeds"), (BIRD, " seeds", " grass"))]}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_pairs_are_the_same_in_every_shape(
    name: str, write: Write, words: Tokenizer, expected: PromptPairs
) -> None:
    pairs = read_pairs(write(*SAME[name]), words, vocab_size=len(WORDS))
    plain = replace(pairs, pairs=tuple(replace(pair, spans=()) for pair in pairs))
    assert plain.sha256 == expected.sha256
    assert pairs.seed is None
    assert "2 pairs" in said(pairs)


def test_what_was_understood_is_one_line(write: Write, words: Tokenizer) -> None:
    pairs = read_pairs(write(*SAME["ids in a table"]), words)
    assert said(pairs) == (
        "CSV with a header: clean, corrupted, token ids of the answer (correct_idx) and the "
        "distractor (incorrect_idx), ids of the file's own tokenizer (here "
        f"{GRASS} is 'grass' and {SEEDS} is 'seeds'); 2 pairs"
    )
    assert "not used: corrupted_hard" in said(
        read_pairs(write(*SAME["a second corrupted prompt"]), words)
    )
    circuit = said(read_pairs(write(*SAME["auto-circuit"]), words))
    assert "corrupted (corrupt)" in circuit and circuit.endswith("not used: seq_labels")
    assert "not used: id" in said(read_pairs(write(*SAME["other names"]), words))
    native = read_pairs(write("a.jsonl", json.dumps(GOAT)), words)
    shape = native.origin["shape"]
    assert isinstance(shape, dict) and shape["native"] is True
    for name, (file, content) in SAME.items():
        about = read_pairs(write(file, content), words).origin["shape"]
        assert isinstance(about, dict) and "\n" not in about["understood"]
        like_lines = ("one text for a list", "comments above lines", "what Python prints")
        assert "native" not in about or name in like_lines


def test_words_without_a_space_between_them_are_noticed(write: Write, words: Tokenizer) -> None:
    table = "clean,corrupted,answers\nThe goat ate some,The bird ate some,{}\n"
    joined = said(read_pairs(write("a.csv", table.format(" grass")), words))
    assert "space" not in joined
    found = said(read_pairs(write("a.csv", table.format("grass")), words))
    assert "answers without a space before them ('somegrass')" in found


def test_named_positions_become_spans_and_are_kept(
    write: Write, words: Tokenizer, tmp_path: Path
) -> None:
    pairs = read_pairs(write(*SAME["auto-circuit"]), words)
    assert [pair.spans for pair in pairs] == [(("end", 3),)] * 2
    write_pairs(tmp_path / "again.jsonl", pairs)
    again = read_pairs(tmp_path / "again.jsonl")
    assert again.pairs == pairs.pairs
    outside = json.dumps({"word_idxs": {"end": 4, "S": 1}, "prompts": RENAMED})
    pairs = read_pairs(write("b.json", outside), words)
    assert [pair.spans for pair in pairs] == [(("S", 1),)] * 2
    assert "without 'end' (4) outside a prompt" in said(pairs)
    longer = {"clean": "The goat ate some of", "corrupt": "The bird ate some of", "answers": " hay"}
    several = json.dumps({"word_idxs": {"end": 3}, "prompts": [*RENAMED, longer]})
    pairs = read_pairs(write("b.json", several), words)
    assert [len(pair.spans) for pair in pairs] == [1, 1, 0]
    assert "(word_idxs) of the 2 prompts of 4 tokens" in said(pairs)
    ids = [{"clean": [1, 2, 3], "corrupt": [1, 4, 3], "answers": [5], "wrong_answers": [6]}]
    (pair,) = read_pairs(
        write("d.json", json.dumps({"word_idxs": {"a": 1, "b": 3}, "prompts": ids}))
    )
    assert pair.spans == (("a", 1),)
    row = {**GOAT, "spans": {"end": -1}}
    (pair,) = read_pairs(write("c.jsonl", json.dumps(row)), words)
    assert pair.spans == (("end", 3),)


def test_word_positions_do_not_count_a_token_put_before_the_text(
    write: Write, words: Tokenizer
) -> None:
    path = write(*SAME["auto-circuit"])
    begun = read_pairs(path, make_tokenizer(bos=True), bos=True).pairs[0]
    assert begun.clean == (0, *read_pairs(path, words).pairs[0].clean)
    assert begun.spans == (("end", 4),)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spans": ["end"]}, "'spans' is a list; accepted: positions by their names"),
        ({"spans": {"end": "x"}}, "'spans' holds \"x\"; accepted: a whole number"),
        ({"spans": {"end": 4}}, "'spans' has 'end' at 4, outside the 4 tokens .*: -4 to 3"),
    ],
)
def test_wrong_spans_are_refused(
    change: dict[str, Any], message: str, write: Write, words: Tokenizer
) -> None:
    found = refusal(write("a.jsonl", json.dumps(GOAT | change)), words)
    assert re.search(message, found)


def test_what_fits_a_tokenizer_can_be_asked_for(write: Write, words: Tokenizer) -> None:
    rows = [
        GOAT,
        {**GOAT, "clean": "The goat ate"},
        {**GOAT, "answers": [" fish hay"]},
        {**GOAT, "answers": [" wolf"]},
        BIRD,
    ]
    path = write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found = refusal(path, words)
    assert found.startswith(f"'{path}' has 3 lines that cannot be used")
    assert "The other 2 fit this model's tokenizer; `edgewise tasks` with `fitting`" in found
    pairs = fitting_pairs(path, words)
    assert len(pairs) == 2
    assert said(pairs).endswith(
        "2 pairs; left out: 1 (an answer is not one token), 1 (the prompts do not align), "
        "1 (the tokenizer does not know an answer)"
    )
    rows.append({**GOAT, "answers": []})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(PromptError, match="line 6: 'answers' is empty"):
        fitting_pairs(path, words)
    assert "The other" not in refusal(path, words)


def test_formed_pairs_that_make_no_sense_as_asked_are_left_out(
    write: Write, words: Tokenizer
) -> None:
    samples = [
        {"subject": "Elbe", "object": "the Box"},
        {"subject": "Loire", "object": "the"},
        {"subject": "Po", "object": "the kite"},
    ]
    relation = {"prompt_templates": ["{} flows to"], "samples": samples}
    for seed in range(4):
        path = write("a.json", json.dumps(relation))
        pairs = read_pairs(path, words, answers="first", seed=seed)
        for pair in pairs:
            assert {*pair.answers, *pair.distractors} == {ID["Box"], ID["kite"]}


# -- tables ----------------------------------------------------------------------------------


def test_a_cell_may_hold_line_ends_and_separators(write: Write, words: Tokenizer) -> None:
    table = (
        'clean,corrupted,answers\n"The,\ngoat ""so""","The,\nbird ""so""", to\n"a","b", cat dog\n'
    )
    found = refusal(write("a.csv", table), words)
    assert ", line 5: 'answers' holds ' cat dog'" in found  # the first row has three lines
    good = write("a.csv", table.replace(" cat dog", " to"))
    assert len(read_pairs(good, words)) == 2
    first = read_pairs(good, words).pairs[0]
    assert words.decode(list(first.clean)).startswith("The , goat")


HEAD = "clean,corrupted,correct_idx\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEAD + "The goat,The bird\n", "line 2: has 2 cells, fewer than the 3 of the header"),
        (HEAD + "\nThe goat,The bird,1,2\n", "line 3: has 4 cells, more than the 3 of the head"),
        (HEAD + '"The goat,The bird,1\n', "line 2: the cells cannot be told apart"),
        (HEAD + '"The" goat,The bird,1\n', "line 2: the cells cannot be told apart"),
        (HEAD, "there is no line below its header"),
        ("clean,clean,correct_idx\na,b,1\n", "line 1: the column 'clean' is there twice"),
        ("a,b,c\nThe goat,The bird,1\n", "line 1: no column is called .* found: 'a', 'b', 'c'"),
        ("The goat,The bird,1\nThe cow,The cat,2\n", "line 1: no column is called"),
        (HEAD + "The goat,The bird,\n", "line 2: the key 'answers' is missing; found: clean, "),
        (HEAD + "The goat,,4\n", "line 2: the key 'corrupted' is missing; found: clean, "),
        (HEAD + "The goat,The bird,x\n", "line 2: 'correct_idx' is 'x'; accepted: a token id"),
        (HEAD + "The goat,The bird,-1\n", "line 2: 'correct_idx' holds the id -1"),
        (HEAD + "The goat,The bird,1.5\n", "line 2: 'correct_idx' is '1.5'"),
        (HEAD + "The goat,The bird,99999\n", "line 2: 'correct_idx' holds the id 99999"),
        (HEAD + f"The goat,The {'bird ' * 40000},9\n", "line 2: the cells cannot be told apart"),
        (HEAD + f"The goat,The bird,{'[' * 9000}{']' * 9000}\n", "line 2: 'correct_idx' is "),
        ("clean,corrupted,plural\nThe goat,The bird,1\nThe cow,The cat,0\n",
         "line 2: the key 'answers' is missing; .* whether the verb is to be plural"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_with_its_line(
    content: str, message: str, write: Write, words: Tokenizer
) -> None:
    found = refusal(write("a.csv", content), words, vocab_size=len(WORDS))
    assert re.search(message, found), found
    assert len(found) < 1500


def test_other_encodings_are_read_if_they_say_so_and_refused_with_their_line(
    tmp_path: Path, words: Tokenizer, expected: PromptPairs
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(TABLE.replace(",", "\t").encode("utf-16"))  # as Excel's Unicode text
    assert read_pairs(path, words).pairs == expected.pairs
    path.write_bytes(TABLE.encode("utf-16")[:-1])
    assert "begins as UTF-16, and is none" in refusal(path)
    path.write_bytes(
        TABLE.replace("grass", "Gr\u00e4ser").replace("ate", "\u00e4").encode("cp1252")
    )
    assert "line 2: the byte 0xe4 is not UTF-8; accepted: text saved as UTF-8 (Excel" in refusal(
        path
    )


# -- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"clean": "The goat", "corrupted": "The bird", "corect": [1]}, "'answers' is missing"),
        ({**GOAT, "distractrs": [" hay"]}, "unknown key 'distractrs'; did you mean 'distractors'"),
        ({"clean": "The goat", "corupted": "The bird", "answers": " hay"},
         "unknown key 'corupted'; did you mean 'corrupted'"),
        ({**GOAT, "answer_positon": 2}, "unknown key 'answer_positon'; did you mean 'answer_pos"),
        ({**GOAT, "answer": " hay"}, "'answers' and 'answer' both say what the answers are"),
        ({**GOAT, "answer_ids": [3]}, "'answer_ids' is .3., which to this model's tokenizer is"),
        ({**GOAT, "answers": 5}, r"'answers' holds 5; .* such as .\" 5\".; token ids stand under"),
        ({**GOAT, "answers": [5]}, "'answers' holds 5; accepted: a list of texts"),
        ({**GOAT, "clean_ids": [3]}, r"mixes text and ids \(clean, clean_ids\)"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_meant_is_refused(
    row: dict[str, Any], message: str, write: Write, words: Tokenizer
) -> None:
    assert re.search(message, refusal(write("a.jsonl", json.dumps(row)), words))


def test_a_hint_leads_the_right_way() -> None:
    """A name is taken for a mistyped one only if it is near to it, and its value fits."""
    for key in ("correct_idx", "incorrect_idx", "label", "plural", "prob_diff", "seq_labels"):
        assert mistyped({key: 3}, {}) is None
    for key in ("corrupted_index", "cleaned", "group_size", "answer_probability"):
        assert mistyped({key: 0.5}, {}) is None
    for key in ("corrupted_type", "answers_kind", "clean_prompt_id", "distractor_count"):
        assert mistyped({key: "x"}, {"clean": "clean", "corrupted": "corrupted"}) is None
    assert mistyped({"clean2": "x"}, {"clean": "clean"}) is None
    assert mistyped({"cleen": 3}, {}) is None  # a number is no prompt
    assert "did you mean 'clean'" in str(mistyped({"cleen": "x"}, {}))
    assert "did you mean 'correct_idx'" in str(mistyped({"corect_idx": 3}, {}))


def test_no_name_stands_for_two_fields() -> None:
    names = [name for one in FIELDS.values() for name in (one.name, *one.others)]
    assert len(names) == len(set(names)) == len(NAMES)
    assert all(re.fullmatch(r"[a-z_]+", name) for name in names)
    assert fields_of(["Correct-Idx"])["Correct-Idx"].name == "answer_ids"


def test_a_file_of_no_known_shape_is_told_what_is_known(write: Write, words: Tokenizer) -> None:
    found = refusal(write("a.json", json.dumps([{"headline": "The goat", "label": 1}])), words)
    assert "with the keys 'headline', 'label'" in found and "none names a prompt" in found
    for shape in shapes().values():
        assert shape.summary in found
    found = refusal(write("a.csv", "country,capital\nFrance,Paris\n"), words)
    assert "line 1: no column is called as a field" in found
    several = {"train": [GOAT], "data": [BIRD]}
    assert "several lists" in refusal(write("a.json", json.dumps(several)), words)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", b"PAR1\x15", "a table of Parquet; accepted: .*df.to_json"),
        ("a.xlsx", b"PK\x03\x04\x14", "a spreadsheet; .*saving it as CSV UTF-8"),
        ("a.jsonl.gz", b"\x1f\x8b\x08", "packed by gzip; .*gunzip"),
        (
            "a.yaml",
            b"- clean: x\n  corrupted: y\n",
            "'- clean: x', which is neither JSON nor .*line {",
        ),
        ("a.txt", b"The goat ate some\n", "first line is 'The goat ate some', which is neither"),
    ],
)
def test_what_is_no_text_of_a_known_kind_is_told_in_a_paragraph(
    name: str, content: bytes, message: str, tmp_path: Path, words: Tokenizer
) -> None:
    (tmp_path / name).write_bytes(content)
    found = refusal(tmp_path / name, words)
    assert re.search(message, found) and "\n" not in found


def test_names_of_which_each_could_be_the_prompt_are_told(write: Write, words: Tokenizer) -> None:
    row = {"instruction": "Say", "input": "The goat ate some", "output": " grass"}
    found = refusal(write("a.jsonl", json.dumps(row)), words)
    assert "of which 'instruction' and 'input' could each be the prompt" in found


def test_of_several_corrupted_prompts_the_first_counts(write: Write, words: Tokenizer) -> None:
    row = {"clean": GOAT["clean"], "corrupted_1": BIRD["clean"], "corrupted_2": GOAT["clean"],
           "answers": " grass"}  # fmt: skip
    pairs = read_pairs(write("a.jsonl", json.dumps(row)), words)
    assert "corrupted (corrupted_1)" in said(pairs) and "not used: corrupted_2" in said(pairs)
    assert words.decode(list(pairs.pairs[0].twin)) == BIRD["clean"]


def test_what_is_missing_is_shown_as_the_line_to_write(write: Write, words: Tokenizer) -> None:
    row = {"clean": "The goat ate some", "corrupted": "The bird ate some"}
    found = refusal(write("a.jsonl", json.dumps(row)), words)
    line = json.loads(found[found.index("{") :])
    assert line == {**row, "answers": ["…"]}


def test_what_lacks_in_every_line_is_said_once(write: Write, words: Tokenizer) -> None:
    row = {"clean": "The goat ate some", "corrupted": "The bird ate some", "label": 3}
    found = refusal(write("a.jsonl", (json.dumps(row) + "\n") * 50), words)
    assert "line 1: the key 'answers' is missing" in found and "line 2" not in found


@pytest.mark.parametrize("content", ["[]", "{}", "[1, 2]", "null", "3", '"x"', "[[]]", "[{}]"])
def test_a_document_without_pairs_is_refused(content: str, write: Write, words: Tokenizer) -> None:
    for name in ("a.json", "a"):
        assert "accepted" in refusal(write(name, content), words).lower()


@pytest.mark.parametrize(
    "content",
    [
        '{"prompts": [',
        '[{"clean": "a",}]',
        "[" * 5000,
        '{"prompts": [{"clean": "a", "clean": "b"}]}',
    ],
)
def test_a_damaged_document_is_refused(content: str, write: Write) -> None:
    found = refusal(write("a.json", content))
    assert "a.json" in found and len(found) < 600


# -- pairs formed of what a file holds ---------------------------------------------------------

RIVERS = {
    "name": "river in country",
    "prompt_templates": ["{} flows through"],
    "prompt_templates_zs": ["The {} lies in"],
    "samples": [
        {"subject": "Elbe", "object": "Germany"},
        {"subject": "Rhine", "object": "Germany"},
        {"subject": "Loire", "object": "France"},
        {"subject": "Po", "object": "Italy"},
    ],
}
FACTS = [
    {"known_id": number, "subject": one["subject"], "attribute": one["object"],
     "template": "{} flows", "prompt": f"{one['subject']} flows through", "relation_id": "P17"}
    for number, one in enumerate(RIVERS["samples"])
    if isinstance(one, dict)
]  # fmt: skip
COUNTERFACT = [
    {"case_id": number, "requested_rewrite": {
        "prompt": "{} flows through", "subject": one["subject"],
        "target_true": {"str": one["object"], "id": "Q1"}, "target_new": {"str": new, "id": "Q2"}}}
    for number, (one, new) in enumerate(
        zip(RIVERS["samples"], ("Italy", "France", "Germany", "Germany"), strict=True))
    if isinstance(one, dict)
]  # fmt: skip
BOXES = [
    {"sentence": "…", "sentence_masked": f"Box A has the {a}, Box B has the {b}. Box B has the "
     "<extra_id_0> .", "masked_content": f"<extra_id_0> {b}", "sample_id": 1, "numops": 0}
    for a, b in (("pen", "cup"), ("key", "hat"), ("cup", "pen"))
]  # fmt: skip

FORMED: dict[str, tuple[str, str]] = {
    "relation": ("a.json", json.dumps(RIVERS)),
    "known-facts": ("a.json", json.dumps(FACTS)),
    "CounterFact": ("a.json", json.dumps(COUNTERFACT)),
    "known facts as a table": (
        "a.csv",
        "subject,prompt,target_true\n"
        + "".join(f"{one['subject']},{one['prompt']},{one['attribute']}\n" for one in FACTS),
    ),
    "masked": ("a.jsonl", "".join(json.dumps(one) + "\n" for one in BOXES)),
    "samples as lists": (
        "a.json",
        json.dumps({**RIVERS, "samples": [[*one.values()] for one in RIVERS["samples"]]}),
    ),
    "samples as one object": (
        "a.json",
        json.dumps({"template": "[X] flows through [Y] .", "samples": {
            one["subject"]: one["object"] for one in RIVERS["samples"]}}),
    ),
    "subjects and objects as two lists": (
        "a.json",
        json.dumps({"prompts": ["%s flows through"], **{
            f"{key}s": [one[key] for one in RIVERS["samples"]] for key in ("subject", "object")}}),
    ),
    "sentences as keys": (
        "a.json",
        json.dumps({"{} flows through {} .": {
            one["subject"]: [one["object"]] for one in RIVERS["samples"]}}),
    ),
    "relations under their names": (
        "a.json",
        json.dumps({"rivers": RIVERS, "more": {**RIVERS, "prompt_templates": ["Box {} is"]}}),
    ),
    "LAMA": (
        "a.jsonl",
        "".join(
            json.dumps({"sub_label": one["subject"], "obj_label": one["object"],
                        "predicate_id": "P17",
                        "masked_sentences": [f"{one['subject']} flows through [MASK] ."]}) + "\n"
            for one in RIVERS["samples"]
        ),
    ),
    "masks under usual names": (
        "a.csv",
        "sentence,answer\n" + "".join(
            f"Box {a} has the ___ .,{b}\n" for a, b in (("A", "pen"), ("B", "cup"))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMED)
def test_pairs_are_formed_by_exchange(
    name: str, write: Write, words: Tokenizer, tmp_path: Path
) -> None:
    path = write(*FORMED[name])
    pairs = read_pairs(path, words)
    assert pairs.seed == 0
    answer_of = {pair.clean: pair.answers for pair in pairs}
    for pair in pairs:
        assert len(pair.clean) == len(pair.corrupted) and pair.clean != pair.corrupted
        assert pair.answers != pair.distractors == answer_of[pair.corrupted]
    assert read_pairs(path, words, seed=0).sha256 == pairs.sha256
    others = {read_pairs(path, words, seed=seed).sha256 for seed in range(1, 9)}
    assert len(others) > 1
    write_pairs(tmp_path / "again.jsonl", pairs)
    assert read_pairs(tmp_path / "again.jsonl").sha256 == pairs.sha256


def test_a_relation_is_read(write: Write, words: Tokenizer) -> None:
    pairs = read_pairs(write(*FORMED["relation"]), words)
    assert len(pairs) == 8  # four subjects in two sentences
    assert {pair.group for pair in pairs} == {"{} flows through", "The {} lies in"}
    assert "relation 'river in country', 2 sentences, 4 samples" in said(pairs)
    flows = tuple(ID[word] for word in ("flows", "through"))
    found = {pair.clean: pair.answers for pair in pairs if pair.clean[1:] == flows}
    assert found[(ID["Elbe"], *flows)] == (ID["Germany"],)
    assert len(found) == 4


@pytest.mark.parametrize("gap", ["{}", "{0}", "{subject}", "[X]"])
@pytest.mark.parametrize("end", ["", " {object} .", " [Y]."])
def test_gaps_are_written_in_several_ways(
    gap: str, end: str, write: Write, words: Tokenizer
) -> None:
    template = f"{gap} flows through{end}"
    samples = [{"sub_label": one["subject"], "obj_label": [one["object"]]}
               for one in RIVERS["samples"] if isinstance(one, dict)]  # fmt: skip
    relation = {"template": template, "samples": samples}
    pairs = read_pairs(write("a.json", json.dumps(relation)), words)
    assert len(pairs) == 4
    assert {pair.group for pair in pairs} == {"{} flows through"}


def test_several_relations_stand_in_one_file(write: Write, words: Tokenizer) -> None:
    other = {**RIVERS, "name": "again", "prompt_templates": ["{} is in"], "prompt_templates_zs": []}
    lines = f"{json.dumps(RIVERS)}\n{json.dumps(other)}\n"
    for path in (write("a.jsonl", lines), write("a.json", json.dumps([RIVERS, other]))):
        pairs = read_pairs(path, words)
        assert len(pairs) == 12
        assert "again: {} is in" in {pair.group for pair in pairs}


def test_what_gets_no_twin_is_counted_by_reason(write: Write, words: Tokenizer) -> None:
    samples = [
        {"subject": "Elbe", "object": "Germany"},
        {"subject": "Loire", "object": "France"},
        {"subject": "Loire", "object": "France"},
        {"subject": "Po", "object": "Box A"},
        {"subject": "The Rhine", "object": "Germany"},
    ]
    relation = {"prompt_templates": ["{} flows through"], "samples": samples}
    pairs = read_pairs(write("a.json", json.dumps(relation)), words)
    assert len(pairs) == 2
    shape = pairs.origin["shape"]
    assert isinstance(shape, dict)
    assert shape["left_out"] == {
        "no other entry of equally many tokens has another answer": 1,
        "the answer is not one token": 1,
        "the entry is there twice": 1,
    }
    assert said(pairs).endswith(
        "2 pairs; left out: 1 (no other entry of equally many tokens has another answer), "
        "1 (the answer is not one token), 1 (the entry is there twice)"
    )


def test_a_subject_of_two_objects_is_no_twin_where_they_agree(
    write: Write, words: Tokenizer
) -> None:
    samples = [
        {"subject": "Rhine", "object": "Germany"},
        {"subject": "Rhine", "object": "France"},
        {"subject": "Loire", "object": "France"},
        {"subject": "Po", "object": "Italy"},
    ]
    relation = {"prompt_templates": ["{} flows through"], "samples": samples}
    for seed in range(5):
        pairs = read_pairs(write("a.json", json.dumps(relation)), words, seed=seed)
        for pair in pairs:
            rivers = {pair.clean[0], pair.corrupted[0]}
            assert rivers != {ID["Rhine"], ID["Loire"]}


def test_a_twin_of_the_counterfactual_object_comes_first(write: Write, words: Tokenizer) -> None:
    for seed in range(5):
        pairs = read_pairs(write(*FORMED["CounterFact"]), words, seed=seed)
        found = {pair.clean[0]: pair.distractors[0] for pair in pairs}
        assert found[ID["Elbe"]] == ID["Italy"]
        assert found[ID["Rhine"]] == ID["France"]
        assert found[ID["Loire"]] == ID["Germany"]


def test_facts_of_one_relation_are_exchanged_in_each_others_sentences(
    write: Write, words: Tokenizer
) -> None:
    facts = [
        {
            "subject": "Elbe",
            "attribute": "Germany",
            "prompt": "The Elbe lies in",
            "relation_id": "P",
        },
        {"subject": "Po", "attribute": "Italy", "prompt": "Po flows through", "relation_id": "P"},
    ]
    pairs = read_pairs(write("a.json", json.dumps(facts)), words)
    found = {(pair.clean, pair.corrupted) for pair in pairs}
    assert found == {
        tuple(tuple(ID[w] for w in text.split()) for text in texts)
        for texts in (("The Elbe lies in", "The Po lies in"),
                      ("Po flows through", "Elbe flows through"))
    }  # fmt: skip
    apart = [{**one, "relation_id": str(n)} for n, one in enumerate(facts)]
    found_none = refusal(write("b.json", json.dumps(apart)), words)
    assert "two facts at least" in found_none


def test_a_subject_is_exchanged_wherever_it_stands_as_a_word(
    write: Write, words: Tokenizer
) -> None:
    facts = [
        {"subject": one, "attribute": where, "prompt": f"{one} and Portugal : {one} lies in"}
        for one, where in (("Po", "Italy"), ("Loire", "France"))
    ]
    pairs = read_pairs(write("a.json", json.dumps(facts)), words)
    for pair in pairs:
        assert [a != b for a, b in zip(pair.clean, pair.corrupted, strict=True)] == [
            True, False, False, False, True, False, False
        ]  # fmt: skip


def test_masked_sentences_end_before_their_mask(write: Write, words: Tokenizer) -> None:
    pairs = read_pairs(write(*FORMED["masked"]), words)
    assert len(pairs) == 3
    assert {words.decode(list(pair.clean)) for pair in pairs} >= {
        "Box A has the pen , Box B has the cup . Box B has the"
    }
    assert {words.decode(list(pair.answers)) for pair in pairs} == {"cup", "hat", "pen"}


def test_of_masked_sentences_the_most_alike_are_paired(write: Write, words: Tokenizer) -> None:
    lines = []
    for box in ("A", "B"):
        for a, b in (("pen", "cup"), ("key", "hat")):
            content = a if box == "A" else b
            masked = f"Box A has the {a}, Box B has the {b}. Box {box} has the <extra_id_0> ."
            lines.append({"sentence_masked": masked, "masked_content": f"<extra_id_0> {content}"})
    pairs = read_pairs(write("a.jsonl", "".join(json.dumps(one) + "\n" for one in lines)), words)
    for pair in pairs:
        assert sum(a != b for a, b in zip(pair.clean, pair.corrupted, strict=True)) == 1


def test_answers_of_several_tokens_are_taken_as_asked(write: Write, words: Tokenizer) -> None:
    lines = [
        {"sentence_masked": f"Box A has the {a}. Box A has <extra_id_0> .",
         "masked_content": f"<extra_id_0> the {a}"}
        for a in ("pen", "cup")
    ]  # fmt: skip
    path = write("a.jsonl", "".join(json.dumps(one) + "\n" for one in lines))
    found = refusal(path, words)
    assert "left out: 2 (the answer is not one token)" in found
    assert "`answers` first" in found and "`answers` whole" in found
    for pair in read_pairs(path, words, answers="first"):
        assert words.decode(list(pair.clean)).endswith("Box A has the")
        assert {*pair.answers, *pair.distractors} == {ID["pen"], ID["cup"]}
    for pair in read_pairs(path, words, answers="whole"):
        assert words.decode(list(pair.clean)).endswith("Box A has")
        assert {one[0] for many in pair.sequences for one in many} == {ID["the"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", {**RIVERS, "samples": RIVERS["samples"][:1]}, "two samples at least"),
        ("a.json", {**RIVERS, "samples": [{"subject": 3, "object": "x"}]}, "its subject is 3"),
        ("a.json", {**RIVERS, "samples": [*RIVERS["samples"], {}]}, "sample 5: is no sample"),
        ("a.json", {**RIVERS, "prompt_templates": ["The river"], "prompt_templates_zs": []},
         "no sentence with a gap for the subject; found: 'The river'"),
        ("a.json", {"samples": RIVERS["samples"]}, "no sentence with a gap .* found: none"),
        ("a.json", [FACTS[0]], "two facts at least"),
        ("a.json", [*FACTS, {"subject": "x"}], "entry 5: 'attribute' is missing or no text"),
        ("a.json", [*FACTS, {**FACTS[0], "prompt": "x", "template": "y"}],
         "entry 5: the prompt 'x' neither holds the subject 'Elbe' nor a gap"),
        ("a.jsonl", BOXES[0], "a corrupted twin is another line's prompt"),
        ("a.json", [*BOXES, {**BOXES[0], "sentence_masked": "x"}], "entry 4: .*has no mask"),
        ("a.json", [*BOXES, {**BOXES[0], "masked_content": "<extra_id_0>"}],
         "entry 4: nothing stands for the mask"),
        ("a.json", [*BOXES, {**BOXES[0], "masked_content": 3}], "entry 4: 'masked_content' is 3"),
    ],
)  # fmt: skip
def test_what_cannot_become_pairs_says_what_is_missing(
    name: str, content: Any, message: str, write: Write, words: Tokenizer
) -> None:
    found = refusal(write(name, json.dumps(content)), words)
    assert re.search(message, found), found
    if "at least" in message or "twin" in message:
        assert '"corrupted": "…"' in found and "write pairs, such as" in found


# -- years -----------------------------------------------------------------------------------

YEARS = """clean,{name},{label}
The siege went from the year 1352 to the year 13,The siege went from the year 1301 to the year 13,52
The siege went from the year 1647 to the year 16,The siege went from the year 1601 to the year 16,47
"""


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("corrupted", "label"),
        ("corrupted_hard", "label"),
        ("corrupt", "start_year"),
        ("corrupted", "correct_idx"),
    ],
)
def test_years_must_be_exceeded(name: str, label: str, write: Write, byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(2)
    pairs = read_pairs(write("a.csv", YEARS.format(name=name, label=label)), tokenizer)
    assert len(pairs) == 2
    texts = [tokenizer.decode([one]) for one in pairs.pairs[0].answers]
    assert texts == [f"{number}" for number in range(53, 100)]
    texts = [tokenizer.decode([one]) for one in pairs.pairs[0].distractors]
    assert texts == [f"{number:02}" for number in range(53)]
    assert f"the year's two digits ({label}); answers are all two digits above" in said(pairs)


def test_years_of_single_digits(write: Write, byte_tokenizer: Any) -> None:
    tokenizer = byte_tokenizer(1)
    table = YEARS.format(name="corrupted", label="label")
    table += table.split("\n")[1].replace("1352", "1395").replace(",52", ",95") + "\n"
    pairs = read_pairs(write("a.csv", table), tokenizer)
    assert [tokenizer.decode([one]) for one in pairs.pairs[0].answers] == list("6789")
    assert [tokenizer.decode([one]) for one in pairs.pairs[0].distractors] == list("01234")
    assert "left out: 1 (no larger first digit than 9)" in said(pairs)


def test_a_label_that_is_no_year_of_the_prompt_is_none(write: Write, byte_tokenizer: Any) -> None:
    table = YEARS.format(name="corrupted", label="label").replace(",47\n", ",46\n")
    found = refusal(write("a.csv", table), byte_tokenizer(2))
    assert "line 2: the key 'answers' is missing" in found and "two digits of a year" in found
    ids = YEARS.format(name="corrupted", label="correct_idx").replace(",47\n", ",46\n")
    assert "token ids of the answer (correct_idx)" in said(
        read_pairs(write("a.csv", ids), byte_tokenizer(2))
    )


# -- the registry ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", shapes())
def test_a_shapes_example_is_of_it_alone(name: str, write: Write) -> None:
    shape = shapes()[name]
    path = write(f"a{shape.ending}", shape.example)
    content, found = read_shape(path)
    assert found is shape is recognise(content)
    assert all(key for key in shape.keys) and shape.summary[0].islower()


def test_pairs_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    script = tmp_path / "read.py"
    script.write_text(
        "import sys, json, pathlib\n"
        "from tokenizers import Tokenizer, models, pre_tokenizers\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "from edgewise.patching.prompts.pair_files import read_pairs\n"
        "ids = json.loads(pathlib.Path(sys.argv[1]).read_text())\n"
        "inner = Tokenizer(models.WordLevel(ids, unk_token='[UNK]'))\n"
        "inner.pre_tokenizer = pre_tokenizers.Whitespace()\n"
        "words = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token='[UNK]')\n"
        "for path in sys.argv[2:]:\n"
        "    pairs = read_pairs(path, words, seed=3)\n"
        "    print(pairs.sha256, pairs.origin['shape'])\n"
    )
    (tmp_path / "words.json").write_text(json.dumps(ID))
    paths = []
    for number, (name, content) in enumerate(FORMED.values()):
        paths.append(tmp_path / f"{number}-{name}")
        paths[-1].write_text(content)
    outputs = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, script, tmp_path / "words.json", *paths],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.add(done.stdout)
    assert len(outputs) == 1 and len(outputs.pop().splitlines()) == len(FORMED)


# -- the files that were filed -------------------------------------------------------------------

READ = {
    "array-of-pairs.json": 1,
    "autocircuit.json": 2,
    "eapig-correct-idx.csv": 1,
    "eapig-text-and-ids.jsonl": 1,
    "relation-samples.json": 2,
}


@pytest.fixture(scope="module")
def smollm2() -> Any:
    from edgewise.session import open_model

    return open_model("smollm2-135m")


def strongest(session: Any, path: Path, seed: int = 0) -> tuple[PromptPairs, list[Any]]:
    """Return a file's pairs, and the strongest edges of the circuit that is found on them."""
    from edgewise.discovery.registry import get_method
    from edgewise.session import make_runner, open_task

    pairs, _ = open_task(session, str(path), seed=seed)
    scores = get_method("eap")(make_runner(session, pairs)).scores
    return pairs, [(edge, scores[edge]) for edge in scores.top(60).edges]


CHATS = [
    {"messages": [{"role": "user", "content": f"What do {a} eat?"}],
     "corrupted_messages": [{"role": "user", "content": f"What do {b} eat?"}],
     "answers": [right], "distractors": [wrong]}
    for a, b, right, wrong in (("goats", "birds", "G", "S"), ("birds", "goats", "S", "G"))
]  # fmt: skip
MADE = {
    "years": ("a.csv", YEARS.format(name="corrupted_hard", label="label")),
    "chat": ("a.jsonl", "".join(json.dumps(one) + "\n" for one in CHATS)),
    "chat in a table": (
        "a.csv",
        "prompt,counterfactual,chosen,rejected\n"
        + "".join(f'"{one["messages"]}","{one["corrupted_messages"]}",{one["answers"][0]},'
            f'{one["distractors"][0]}\n'
                  for one in CHATS),
    ),
}  # fmt: skip


COMPARED = [*READ, "known-facts", "samples as lists", "masked", *MADE]


def test_every_shape_is_among_those_whose_circuits_are_compared(write: Write) -> None:
    found = set()
    for name in COMPARED:
        path = CASES / name if name in READ else write(*{**FORMED, **MADE}[name])
        found.add(read_shape(path)[1].name)
    assert found == set(shapes())


@pytest.mark.real
@pytest.mark.parametrize("name", COMPARED)
def test_circuits_are_those_of_the_same_pairs_as_json_lines(
    name: str, smollm2: Any, tmp_path: Path, write: Write
) -> None:
    """Text lines, where a file holds pairs, or lines of ids give the same circuit on SmolLM2."""
    path = CASES / name if name in READ else write(*{**FORMED, **MADE}[name])
    pairs, edges = strongest(smollm2, path, seed=1)
    assert len(pairs) >= READ.get(name, 2)
    lines = tmp_path / "again.jsonl"
    write_pairs(lines, pairs)
    again, same = strongest(smollm2, lines)
    assert again.sha256 == pairs.sha256
    assert same == edges and len(edges) == 60
    tokenizer = smollm2.loaded.tokenizer
    text = [
        {"clean": tokenizer.decode(one.clean), "corrupted": tokenizer.decode(one.corrupted),
         "answers": [tokenizer.decode([token]) for token in one.answers],
         "distractors": [tokenizer.decode([token]) for token in one.distractors],
         "group": one.group}
        for one in pairs
    ]  # fmt: skip
    lines.write_text("".join(json.dumps(row) + "\n" for row in text))
    assert read_pairs(lines, tokenizer).sha256 == pairs.sha256


@pytest.mark.real
def test_a_circuit_file_records_the_shape(smollm2: Any, tmp_path: Path) -> None:
    from edgewise.experiment.spec import Selection
    from edgewise.graphs.files import read_circuit, write_circuit
    from edgewise.session import open_task
    from edgewise.steps.discover import discover
    from edgewise.steps.stored import circuit_pairs

    pairs, _ = open_task(smollm2, str(CASES / "relation-samples.json"), seed=2)
    found = discover(smollm2, pairs, method="eap", select=Selection(top=1000))
    path = tmp_path / "circuit.json"
    write_circuit(path, found.file)
    file = read_circuit(path)
    assert file.task["seed"] == 2
    assert file.task["shape"]["name"] == "relation"
    assert "2 pairs" in file.task["shape"]["understood"]
    again, notes = circuit_pairs(file, smollm2, {"bos": False})  # the task is made anew
    assert again.sha256 == pairs.sha256 and notes == []


def test_a_box_task_of_one_line_says_what_is_missing(byte_tokenizer: Any) -> None:
    found = refusal(CASES / "boxes.jsonl", byte_tokenizer())
    assert "gives no prompt pair" in found and "What is missing: a corrupted twin" in found
    assert "\n" not in found
