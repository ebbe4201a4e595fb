"""Answers of several tokens, prompts without a twin, and chat, in every command."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgewise import discover, evaluate, open_model, open_task
from edgewise.experiment.document import parse_spec
from edgewise.experiment.spec import DiscoverySpec, Experiment, ModelSpec
from edgewise.experiment.task import TaskSpec
from edgewise.graphs.errors import EdgewiseError, PromptError
from edgewise.graphs.files import read_circuit
from edgewise.patching.prompts.pair_files import read_pairs
from edgewise.run import run

from .conftest import Run, tiny

pytestmark = [  # tiny circuits, which are about something else
    pytest.mark.filterwarnings("ignore:no way of kept edges:UserWarning"),
    pytest.mark.filterwarnings("ignore:the circuit's faithfulness is:UserWarning"),
]

CASES = Path(__file__).resolve().parents[1] / "data" / "cases" / "prompts"


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Write pairs whose answers and distractors are two tokens each."""
    draw, path = random.Random(0), tmp_path / "several.jsonl"
    rows = []
    for i in range(4):
        clean = [draw.randrange(31) for _ in range(5)]
        rows.append(
            {
                "clean_ids": clean,
                "corrupted_ids": [*clean[:2], (clean[2] + 1) % 31, *clean[3:]],
                "answer_ids": [[3, 4 + i]],
                "distractor_ids": [[3, 9 + i]],
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def of(several: Path, models: dict[str, Path]) -> dict[str, tuple[Any, ...]]:
    task = ("--task", several)
    found = ("--method", "eap-ig", "--top", 9)
    return {
        "discover": ("discover", "--model", models["llama"], *task, *found, "-o", "out.json"),
        "patch": ("patch", "--model", models["llama"], *task, "--path", "m0->logits"),
        "timeline": ("timeline", models["llama"], models["tuned"], *task, *found, "--no-cache"),
        "transplant": ("transplant", models["llama"], models["tuned"], *task, "--nodes", "m0"),
        "roles": ("roles", "--model", models["llama"], *task, "--sequences", 1),
    }


@pytest.mark.parametrize("name", ["discover", "patch", "timeline", "transplant", "roles"])
def test_commands_refuse_several_tokens_and_take_them_both_ways(
    name: str, edgewise: Run, several: Path, models: dict[str, Path]
) -> None:
    words = of(several, models)[name]
    output = edgewise(*words, status=1).output
    assert output.count("--answers first, which asks for") == 4
    assert "; or --answers whole, which reads every answer token by token." in output
    edgewise(*words, "--answers", "first")
    if name == "roles":
        output = edgewise(*words, "--answers", "whole").output
        assert "the means are over the 8 tokens of 4 pairs" in output
        assert "behind tokens with which no distractor begins" in output
        return
    output = edgewise(*words, "--answers", "whole", status=1).output
    assert "the metric logit_diff compares logits at one position" in output
    assert "accepted with --answers whole: kl, nll, log_prob_diff; or --answers first" in output
    edgewise(*words, "--answers", "whole", "--metric", "nll")
    assert "did you mean 'whole'" in edgewise(*words, "--answers", "hole", status=2).output


def test_a_file_says_how_answers_were_taken_and_is_measured_again_so(
    edgewise: Run, several: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    words = of(several, models)["discover"]
    edgewise(*words, "--answers", "whole", "--metric", "log_prob_diff")
    file = read_circuit("out.json")
    assert file.task["answers"] == "whole"
    stored: Any = file.extra["prompts"]
    assert stored[0]["answer_ids"] == [[3, 4]]
    found = json.loads(edgewise("evaluate", "out.json", "--json").stdout)
    assert found["value_circuit"] == pytest.approx(file.measures["value_circuit"], abs=1e-6)
    assert found["task"]["answers"] == "whole" and found["notes"] == []
    several_again = several.read_text()
    several.unlink()  # the circuit's file holds the pairs
    edgewise("evaluate", "out.json")
    several.write_text(several_again)
    first = ("--answers", "first", "--metric", "logit_diff")
    found = json.loads(edgewise("evaluate", "out.json", *first, "--json").stdout)
    assert found["task"]["answers"] == "first" and found["metric"] == "logit_diff"
    again = discover(Experiment.from_circuit(file))
    assert again.file.circuit == file.circuit and again.file.task["sha256"] == file.task["sha256"]


def test_how_answers_are_taken_counts(several: Path) -> None:
    parts = [TaskSpec(file=str(several), answers=way) for way in (None, "first", "whole")]
    models, how = (ModelSpec.at("x"),), DiscoverySpec("acdc")
    keys = {Experiment("x", models, part, how).key("task", prompts="p").sha256 for part in parts}
    assert len(keys) == 3
    with pytest.raises(EdgewiseError, match="did you mean 'whole'"):
        TaskSpec(file=str(several), answers="hole")


def test_a_spec_takes_whole_answers_and_keeps_what_is_done(
    several: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    text = f"""
    [[models]]
    source = "{models["llama"]}"
    name = "base"
    [[models]]
    source = "{models["tuned"]}"
    name = "tuned"
    [task]
    file = "{several}"
    answers = "whole"
    [discovery]
    method = "eap-ig"
    metric = "nll"
    top = 12
    [evaluation]
    metrics = ["nll", "kl"]
    [comparison]
    cross = true
    [drawing]
    formats = []
    """
    spec = parse_spec(text)
    assert parse_spec(spec.to_toml()) == spec
    found = run(spec, tmp_path / "out")
    assert len(found.kept) == 0
    again = run(spec, tmp_path / "out")
    assert again.made == () and set(again.kept) == set(found.made)
    pairs = read_pairs(tmp_path / "out" / "prompts.jsonl", answers="whole")
    assert pairs.pairs[0].sequences == (((3, 4),), ((3, 9),))
    assert "3 4" in found.report.read_text()


def declared(models: dict[str, Path], task: Path, more: str) -> Experiment:
    return parse_spec(
        f"""
        [[models]]
        source = "{models["llama"]}"
        name = "base"
        [[models]]
        source = "{models["tuned"]}"
        name = "tuned"
        [task]
        file = "{task}"
        {more}
        [drawing]
        formats = []
        """
    )


def test_a_spec_of_roles_takes_whole_answers(
    several: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    more = 'answers = "whole"\n[discovery]\nmethod = "eap"\nmetric = "nll"\ntop = 9\n'
    spec = declared(models, several, f"{more}[comparison]\nroles = true")
    found = run(spec, tmp_path / "out")
    assert "head roles of base and tuned in base" in found.made


def test_a_spec_takes_prompts_without_a_twin(
    alone: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    more = '[discovery]\nmethod = "eap-ig"\ntop = 9\nablation = "noise"\n'
    found = run(declared(models, alone, f"{more}[comparison]\ncross = true"), tmp_path / "out")
    assert "The first prompt" in found.report.read_text()
    spec = declared(models, alone, more.replace("noise", "resample"))
    with pytest.raises(PromptError, match="needs none: mean, noise, optimal, position-mean, zero"):
        run(spec, tmp_path / "other")


def test_a_task_of_one_token_is_the_same_either_way(models: dict[str, Path]) -> None:
    session = open_model(str(models["llama"]))
    found = []
    for way in (None, "first", "whole"):
        how = {"examples": 4, "options": {"period": 6, "repeat": 3}}
        pairs, _ = open_task(session, "induction", answers=way, **how)
        one = discover(session, pairs, method="acdc", metric="nll", options={"threshold": 0.01})
        found.append((one.file.circuit, one.evaluation, pairs.sha256))
    assert found[0] == found[1] == found[2]


# -- without a twin -----------------------------------------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """Write prompts without corrupted ones."""
    draw, path = random.Random(0), tmp_path / "alone.jsonl"
    rows = [
        {
            "clean_ids": [draw.randrange(31) for _ in range(5)],
            "answer_ids": [3],
            "distractor_ids": [7],
        }
        for _ in range(3)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["discover", "patch", "timeline"])
def test_commands_name_the_ablations_that_need_no_twin(
    name: str, edgewise: Run, alone: Path, models: dict[str, Path]
) -> None:
    words = of(alone, models)[name]
    output = edgewise(*words, status=1).output
    assert "resample ablation takes its values from corrupted prompts, and 3 of the 3" in output
    assert "or an --ablation that needs none: mean, noise, optimal, position-mean, zero." in output
    for ablation in ("zero", "mean", "noise", "position-mean"):
        edgewise(*words, "--ablation", ablation)
    if name == "discover":
        stored: Any = read_circuit("out.json").extra["prompts"]
        assert "corrupted_ids" not in stored[0]
        edgewise("evaluate", "out.json", "--minimality", "--random", 2)
        assert (
            "resample"
            in edgewise("evaluate", "out.json", "--ablation", "resample", status=1).output
        )


def test_commands_that_read_no_corrupted_run_take_prompts_without_one(
    edgewise: Run, alone: Path, models: dict[str, Path]
) -> None:
    for name in ("transplant", "roles"):
        edgewise(*of(alone, models)[name])
    edgewise("tasks", alone)


# -- chat ---------------------------------------------------------------------------------------

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'tool' %}"
    "{{ raise_exception('no tools') }}{% endif %}<{{ m['role'] }}> "
    "{{ m['content'] }} </s> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
)
WORDS = ["<unk>", "<s>", "</s>", "<user>", "<assistant>", "<system>", "what", "do", "goats", "cats",
         "eat", "?", "grass", "fish", "be", "kind", "they"]  # fmt: skip


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a model whose tokenizer adds BOS and has a chat template that writes it too."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("chatty")
    tiny("llama").save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return folder


ASKED = [{"role": "user", "content": "what do goats eat ?"}]
OTHER = [{"role": "user", "content": "what do cats eat ?"}]
ROW = {
    "messages": ASKED,
    "corrupted_messages": OTHER,
    "answers": ["grass"],
    "distractors": ["fish"],
}


def chats(folder: Path, *rows: Any) -> str:
    path = folder / "chat.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def words_of(ids: Any) -> str:
    return " ".join(WORDS[one] for one in ids)


def test_messages_go_through_the_template_with_one_bos(tmp_path: Path, chatty: Path) -> None:
    path = chats(tmp_path, ROW)
    (pair,) = pairs = open_task(str(chatty), path)[0]
    assert words_of(pair.clean) == "<s> <user> what do goats eat ? </s> <assistant>"
    assert words_of(pair.twin) == "<s> <user> what do cats eat ? </s> <assistant>"
    assert (words_of(pair.answers), words_of(pair.distractors)) == ("grass", "fish")
    assert pairs.bos_prepended is True and pair.answer_position == len(pair.clean) - 1
    for bos in (True, False):
        (again,) = open_task(str(chatty), path, bos=bos)[0]
        assert again == pair  # the template has it, whatever is asked of the tokenizer


def test_a_system_message_and_the_beginning_of_an_answer(tmp_path: Path, chatty: Path) -> None:
    path = chats(tmp_path, ROW)
    (pair,) = pairs = open_task(str(chatty), path, system="be kind", continued="they eat")[0]
    assert words_of(pair.clean) == (
        "<s> <system> be kind </s> <user> what do goats eat ? </s> <assistant> they eat"
    )
    assert {"system": "be kind", "continued": "they eat"}.items() <= pairs.origin.items()
    begun = [*ASKED, {"role": "assistant", "content": "they eat"}]
    (same,) = open_task(str(chatty), chats(tmp_path, {"messages": begun, "answers": ["grass"]}))[0]
    assert words_of(same.clean).endswith("<assistant> they eat")
    foreign = [{"from": "human", "value": "what do goats eat ?"}]
    (named,) = open_task(
        str(chatty), chats(tmp_path, {"conversations": foreign, "answer": "grass"})
    )[0]
    assert words_of(named.clean) == "<s> <user> what do goats eat ? </s> <assistant>"
    parts = [{"role": "user", "content": [{"type": "text", "text": "what do goats eat ?"}]}]
    (joined,) = open_task(str(chatty), chats(tmp_path, {"messages": parts, "answers": ["grass"]}))[
        0
    ]
    assert joined.clean == named.clean


@pytest.mark.parametrize(
    ("row", "fields", "why"),
    [
        ({**ROW, "messages": []}, {}, "the messages are a list; accepted: a list of one message"),
        ({**ROW, "messages": "hi"}, {}, "'messages' is no JSON list of messages"),
        ({**ROW, "messages": [3]}, {}, "message 1 is 3; accepted: an object with role and con"),
        ({**ROW, "messages": [{"content": "x"}]}, {}, "message 1 has the role null; accepted"),
        ({**ROW, "messages": [{"role": "user"}]}, {}, "message 1 has the content null"),
        ({**ROW, "messages": [{"role": "user", "content": [{"image": 1}]}]}, {}, "a part that is"),
        ({**ROW, "messages": [{"role": "tool", "content": "x"}]}, {}, "does not take the messages"),
        ({"messages": ASKED}, {}, 'has no answers; found: messages. Write, for example, {"me'),
        ({**ROW, "clean": "x"}, {}, "'messages' and 'clean' both give the clean prompt"),
        ({**ROW, "conversation": ASKED}, {}, "'messages' and 'conversation' are both given"),
        ({**ROW, "messages": [*ASKED, {"role": "assistant", "content": "they"}]},
         {"continued": "eat"}, "the last message is the assistant's"),
        ({**ROW, "messages": [{"role": "system", "content": "be"}, *ASKED]},
         {"system": "kind"}, "begin with one of the system"),
        ({**ROW, "corrupted_messages": [*OTHER, *OTHER]}, {}, "clean has 9 tokens and corrupted"),
    ],
)  # fmt: skip
def test_a_wrong_chat_is_named_by_its_line(
    tmp_path: Path, chatty: Path, row: Any, fields: dict[str, str], why: str
) -> None:
    with pytest.raises(PromptError) as caught:
        open_task(str(chatty), chats(tmp_path, row), **fields)
    assert why in str(caught.value) and ", line 1" in str(caught.value)


def test_chat_needs_a_tokenizer_with_a_template(
    tmp_path: Path, models: dict[str, Path], edgewise: Run
) -> None:
    path = chats(tmp_path, ROW)
    with pytest.raises(
        PromptError, match="holds chat, and this model's tokenizer has no chat temp"
    ):
        open_task(str(models["words"]), path)
    with pytest.raises(PromptError, match="holds text, but no tokenizer was given"):
        read_pairs(path)
    with pytest.raises(PromptError, match="holds no chat, so that `system` and `continued`"):
        open_task(str(models["llama"]), str(CASES / "eapig-text-and-ids.jsonl"), system="be kind")
    with pytest.raises(PromptError, match="`system` is of files of chat"):
        open_task(str(models["llama"]), "induction", system="be kind")


def test_chat_in_a_command(edgewise: Run, tmp_path: Path, chatty: Path) -> None:
    path = chats(tmp_path, ROW, {**ROW, "messages": OTHER, "corrupted_messages": ASKED,
                                 "answers": ["fish"], "distractors": ["grass"]})  # fmt: skip
    words = ("discover", "--model", chatty, "--task", path, "--method", "eap", "--top", 5)
    more = ("--system", "be kind", "--continue", "they eat")
    said = edgewise(*words, *more, "-o", "out.json").stderr
    assert "chat, through the tokenizer's template, a system message before each, answers" in said
    file = read_circuit("out.json")
    assert (file.task["system"], file.task["continued"]) == ("be kind", "they eat")
    assert file.task["bos_prepended"] is True
    edgewise("evaluate", "out.json")
    edgewise("evaluate", "out.json", "--continue", "they")  # made anew
    single = chats(tmp_path, {"messages": ASKED, "answers": ["grass"], "distractors": ["fish"]})
    output = edgewise(*words[:4], single, *words[5:], "-o", "out.json", status=1).output
    assert "need" in output and "mean, noise, optimal, position-mean, zero" in output
    edgewise(*words[:4], single, *words[5:], "--ablation", "mean", "-o", "out.json")


# -- the real model -----------------------------------------------------------------------------


@pytest.mark.real
def test_answers_and_chat_on_the_real_model() -> None:
    session = open_model("smollm2-135m")
    tokens = session.loaded.tokenizer
    with pytest.raises(PromptError, match=r"' Astana', which is 2 tokens \(' Ast' 'ana'\)"):
        open_task(session, str(CASES / "multitoken-answer.jsonl"))
    (first,) = open_task(session, str(CASES / "multitoken-answer.jsonl"), answers="first")[0]
    assert tokens.decode([*first.answers, *first.distractors]) == " Ast T"
    whole, _ = open_task(session, str(CASES / "multitoken-answer.jsonl"), answers="whole")
    found = discover(session, whole, method="eap-ig", metric="nll", options={"steps": 2})
    assert found.evaluation.faithfulness == pytest.approx(1, abs=1e-4)
    full = by_hand(session, whole.pairs[0].clean, whole.pairs[0].sequences[0][0])
    assert found.evaluation.value_full == pytest.approx(full, abs=1e-3)
    chat, _ = open_task(session, str(CASES / "messages.jsonl"), answers="whole")
    text = tokens.decode(chat.pairs[0].clean)
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n")
    assert chat.pairs[0].clean.count(1) == 3 and chat.bos_prepended is True
    assert open_task(session, str(CASES / "messages.jsonl"), answers="whole", bos=True)[0] == chat
    with pytest.raises(PromptError) as caught:  # all that is wrong, and all ways, at once
        open_task(session, str(CASES / "messages.jsonl"))
    words = ("`answers` first", "`answers` whole needs one of the metrics kl, nll, log_prob_diff")
    words = (
        *words,
        "Nor is there a distractor: write one, or choose a `metric` that needs none: kl",
    )
    for one in (*words, "that needs none: mean, noise, optimal, position-mean, zero."):
        assert one in str(caught.value)
    with pytest.raises(PromptError) as caught:
        discover(session, chat, method="eap", metric="logit_diff")
    for one in ("compares logits at one position", "Besides, ", "that needs none: mean, noise"):
        assert one in str(caught.value)
    with pytest.raises(PromptError, match="an `ablation` that needs none"):
        discover(session, chat, method="eap", metric="nll")
    measured = evaluate(session, found.file.circuit, chat, metric="nll", ablation="zero")
    assert measured.value_circuit == pytest.approx(measured.value_full, abs=1e-3)


def by_hand(session: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Return −log p of an answer, from the original model's own logits."""
    import torch

    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logits = session.loaded.model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
    return -sum(float(logits[at, token]) for at, token in zip(places, answer, strict=True))
