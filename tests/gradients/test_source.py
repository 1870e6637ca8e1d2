from dataclasses import replace

import pytest
import torch
from torch import nn

from subscape import FixedOutput, GradientSource, Pairs, Target
from subscape.divergences import MSE
from subscape.gradients import one_pass as one_pass_module
from subscape.gradients import source as source_module
from subscape.gradients.micro_batches import MicroBatches
from tests.conftest import Made
from tests.gradients.conftest import whole

LENGTH, VOCABULARY = 3, 5
KINDS = ["sample", "sampled-token", "token"]
ENGINES = ["rule", "replay", "vmap", "loop"]
EXACT = {"rtol": 1e-12, "atol": 1e-13}


def linear_source(n=10, **options):
    torch.manual_seed(0)
    model, data = nn.Linear(3, 2).double(), torch.randn(n, 3).double()
    return GradientSource(Target(model), data, **options)


def words():
    """A small causal language model."""
    torch.manual_seed(0)
    return Made(
        lambda self, ids: self.head(torch.tanh(self.table(ids).cumsum(1))),
        table=nn.Embedding(VOCABULARY, 4),
        head=nn.Linear(4, VOCABULARY),
    ).double()


def token_ids(n):
    return torch.randint(0, VOCABULARY, (n, LENGTH), generator=torch.Generator().manual_seed(n))


def token_source(n=20, rows="sampled-token", **options):
    given = {"divergence": "kl", "engine": "rule"} | options
    return GradientSource(Target(words()), token_ids(n), rows=rows, **given)


# Outputs and gradients


EVERY = pytest.mark.parametrize("kind", KINDS)


@EVERY
@pytest.mark.parametrize("engine", ["jacobian", "rule", "loop"])
def test_outputs_are_the_models_own_at_the_rows(kind, engine):
    cached = engine == "jacobian"
    source = linear_source(engine=engine) if cached else token_source(8, kind, engine=engine)
    rows = source.rows(1, source.n_rows)
    with torch.no_grad():
        expected = source.target.model(source.data[rows.samples])
    if rows.position is not None:
        expected = expected[torch.arange(len(rows)), rows.position]
    torch.testing.assert_close(source.outputs_at(rows), expected, **EXACT)


@pytest.mark.parametrize("engine", ["jacobian", "rule", "vmap", "loop"])
def test_gradients_of_a_linear_map_by_hand(engine):
    # f = W x with W = [[1, 2]]; samples x = [1, 0], [0, 1]: f = 1, 2. Each is the other's reference.
    # D = (f − r)², dD/df = 2 (f − r): −2 for sample 0, 2 for sample 1; times x.
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    source = GradientSource(Target(model), torch.eye(2), engine=engine)
    gradients = source.gradients(source.rows_of(torch.tensor([0, 1])))
    assert gradients.flat.tolist() == [[-2.0, 0.0], [0.0, 2.0]]


def test_named_rules_and_their_objects_give_the_same():
    named = linear_source(divergence="mse", reference="uniform")
    given = linear_source(divergence=MSE, reference=FixedOutput(torch.zeros(2).double()))
    paired = linear_source(reference=Pairs(torch.zeros(10, 2).double()))
    called = linear_source(reference=lambda outputs, rows: torch.zeros_like(outputs))
    for other in (given, paired, called):
        assert torch.equal(whole(named), whole(other))


def test_pairs_go_with_their_samples():
    # dD/db = 2 (f − r) / 2 for the bias of two outputs.
    pairs = torch.arange(20.0).view(10, 2).double()
    source = linear_source(reference=Pairs(pairs))
    rows = source.rows(3, 4)
    found = source.gradients(rows).dense()["bias"]
    torch.testing.assert_close(found, source.outputs_at(rows) - pairs[rows.samples], **EXACT)


# The same gradients, however they are asked for


def half_partner(outputs, rows):
    """A user's own rule, which depends on the group."""
    return 0.5 * outputs[rows.partner]


def references(kind):
    one = (LENGTH, VOCABULARY) if kind == "sample" else (VOCABULARY,)
    positions = [LENGTH] if kind == "token" else []
    pairs = Pairs(torch.randn(20, *positions, *one).double())
    fixed = FixedOutput(torch.ones(one).double().cumsum(-1))
    return ["another-row", "batch-mean", "uniform", "mean", fixed, pairs, half_partner]


@EVERY
@pytest.mark.parametrize("engine", ["jacobian", *ENGINES])
def test_gradients_are_the_same_in_micro_batches_and_for_many_draws(kind, engine):
    if engine == "jacobian" and kind != "sample":
        with pytest.raises(
            ValueError, match=r"^engine: expected .* for token rows; got 'jacobian'"
        ):
            token_source(20, kind, engine=engine)
        return
    asked = engine if engine == "jacobian" else {"*": engine}
    source = token_source(20, kind, engine=asked, reference="mean")
    per_sample = source.draws.per_sample
    rows = source.rows(0, 18 * per_sample)  # groups of 9 samples
    others = source.rows_of(rows.sample_of_each, draw=7)
    second = replace(rows, partner=others.partner)
    # References have nothing to do with engines: all of them once is enough.
    for reference in references(kind) if engine == "rule" else ["another-row", half_partner]:
        other = source.over(source.data, seed=source.seed, reference=reference)
        expected = [other.gradients(given).flat for given in (rows, second)]
        assert (expected[0].norm(dim=1) > 0).any()
        with_partner = reference in ("another-row", half_partner)
        assert torch.equal(*expected) is not with_partner
        by_draw = [gradients.flat for gradients in other.gradients_over([rows, second])]
        torch.testing.assert_close(by_draw, expected, **EXACT)
        for size in (1, 17 * per_sample):
            batches = other.gradients(rows, micro_batch_size=size)
            assert isinstance(batches, MicroBatches)
            assert list(batches.sizes) == [9 * per_sample] * 2
            torch.testing.assert_close(batches.flat, expected[0], **EXACT)
        again = other.gradients(rows, micro_batch_size=18 * per_sample)
        assert not isinstance(again, MicroBatches)
        assert torch.equal(again.flat, expected[0])


@EVERY
def test_the_shares_of_ranks_have_the_gradients_of_one(kind):
    source = token_source(20, kind)
    size = 17 * source.draws.per_sample
    shares = [source.rows(2, size, rank=rank, n_ranks=2) for rank in range(2)]
    found = torch.cat([source.gradients(share).flat for share in shares])
    torch.testing.assert_close(found, source.gradients(source.rows(2, size)).flat, **EXACT)


# The reference `mean`


@pytest.mark.parametrize("engine", ["jacobian", "rule", "loop"])
def test_the_mean_output_by_hand(engine):
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 2.0)
    data = torch.tensor([[1.0], [2.0], [6.0]]).double()
    source = GradientSource(Target(model), data, reference="mean", engine=engine)
    # Outputs 2, 4 and 12.
    assert isinstance(source.reference, FixedOutput)
    assert source.reference.output.tolist() == [6.0]
    assert torch.equal(whole(source)[source.rows(0, 3).samples.argsort()], 4 * data * (data - 3))


@EVERY
def test_the_mean_of_logits_is_the_logarithm_of_the_mean_distribution(kind):
    # Token 0 has probabilities 1/4, 3/4, token 1 has 3/4, 1/4, token 2 has 1/2, 1/2.
    model = nn.Embedding(3, 2).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 3.0], [3.0, 1.0], [5.0, 5.0]]).double().log())
    ids = torch.tensor([[0, 2], [1, 2], [0, 0], [0, 0]])
    target = Target(model)
    source = GradientSource(target, ids, rows=kind, divergence="kl", reference="mean")
    # First positions 1/4 three times and 3/4 once, second 1/2 twice and 1/4 twice; 3/8 all together.
    expected = [[3 / 8, 5 / 8], [3 / 8, 5 / 8]] if kind == "sample" else [3 / 8, 5 / 8]
    torch.testing.assert_close(
        source.reference.output.exp(), torch.tensor(expected).double(), **EXACT
    )


@EVERY
def test_the_mean_is_that_of_the_data_whatever_the_batches(kind, monkeypatch):
    expected = token_source(20, kind, reference="mean")
    for size in (1, 7, 20):
        monkeypatch.setattr(source_module, "MEAN_BATCH", size)
        found = token_source(20, kind, reference="mean").reference.output
        torch.testing.assert_close(found, expected.reference.output, **EXACT)
    outputs = expected.target.model(expected.data).softmax(-1)
    mean = outputs.mean(0) if kind == "sample" else outputs.mean((0, 1))
    torch.testing.assert_close(expected.reference.output.exp(), mean.detach(), **EXACT)
    monkeypatch.setattr(source_module, "MEAN_SAMPLES", 5)
    fewer = token_source(20, kind, reference="mean").reference.output
    assert not torch.allclose(fewer, expected.reference.output)


def test_other_data_keep_the_mean_of_the_first():
    source = token_source(20, reference="mean")
    for reference in (None, "mean"):
        other = source.over(token_ids(6), seed=1, reference=reference)
        assert other.reference is source.reference
    assert source.over(token_ids(6), seed=1, reference="uniform").reference is not source.reference


# Forward passes, and what is taken along to other data


def forwards(model):
    """Grows by the number of samples at every call of the model."""
    seen: list[int] = []
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


@EVERY
@pytest.mark.parametrize("engine", [{"*": "auto"}, "rule", "replay"], ids=str)
def test_three_forward_passes_before_a_run_and_none_on_other_data(kind, engine):
    model = words()
    seen = forwards(model)
    options = {"rows": kind, "engine": engine, "divergence": "kl"}
    source = GradientSource(Target(model), token_ids(20), **options)
    assert seen == [2, 3, 3]  # two and three samples side by side, and the trial of the engines
    other = source.over(token_ids(9), seed=4)
    assert len(seen) == 3
    assert other.plan is source.plan
    assert other.engines == source.engines
    assert (other.kind, other.divergence) == (source.kind, source.divergence)
    afresh = GradientSource(Target(model), token_ids(9), seed=4, **options)
    assert len(seen) == 6
    assert torch.equal(whole(other), whole(afresh))
    seen.clear()
    rows = source.rows(0, 4 * source.draws.per_sample)
    draws = [replace(rows, partner=rows.partner.roll(k)) for k in range(10)]
    assert len(list(source.gradients_over(draws))) == 10
    assert seen == [4]
    seen.clear()
    GradientSource(Target(model), token_ids(20), engine="loop").over(token_ids(9), seed=1)
    assert seen == [2, 3]


def test_data_of_another_form_are_looked_at_anew():
    source = token_source(20)
    longer = torch.randint(0, VOCABULARY, (9, LENGTH + 2))
    other = source.over(longer, seed=1)
    assert other.plan is not source.plan
    assert other.draws.n_positions == LENGTH + 2
    assert whole(other).shape == (9, source.target.n_parameters)


def test_a_cached_jacobian_is_made_for_other_data():
    source = linear_source(engine="jacobian")
    other = source.over(source.data[:6] + 1, seed=0)
    assert other.engine == "jacobian"
    expected = GradientSource(source.target, other.data, engine="loop")
    torch.testing.assert_close(whole(other), whole(expected), **EXACT)


# Which engine


def test_auto_takes_the_jacobian_while_it_fits_the_budget(monkeypatch):
    # 2 outputs × 8 parameters × 10 samples × 8 bytes.
    monkeypatch.setattr(source_module, "JACOBIAN_BUDGET", 2 * 8 * 10 * 8)
    assert linear_source(10).engine == "jacobian"
    assert linear_source(11).engine == "rule"
    assert token_source(4, engine="auto").engine == "rule"


def test_vmap_is_chunked_by_its_budget(monkeypatch):
    source = linear_source(engine="vmap")
    expected, seen = whole(source), []

    def spy(*given, names, chunk=None):
        seen.append(chunk)
        return original(*given, names=names, chunk=chunk)

    original = one_pass_module.vmap_gradients
    monkeypatch.setattr(one_pass_module, "vmap_gradients", spy)
    monkeypatch.setattr(one_pass_module, "CHUNK_BUDGET", 3 * 8 * 8)  # three rows of 8 float64
    torch.testing.assert_close(whole(source), expected, **EXACT)
    assert seen == [3]


def test_the_identity_is_that_of_all_settings():
    source = linear_source(engine="rule")
    same = linear_source(engine="rule").identity
    assert source.identity == same
    with torch.no_grad():
        source.target.model.bias[1] += 1e-9
    changes = [
        ("target", source),
        ("data", linear_source(9, engine="rule")),
        ("divergence", linear_source(engine="rule", divergence="kl")),
        ("reference", linear_source(engine="rule", reference=Pairs(torch.zeros(10, 2).double()))),
        ("engine", linear_source(engine="vmap")),
        ("source_seed", linear_source(engine="rule", seed=1)),
        ("row_weight", linear_source(engine="rule", row_weight="unit")),
    ]
    for key, changed in changes:
        differing = {k for k, v in changed.identity.items() if v != same[k]}
        assert differing - {"geometry"} == {key}


@pytest.mark.parametrize("rows", ["sample", "token"])
def test_the_probability_of_one_logit_alone_is_always_1(rows):
    data = torch.randn(6, 3) if rows == "sample" else torch.randn(6, 5, 3)
    target = Target(nn.Linear(3, 1))
    with pytest.raises(ValueError, match="^divergence: expected two logits or more for kl"):
        GradientSource(target, data, divergence="kl", rows=rows)
    assert GradientSource(target, data, divergence="mse", rows=rows).n_rows > 0
