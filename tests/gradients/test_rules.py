import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from subscape import GradientSource, Target
from subscape.gradients import DenseGradient, OuterGradient, register_rule
from subscape.gradients.rules import (
    batch_norm,
    convolution,
    embedding,
    layer_norm,
    linear,
    registry,
    rule_of,
)
from tests.conftest import Made

N_SAMPLES = 4
DTYPES = [torch.float64, torch.float32]
BOUND = {torch.float64: 1e-9, torch.float32: 1e-4}

Drawn = tuple[nn.Module, Tensor]
"""A layer and inputs for it, both of them in float64."""


def read(layer, inputs):
    """A layer, a nonlinearity, and a readout that is not decomposed."""
    with torch.no_grad():
        n_features = layer(inputs[:1]).numel()
    return Made(
        lambda self, x: self.readout(torch.tanh(self.layer(x)).flatten(1)),
        layer=layer,
        readout=nn.Linear(n_features, 3).double(),
    )


def worst(found, expected):
    """Largest error of a row, relative to the largest row; absolute where all rows are zero."""
    scale = float(expected.norm(dim=1).max())
    return float((found - expected).norm(dim=1).max()) / (scale or 1.0)


def error_of_rule(drawn, dtype):
    layer, inputs = drawn
    model = read(layer, inputs).to(dtype)
    target = Target(model, "layer")
    data = inputs.to(dtype) if inputs.is_floating_point() else inputs
    # Rows that happen to be equal would have no gradient towards each other's outputs.
    source = GradientSource(target, data, engine="rule", reference="uniform")
    assert set(source.engines.values()) == {"rule"}
    return error_of(source)


def error_of(source):
    """Largest error of its rows against the loop's."""
    loop = GradientSource(source.target, source.data, engine="loop", reference=source.reference)
    found, expected = (s.gradients(s.rows(0, len(s))).flat for s in (source, loop))
    return worst(found, expected)


# Layers of every kind, by shape


def normal(*shape):
    return torch.randn(N_SAMPLES, *shape, dtype=torch.float64)


def affine(norm):
    """Scale and shift that are not 1 and 0."""
    for values in norm.parameters():
        nn.init.normal_(values)
    return norm


size = st.integers(1, 4)
seed = st.integers(0, 2**20)


@st.composite
def linears(draw):
    positions = draw(st.lists(size, max_size=2))
    d_in, d_out = draw(size), draw(size)
    torch.manual_seed(draw(seed))
    layer = nn.Linear(d_in, d_out, bias=draw(st.booleans())).double()
    return layer, normal(*positions, d_in)


@st.composite
def transposed_linears(draw):
    positions = draw(st.lists(size, max_size=2))
    d_in, d_out = draw(size), draw(size)
    torch.manual_seed(draw(seed))
    conv1d = pytest.importorskip("transformers.pytorch_utils").Conv1D
    layer = conv1d(d_out, d_in).double()
    return affine(layer), normal(*positions, d_in)


@st.composite
def convolutions(draw):
    n_axes = draw(st.integers(1, 3))
    kernel = draw(st.lists(st.integers(1, 3), min_size=n_axes, max_size=n_axes))
    groups = draw(st.integers(1, 3))
    per_group = draw(st.integers(1, 2))
    if draw(st.booleans()):
        per_group = 1  # depthwise
    mode = draw(st.sampled_from(["zeros", "circular", "reflect"]))
    padding = draw(st.sampled_from(["valid", "same", 0, 1, 2]))
    stride = 1 if padding == "same" else draw(st.integers(1, 2))
    dilation = draw(st.integers(1, 2))
    # Wide enough for a dilated kernel without padding, and for the padding itself.
    extent = [dilation * (k - 1) + 1 + draw(st.integers(0, 2)) for k in kernel]
    extent = [max(n, 3 if mode != "zeros" else 1) for n in extent]
    torch.manual_seed(draw(seed))
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n_axes - 1]
    layer = kind(
        groups * per_group,
        groups * draw(st.integers(1, 2)),
        tuple(kernel),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=mode,
    )
    return layer.double(), normal(groups * per_group, *extent)


@st.composite
def embeddings(draw):
    n_tokens = draw(size)
    positions = draw(st.lists(size, max_size=2))
    padding = draw(st.none() | st.integers(-n_tokens, n_tokens - 1))
    torch.manual_seed(draw(seed))
    layer = nn.Embedding(n_tokens, draw(size), padding_idx=padding).double()
    return layer, torch.randint(0, n_tokens, (N_SAMPLES, *positions))


@st.composite
def layer_norms(draw):
    positions = draw(st.lists(size, max_size=2))
    normalized = draw(st.lists(st.integers(2, 4), min_size=1, max_size=2))
    torch.manual_seed(draw(seed))
    layer = nn.LayerNorm(
        normalized, eps=draw(st.sampled_from([1e-5, 0.1])), bias=draw(st.booleans())
    )
    return affine(layer.double()), normal(*positions, *normalized)


@st.composite
def rms_norms(draw):
    positions = draw(st.lists(size, max_size=2))
    normalized = draw(st.lists(st.integers(1, 4), min_size=1, max_size=2))
    torch.manual_seed(draw(seed))
    layer = nn.RMSNorm(normalized, eps=draw(st.sampled_from([None, 0.1])))
    return affine(layer.double()), normal(*positions, *normalized)


@st.composite
def group_norms(draw):
    groups, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    extent = draw(st.lists(st.integers(2, 3), min_size=1, max_size=2))
    torch.manual_seed(draw(seed))
    layer = nn.GroupNorm(groups, groups * per_group)
    return affine(layer.double()), normal(groups * per_group, *extent)


@st.composite
def batch_norms(draw):
    n_channels, n_axes = draw(size), draw(st.integers(0, 3))
    kind = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[n_axes]
    torch.manual_seed(draw(seed))
    layer = kind(n_channels).double().eval()
    nn.init.normal_(layer.running_mean)
    nn.init.uniform_(layer.running_var, 0.5, 2.0)
    extent = draw(st.lists(st.integers(1, 3), min_size=n_axes, max_size=n_axes))
    return affine(layer), normal(n_channels, *extent)


KINDS = [linears, transposed_linears, convolutions, embeddings, layer_norms, rms_norms]
KINDS += [group_norms, batch_norms]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_rule_equals_the_loop(kind, dtype):
    if kind is transposed_linears:
        pytest.importorskip("transformers")
    # In single precision it is the same rule.
    n_examples = 40 if kind is convolutions else 15

    @settings(max_examples=n_examples if dtype == torch.float64 else 5)
    @given(kind())
    def check(drawn):
        assert error_of_rule(drawn, dtype) <= BOUND[dtype]

    check()


@pytest.mark.parametrize("place", [0, 2], ids=["first layer", "behind another"])
def test_rules_of_layers_behind_each_other(place):
    # What reaches the first layer has gone through the second one.
    model = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv1d(4, 3, 3, groups=1), nn.Flatten()
    ).double()
    data = normal(2, 5)
    assert error_of(GradientSource(Target(model, str(place)), data, engine="rule")) <= 1e-9


def test_an_embedding_with_sparse_gradients():
    layer = nn.Embedding(7, 3, sparse=True).double()
    assert error_of_rule((layer, torch.randint(0, 7, (N_SAMPLES, 4))), torch.float64) <= 1e-9


# By hand


def of(*numbers):
    return torch.tensor(numbers)


def batch_norm_of():
    """Mean 1 and variance 4."""
    layer = nn.BatchNorm2d(1, eps=0.0).eval()
    nn.init.constant_(layer.running_mean, 1.0)
    nn.init.constant_(layer.running_var, 4.0)
    return layer


@pytest.mark.parametrize(
    ("rule", "layer", "inputs", "e", "weight", "bias"),
    [
        # Two positions: Σ e ⊗ a = [[1, 2], [0, 0]] + [[0, 3], [0, -1]]; Σ e = [4, -1].
        (linear, nn.Linear(2, 2), of([[1.0, 2.0], [0.0, 1.0]]), of([[1.0, 0.0], [3.0, -1.0]]))
        + ([[1.0, 5.0], [0.0, -1.0]], [4.0, -1.0]),
        # A kernel of 2 over [1, 2, 3]: patches [1, 2], [2, 3]. Σ e · patch = [10 - 2, 20 - 3].
        (convolution, nn.Conv1d(1, 1, 2), of([[1.0, 2.0, 3.0]]), of([[10.0, -1.0]]))
        + ([[[8.0, 17.0]]], [9.0]),
        # Token 2 stands at two positions, token 1 is padding.
        (embedding, nn.Embedding(3, 1, padding_idx=1), of([2, 1, 2]), of([[1.0], [5.0], [3.0]]))
        + ([[0.0], [0.0], [4.0]], None),
        # [1, 3] has mean 2 and variance 1: standardised [-1, 1].
        (layer_norm, nn.LayerNorm(2, eps=0.0), of([1.0, 3.0]), of([2.0, 5.0]))
        + ([-2.0, 5.0], [2.0, 5.0]),
        # [1, 3, 5, 1] is [0, 1, 2, 0] standardised; e = [7, 1, 2, 3].
        (
            batch_norm,
            batch_norm_of(),
            of([[[1.0, 3.0], [5.0, 1.0]]]),
            of([[[7.0, 1.0], [2.0, 3.0]]]),
        )
        + ([5.0], [13.0]),
    ],
    ids=["linear", "convolution", "embedding", "layer norm", "batch norm"],
)
def test_rules_by_hand(rule, layer, inputs, e, weight, bias):
    made = rule(layer, inputs, e)
    assert made["weight"].dense().tolist() == [weight]
    assert (made["bias"].dense().tolist() == [bias]) if bias else list(made) == ["weight"]


def test_a_convolution_with_few_places_keeps_its_factors():
    # One place of 4 + 12 numbers against a kernel of 4 · 12; with 9 places the kernel is smaller.
    layer = nn.Conv1d(4, 4, 3)
    few = convolution(layer, torch.ones(2, 4, 3), torch.ones(2, 4, 1))["weight"]
    many = convolution(layer, torch.ones(2, 4, 11), torch.ones(2, 4, 9))["weight"]
    assert isinstance(few, OuterGradient)
    assert isinstance(many, DenseGradient)


# Which rule


class Scale(nn.Module):
    """A user's own module, y = s x."""

    def __init__(self, factor=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0, -3.0, 0.5], dtype=torch.float64))
        self.factor = factor

    def forward(self, inputs):
        return inputs * self.scale


def rule_of_scale(module, inputs, e):
    return {"scale": DenseGradient(module.factor * inputs * e)}


@pytest.fixture
def rules(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))


@pytest.mark.usefixtures("rules")
@pytest.mark.parametrize("kind", [Scale, f"{__name__}.Scale"], ids=["type", "name"])
def test_a_rule_of_ones_own(kind):
    assert rule_of(Scale()) is None
    assert register_rule(kind)(rule_of_scale) is rule_of_scale
    assert rule_of(Scale()) is rule_of_scale
    assert error_of_rule((Scale(), normal(3)), torch.float64) <= 1e-9


@pytest.mark.usefixtures("rules")
def test_a_wrong_rule_is_found_out():
    register_rule(Scale)(rule_of_scale)
    with pytest.raises(ValueError, match="rule of layer: off by .* from plain autograd"):
        error_of_rule((Scale(factor=1.01), normal(3)), torch.float64)
    # Left to itself it takes another way, which is right.
    data = normal(3)
    target = Target(read(Scale(factor=1.01), data), "layer")
    source = GradientSource(target, data, engine={"*": "auto"})
    assert source.engines == {"layer.scale": "replay (layer)"}


class SameForward(nn.Linear):
    """Adds nothing to the forward pass."""

    def describe(self):
        return "linear"


class OtherForward(nn.Linear):
    """Twice what the rule is about."""

    def forward(self, input):
        return 2 * super().forward(input)


class BelowOtherForward(OtherForward):
    """Inherits a forward that is not the rule's."""


def test_a_rule_holds_for_subclasses_that_keep_their_forward():
    assert rule_of(SameForward(2, 2)) is linear
    assert rule_of(OtherForward(2, 2)) is None
    assert rule_of(BelowOtherForward(2, 2)) is None
    assert rule_of(nn.Identity()) is None
    assert rule_of(nn.Embedding(7, 3)) is embedding
    for option in ({"scale_grad_by_freq": True}, {"max_norm": 0.5}):
        assert rule_of(nn.Embedding(7, 3, **option)) is None


def test_gradients_scaled_by_the_frequency_of_a_token():
    layer = nn.Embedding(7, 3, scale_grad_by_freq=True).double()
    # The three samples that engines are tried on hold no token twice.
    ids = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5], [6, 6, 6, 1], [5, 5, 5, 5]])
    target = Target(read(layer, ids), "layer")
    source = GradientSource(target, ids, engine={"*": "auto"}, reference="uniform")
    assert source.engines == {"layer.weight": "replay (layer)"}
    assert error_of(source) <= 1e-9


@pytest.mark.usefixtures("rules")
def test_the_nearest_rule_holds():
    register_rule(SameForward)(rule_of_scale)
    assert rule_of(SameForward(2, 2)) is rule_of_scale
    assert rule_of(nn.Linear(2, 2)) is linear
    register_rule(OtherForward)(rule_of_scale)
    assert rule_of(BelowOtherForward(2, 2)) is rule_of_scale
    assert rule_of(OtherForward(2, 2)) is rule_of_scale


# Convolutions that pad by themselves


class SamePadded(nn.Conv2d):
    """As those that were ported from TensorFlow: places by stride, the odd row of padding behind."""

    def forward(self, x):
        padding = []
        for axis in (1, 0):
            size, stride = x.shape[2 + axis], self.stride[axis]
            seen = (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
            total = max(0, (-(-size // stride) - 1) * stride + seen - size)
            padding += [total // 2, total - total // 2]
        x = nn.functional.pad(x, padding)
        options = self.stride, self.padding, self.dilation, self.groups
        return nn.functional.conv2d(x, self.weight, self.bias, *options)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({"kernel_size": 3, "stride": 2}, (6, 6)),
        ({"kernel_size": (2, 5), "stride": (1, 2), "groups": 2}, (5, 7)),
        ({"kernel_size": 3, "dilation": 2, "bias": False}, (4, 5)),
        ({"kernel_size": 1, "stride": 2}, (5, 5)),
    ],
)
def test_a_convolution_that_pads_by_itself_goes_by_rule(options, size):
    torch.manual_seed(0)
    drawn = SamePadded(2, 4, **options).double(), torch.randn(N_SAMPLES, 2, *size).double()
    assert error_of_rule(drawn, torch.float64) < 1e-9


class Standardised(nn.Conv2d):
    """Another weight than its own; the places are those of a convolution without padding."""

    def forward(self, x):
        return nn.functional.conv2d(x, self.weight - self.weight.mean())


class EverySecond(nn.Conv2d):
    """Fewer places than its stride says."""

    def forward(self, x):
        return super().forward(x)[..., ::2]


@pytest.mark.parametrize(("kind", "why"), [(Standardised, "off by"), (EverySecond, "it fails")])
def test_a_convolution_that_does_something_else_does_not(kind, why):
    torch.manual_seed(0)
    data = torch.randn(N_SAMPLES, 2, 5, 6).double()
    model = read(kind(2, 4, 3, bias=False).double(), data)
    source = GradientSource(Target(model, "layer"), data, engine={"*": "auto"})
    choice = source.plan.choices["layer.weight"]
    assert choice.engine == "replay"
    assert why in choice.passed_over[0]
    assert error_of(source) < 1e-9
