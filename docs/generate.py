"""Write the generated tables of the documents anew, from the registries that the program uses.

    python docs/generate.py

A table stands between `<!-- generated: NAME -->` and `<!-- end -->`; all else is written by hand.
A test fails when a table is out of date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from textwrap import dedent
from typing import Any

from measured import (
    FOLDER,
    code,
    exact_effects,
    failures,
    measured_methods,
    scored_cases,
    scored_methods,
    table,
)

PLACE = re.compile(r"(<!-- generated: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def sentence(text: str) -> str:
    """Begin with a capital and end with a stop."""
    text = " ".join(text.split()).rstrip(".")
    return text[:1].upper() + text[1:] + "."


def first_sentence(thing: Any) -> str:
    """Return the first sentence of a docstring."""
    paragraph = inspect.cleandoc(thing.__doc__ or "").split("\n\n")[0]
    return sentence(re.split(r"(?<=[.])\s", " ".join(paragraph.split()))[0])


def methods() -> str:
    """List the discovery methods."""
    from edgewise.discovery.registry import methods as known

    rows = []
    for name, method in known().items():
        kind = "a circuit" if method.selects else "scores"
        rows.append((code(name), sentence(method.summary), kind, code(method.default_metric)))
    return table(["method", "what it does", "gives", "default metric"], rows)


def method_options() -> str:
    """List the options of every method."""
    from edgewise.discovery.registry import methods as known

    rows = [
        (code(name), code(key), code(option_of(key)), default(option.default),
         sentence(option.help))
        for name, method in known().items()
        for key, option in method.options.items()
    ]  # fmt: skip
    return table(["method", "key", "on the command line", "default", "meaning"], rows)


def method_pages() -> str:
    """Tell of every method how it goes, from where, at what cost and what it is for."""
    from edgewise.discovery.registry import methods as known

    parts = []
    for name, method in known().items():
        page = method.page
        if page is None:
            continue
        steps = "".join(f"{number}. {step}\n" for number, step in enumerate(page.steps, 1))
        engines, kind = ", ".join(method.engines), "a circuit" if method.selects else "scores"
        options = ", ".join(code(option_of(key)) for key in method.options) or "none"
        parts.append(
            f"### {name}\n\n{sentence(method.summary)}\n\n{steps}\n"
            f"* **Paper:** {sentence(page.paper)}\n* **Cost:** {sentence(page.cost)}\n"
            f"* **When to take it:** {sentence(page.when)}\n"
            f"* **Gives** {kind}; **computed by** {engines}; **options:** {options}.\n"
        )
    return "\n".join(parts)


def option_of(key: str) -> str:
    """Write an option of a method as on the command line."""
    return "--" + key.replace("_", "-")


def default(value: object) -> str:
    """Write a default as a spec does."""
    if isinstance(value, bool):
        return code(str(value).lower())
    return code("none" if value is None else value)


def metrics() -> str:
    """List the metrics."""
    from edgewise.patching.metrics.registry import metrics as known

    rows = []
    for name, metric in known().items():
        needs = "distractors" if metric.needs_distractors else ""
        gradient = "none" if not metric.differentiable else "yes"
        gradient = "0 at the clean run" if metric.flat_at_clean else gradient
        better = "larger" if metric.larger_is_better else "smaller"
        rows.append((code(name), sentence(metric.description), better, needs, gradient))
    return table(["metric", "value of an example", "better", "needs", "gradient"], rows)


def ablations() -> str:
    """List the ablations."""
    from edgewise.patching.ablations.registry import ablations as known

    rows = [
        (code(one.form), sentence(one.summary), "yes" if one.needs_corrupted else "no")
        for one in known().values()
    ]
    return table(["ablation", "what an ablated edge carries", "needs corrupted prompts"], rows)


def tasks() -> str:
    """List the built-in tasks, with a sample of each."""
    from edgewise.patching.tasks import TASKS, preview

    rows = []
    for name, task in TASKS.items():
        answers = "(random tokens)"
        sample = ""
        if task.needs_tokenizer:
            (shown,) = preview(name, examples=1)
            sample, answers = code(shown.clean), ", ".join(map(code, shown.answers[:3]))
            answers += ", …" * (len(shown.answers) > 3)
        rows.append((code(name), sentence(task.summary), sample, answers))
    return table(["task", "what it asks", "a clean prompt", "answers"], rows)


def task_options() -> str:
    """List the options of the built-in tasks."""
    from edgewise.patching.tasks import TASKS

    rows = [
        (code(name), code(option.name), ", ".join(map(code, option.choices)) or "a whole number",
         default(option.default))
        for name, task in TASKS.items()
        for option in task.options
    ]  # fmt: skip
    return table(["task", "option", "accepted", "default"], rows)


def families() -> str:
    """List the model types that can be lifted, with what each follows and refuses."""
    rows = []
    for entry in registrations():
        module = inspect.getmodule(entry.describe)
        variants = sorted(entry.handled - set(SIZES.split()))
        refused = "; ".join(entry.refuses)
        types = ", ".join(map(code, entry.model_types))
        rows.append((types, first_sentence(module), ", ".join(map(code, variants)), refused))
    return table(
        ["`model_type` in config.json", "what it is", "settings followed", "refused"], rows
    )


def refused_types() -> str:
    """List the types that cannot be lifted, by the reason."""
    from edgewise.graphs.lift.families._types import decoder_types

    reasons: dict[str, list[str]] = {}
    for one in decoder_types():
        if one.lift == "refused":
            reasons.setdefault(one.why, []).append(code(one.model_type))
    rows = [(sentence(why).rstrip("."), ", ".join(types)) for why, types in reasons.items()]
    return table(["refused, because", "types"], rows)


def type_counts() -> str:
    """Count what becomes of the types of the installed transformers."""
    from importlib.metadata import version

    from edgewise.graphs.lift.families._types import decoder_types

    kinds = [one.lift for one in decoder_types()]
    heads, whole, refused = (kinds.count(how) for how in ("heads", "whole", "refused"))
    return (
        f"Of the {len(kinds)} types of causal language models, and of text models within others, "
        f"that transformers {version('transformers')} has, {heads} are split into heads, {whole} "
        f"have some parts taken whole, and {refused} are refused.\n"
    )


SIZES = """
    vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads n_embd n_head
    n_layer n_inner n_positions d_model n_heads n_layers ffn_dim num_heads num_layers
    ffn_hidden_size
"""
"""Config attributes that every family follows and no table needs to name."""


def registrations() -> list[Any]:
    """List the registered families, those of one file together."""
    from edgewise.graphs.lift.lifting import families as known

    entries = list(dict.fromkeys(known().values()))
    return sorted(entries, key=lambda entry: (entry.describe.__module__, entry.model_types))


def commands() -> str:
    """Describe every command with its arguments and options."""
    import click

    from edgewise.cli import cli

    parts = []
    for name, command in cli.commands.items():
        context = click.Context(command, info_name=name, **cli.context_settings)
        params = command.get_params(context)
        arguments = " ".join(p.make_metavar(context) for p in params if not is_option(p))
        rows = [
            (option_names(p, context), (p.help or "").rstrip(".") + "." + required(p))
            for p in params
            if is_option(p) and p.name != "help"
        ]
        words = inspect.cleandoc(command.help or "")
        usage = " ".join(f"edgewise {name} {arguments} [OPTIONS]".split())
        parts.append(
            f"## edgewise {name}\n\n```text\n{usage}\n```\n\n{words}\n\n"
            + table(["option", "meaning"], rows)
        )
    return "\n".join(parts)


def is_option(param: Any) -> bool:
    """Tell an option from an argument."""
    return bool(param.param_type_name == "option")


def option_names(option: Any, context: Any) -> str:
    """Write an option's names and what it takes."""
    names = [*option.opts, *option.secondary_opts]
    takes = "" if option.is_flag else f" {option.make_metavar(context)}"
    return ", ".join(code(one + takes) for one in names)


def required(option: Any) -> str:
    """Say of an option that it must be given."""
    return " Required." if option.required else ""


def spec() -> str:
    """Show the spec that the module's docstring explains."""
    from edgewise.experiment import document as module

    blocks = re.findall(r"(?:^    .*\n|^\n)+", module.__doc__ or "", re.MULTILINE)
    longest = max(blocks, key=len)
    return f"```toml\n{dedent(longest).strip()}\n```\n"


def names() -> str:
    """List the public names."""
    import edgewise

    places = edgewise._PUBLIC
    rows = [
        (code(name), code(f"edgewise.{places[name]}"), first_sentence(getattr(edgewise, name)))
        for name in edgewise.__all__
        if name in places
    ]
    return table(["name", "defined in", "what it is"], rows)


def workflow() -> str:
    """List the functions of edgewise.workflow."""
    from edgewise import workflow as module

    found = [(name, getattr(module, name)) for name in sorted(module.__all__)]
    rows = [
        (code(name), first_sentence(thing))
        for name, thing in found
        if inspect.isfunction(thing) or inspect.isclass(thing)
    ]
    return table(["name", "what it does"], rows)


def errors() -> str:
    """List the exception classes."""
    from edgewise.graphs import errors as module

    rows = [
        (code(name), first_sentence(thing))
        for name, thing in vars(module).items()
        if inspect.isclass(thing) and issubclass(thing, Exception)
    ]
    return table(["exception", "when"], rows)


def prompt_fields() -> str:
    """List the fields of a prompt pair, with the names that others give them."""
    from edgewise.patching.prompts.keys import BARE, FIELDS, words_of_names

    rows = []
    for one in FIELDS.values():
        bare = ", ".join(map(code, BARE.get(one.name, ())))
        alone = f"; where nothing better is there, one of {bare}" if bare else ""
        rows.append(
            (code(one.name), sentence(one.meaning), ", ".join(map(code, one.others)) + alone)
        )
    words = "".join(f"* {what}: {', '.join(map(code, some))}\n" for what, some in words_of_names())
    return table(["key", "meaning", "also called"], rows) + (
        "\nSo are names put together of such words, in any order, as `sentence_corrupted`, "
        f"`label_true` or `wrongAnswerToken`; with the word of an id they are token ids:\n\n{words}"
    )


def prompt_shapes() -> str:
    """Describe every shape of files of prompts, with its keys and an example."""
    from edgewise.patching.prompts.shapes import shapes

    parts = []
    for name, one in shapes().items():
        own = name != "pairs"  # whose keys are in a table of their own
        keys = "".join(f"* `{key}`: {what}\n" for key, what in one.keys.items()) if own else ""
        gap = "\n" if keys else ""
        drawn = " Which pairs are formed is decided by `--seed`." if one.draws else ""
        parts.append(
            f"### {name}\n\n{sentence(one.summary)}{drawn}\n\n{keys}{gap}"
            f"```{one.ending.removeprefix('.')}\n{one.example.rstrip()}\n```\n"
        )
    return "\n".join(parts)


TABLES: dict[str, Callable[[], str]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        ablations, commands, errors, exact_effects, failures, families, measured_methods,
        method_options, method_pages, methods, metrics, names, prompt_fields, prompt_shapes,
        refused_types, scored_cases, scored_methods, spec, task_options, tasks, type_counts,
        workflow,
    )
}  # fmt: skip


def renewed(text: str) -> str:
    """Return a document with its generated parts made anew."""
    return PLACE.sub(lambda match: match[1] + TABLES[match["name"]]() + match[3], text)


def main() -> None:
    """Write what is out of date and name it."""
    for path in sorted(FOLDER.rglob("*.md")):
        old = path.read_text(encoding="utf-8")
        new = renewed(old)
        if new != old:
            path.write_text(new, encoding="utf-8")
            sys.stdout.write(f"written: {path.name}\n")


if __name__ == "__main__":
    main()
