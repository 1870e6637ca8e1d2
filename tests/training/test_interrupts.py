"""An error or an interrupt at any call of the model leaves model and random numbers as they were."""

from itertools import cycle, islice

import pytest
import torch

from subscape import decompose, measure
from tests.training.test_model_left_as_found import (
    OPTIONS,
    assert_unchanged,
    llama,
    one_module_under_two_names,
    record,
    sharing,
)


def in_half():
    model, data, _ = one_module_under_two_names()
    return model.to(torch.bfloat16), data.to(torch.bfloat16), {}


class Stop:
    """Raises at a call of the last module that has parameters, in the middle of the model's forward."""

    def __init__(self, model):
        self.n, self.at, self.error = 0, 0, KeyError("own")
        last = [m for m in model.modules() if list(m.parameters(recurse=False))][-1]
        last.register_forward_pre_hook(self)

    def __call__(self, module, arguments):
        self.n += 1
        if self.n == self.at:
            raise self.error


def run(model, data, options, engine):
    found = decompose(model, data, engine=engine, **OPTIONS | {"steps": 2}, **options)
    few = {"n_rows": 8, "n_references": 1, "n_top": 2, "n_others": 4, "n_deltas": 1}
    measure(found, model, data, progress=False, **few)


ENGINES = ["auto", "jacobian", "rule", "replay", "vmap", "loop"]
MODELS = [sharing, one_module_under_two_names, in_half, llama]


def check(make, engine, calls_of, n_errors):
    model, data, options = make()
    if options.get("rows") and engine in ("jacobian", "rule", "replay"):
        pytest.skip("not for this model")
    stop = Stop(model)
    before, state = record(model), torch.get_rng_state()
    try:
        run(model, data, options, engine)
    except ValueError as error:  # an engine that this model does not have
        assert "engine: expected" in str(error)
        calls = []
    else:
        calls = calls_of(stop.n)
    assert_unchanged(before, model)
    errors = cycle((KeyboardInterrupt(), KeyError("own"), RuntimeError("own")))
    for at in calls:
        for error in islice(errors, n_errors):
            stop.n, stop.at, stop.error = 0, at, error
            try:
                run(model, data, options, engine)
                # Engines that fail while they are tried are passed over.
                assert isinstance(error, RuntimeError)
            except (KeyboardInterrupt, Exception) as raised:
                assert "own" in str(raised) or isinstance(raised, KeyboardInterrupt)
            assert_unchanged(before, model)
            assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:Row gradients of", "ignore:forward mode is not there")
@pytest.mark.parametrize("engine", ENGINES)
def test_at_some_calls(engine):
    check(in_half, engine, lambda n: (2, n // 2, n), 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Row gradients of", "ignore:forward mode is not there")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("make", MODELS)
def test_at_every_call(make, engine):
    check(make, engine, lambda n: range(1, n + 1, max(1, n // 40)), 3)
