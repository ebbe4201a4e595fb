"""Every method has a page: how it goes, from which paper, at what cost, and when to take it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from edgewise.cli import cli
from edgewise.discovery.registry import methods


@pytest.mark.parametrize("name", methods())
def test_every_method_has_a_page(name: str) -> None:
    """A new one gives `page=Page(steps, paper, cost, when)` to `method`."""
    page = methods()[name].page
    assert page is not None
    assert page.steps
    assert all((*page.steps, page.paper, page.cost, page.when))
    assert all(step.endswith(".") for step in page.steps)


def test_the_page_is_shown() -> None:
    method = methods()["acdc"]
    page = method.page
    assert page is not None
    shown = " ".join(CliRunner().invoke(cli, ["methods", "acdc"]).output.split())
    for text in (method.summary, *page.steps, page.paper, page.cost, page.when, "--ports-first"):
        assert text in shown
    found = json.loads(CliRunner().invoke(cli, ["methods", "acdc", "--json"]).output)
    assert tuple(found["steps"]) == page.steps
    assert found["options"]["threshold"]["default"] == 0.02


def test_a_name_beside_a_comparison_is_wrong_usage() -> None:
    found = CliRunner().invoke(cli, ["methods", "acdc", "--compare", "eap"])
    assert found.exit_code == 2
    assert "accepted: a method's name alone" in found.output
    assert "unknown method 'edc'" in CliRunner().invoke(cli, ["methods", "edc"]).output
