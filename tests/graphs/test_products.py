"""Large products by oneDNN are those of torch's own library."""

from __future__ import annotations

import pytest
import torch

from edgewise.graphs.lift import devices
from edgewise.graphs.lift.devices import projected


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_a_large_product_is_the_same(
    turned: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(devices, "half_wide", lambda: True)
    torch.manual_seed(0)
    x, weight = torch.randn(2, 50, 128), torch.randn(512, 128)
    weight = weight.t().contiguous().t() if turned else weight
    more = torch.randn(512) if bias else None
    exact = torch.nn.functional.linear(x.double(), weight.double(), more.double() if bias else None)
    with torch.no_grad():
        found = projected(x, weight, more)
    assert found.shape == exact.shape
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-4)


def test_gradients_and_rounded_factors_take_the_usual_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: torch.Tensor) -> torch.Tensor:
        raise AssertionError("handed on")

    monkeypatch.setattr(devices, "half_wide", lambda: True)
    monkeypatch.setattr(torch.Tensor, "to_mkldnn", refuse)
    x, weight = torch.randn(100, 128), torch.randn(512, 128)
    projected(x, weight)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    with torch.no_grad():
        projected(x, weight)
        projected(x[:1], weight)
        projected(x.double(), weight.double())
