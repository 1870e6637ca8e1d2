import pytest
import torch
from torch import nn

from subscape.interaction_basis import BasisConfig, build_bases, build_graph, chain_from
from subscape.interaction_basis.batched import attention
from subscape.interaction_basis.cuts import chains_from, main_output
from subscape.interaction_basis.edges import interactions, interactions_by_vjp
from subscape.interaction_basis.weights import with_weights

SIZES = dict(vocab_size=23, hidden_size=8, intermediate_size=12, num_hidden_layers=2)


class Functional(nn.Module):
    """An activation and a skip connection that are no modules."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, values):
        hidden = torch.relu(self.one(values))
        return self.three(self.two(hidden) + values)


class Block(nn.Module):
    """A residual block of a small ResNet, changing its input in place as many do."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n_in, n_out, 3, padding=1), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = nn.Conv2d(n_out, n_out, 3, padding=1), nn.BatchNorm2d(n_out)
        self.short = nn.Conv2d(n_in, n_out, 1)

    def forward(self, values):
        out = nn.functional.relu(self.bn1(self.conv1(values)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.short(values)
        return nn.functional.relu(out, inplace=True)


def convolutional():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        Block(3, 4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(16),
        nn.Linear(16, 5),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model.double().eval()


def test_a_functional_relu_and_a_skip_connection_are_kept():
    model, x = Functional().double().eval(), torch.randn(40, 6).double()
    chain = chain_from(model, ["input", "two", "one", "output"], x)
    # In the order of execution, whatever the order of the names.
    assert chain.names == ("input", "one", "two", "output")
    nodes = chain.nodes(x)
    # Behind `one` the input goes on beside it, and so it does behind `two`.
    assert [n.shape[-1] for n in nodes] == [6, 12, 12, 3]
    assert torch.equal(nodes[1][:, :6], x) and torch.allclose(nodes[1][:, 6:], model.one(x))
    assert torch.allclose(chain.outputs(x), model(x), atol=1e-14)


@pytest.mark.parametrize("layout", ["channel", "flat"])
def test_images_lie_by_channel_or_flat(layout):
    model, x = convolutional(), torch.randn(9, 1, 4, 4).double()
    names = ["0", "1.conv1", "1", "4", "output"]
    chain = chain_from(model, names, x, layout=layout)
    shapes = [tuple(n.shape) for n in chain.nodes(x)]
    # Behind conv1 the block's input of 3 channels goes on beside its 4.
    by_channel = [(9, 16, 3), (9, 16, 7), (9, 16, 4), (9, 16), (9, 5)]
    flat = [(9, 48), (9, 112), (9, 64), (9, 16), (9, 5)]
    assert shapes == (by_channel if layout == "channel" else flat)
    assert torch.allclose(chain.outputs(x), model(x), atol=1e-12)


def test_bases_and_edges_of_a_convolutional_network():
    model, x = convolutional(), torch.randn(40, 1, 4, 4).double()
    chain = chain_from(model, ["0", "1.conv1", "1", "output"], x)
    bases = build_bases(chain, x, BasisConfig(last="raw"))
    graph = build_graph(chain, bases, x)
    for layer, section in enumerate(chain.sections):
        pair = bases.lib[layer : layer + 2]
        with torch.no_grad():
            values = chain.nodes(x, layer)[-1]
        slow = interactions_by_vjp(section, *pair, [values])
        assert (graph.edges[layer] - slow).abs().max() <= 1e-9 * slow.max()
        assert torch.allclose(interactions(section, *pair, [values]), graph.edges[layer])


def test_the_chain_of_an_mlp_gives_what_sequential_chain_gives():
    from subscape.interaction_basis import sequential_chain

    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    model, x = model.double().eval(), torch.randn(50, 6).double()
    chains = sequential_chain(model), chain_from(model, ["input", "1", "3", "output"], x)
    one, other = (build_bases(c, x, BasisConfig(last="raw")) for c in chains)
    for a, b in zip(one.lib, other.lib, strict=True):
        assert torch.allclose(a.importance, b.importance, rtol=1e-9)


FAMILIES = {
    "GPT2": ["transformer.h.0.attn", "transformer.h.0", "transformer.h.1"],
    "GPTNeoX": ["gpt_neox.layers.0.attention", "gpt_neox.layers.0", "gpt_neox.layers.1"],
    "GPTNeo": ["transformer.h.0.attn", "transformer.h.0", "transformer.h.1"],
    "Gemma2": ["model.layers.0.self_attn", "model.layers.0", "model.layers.1"],
    "Olmo": ["model.layers.0.self_attn", "model.layers.0", "model.layers.1"],
    "Bert": ["encoder.layer.0.intermediate", "encoder.layer.0", "encoder.layer.1"],
}
MORE = {
    "GPT2": dict(n_embd=8, n_layer=2, n_head=2, n_positions=32),
    "GPTNeo": dict(
        num_layers=2, num_heads=2, window_size=4, attention_types=[[["global", "local"], 1]]
    ),
    "Gemma2": dict(head_dim=4, num_key_value_heads=1),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_of_every_family(family):
    transformers = pytest.importorskip("transformers")
    ids = dict(bos_token_id=0, eos_token_id=0)
    sizes = ids | SIZES | dict(num_attention_heads=2) | MORE.get(family, {})
    config = getattr(transformers, f"{family}Config")(**sizes)
    kind = transformers.AutoModel if family == "Bert" else transformers.AutoModelForCausalLM
    model = kind.from_config(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape))
    tokens = torch.randint(0, 23, (7, 12))
    chain = chain_from(model, FAMILIES[family], tokens)
    # Inside the block the residual stream goes on beside the branch.
    width = 12 if family == "Bert" else 8
    assert [n.shape[-1] for n in chain.nodes(tokens)] == [8 + width, 8, 8]
    assert torch.allclose(chain.outputs(tokens), main_output(model, tokens), atol=1e-9)


class Deciding(nn.Module):
    """Its way depends on the values."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(2, 2)

    def forward(self, values):
        return self.one(values) if values.sum() > 0 else values


class Tokens(nn.Module):
    """Uses the tokens again behind its first layer."""

    def __init__(self):
        super().__init__()
        self.embed, self.one = nn.Embedding(5, 2), nn.Linear(2, 2)

    def forward(self, tokens):
        return self.one(self.embed(tokens)) * (tokens > 0)[..., None]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Linear(2, 2)

    def forward(self, values):
        return self.one(self.one(values))


LINEAR = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
ROWS = torch.linspace(-1, 1, 6).reshape(3, 2)


@pytest.mark.parametrize(
    ("model", "cuts", "inputs", "message"),
    [
        (LINEAR, ["0", "2"], ROWS, "cuts: expected names of modules.* got '2'"),
        (LINEAR, ["0"], ROWS, "cuts: expected two names or more"),
        (LINEAR, ["0", "0"], ROWS, "cuts: expected two names or more that differ"),
        (Deciding(), ["one", "output"], ROWS, "model: expected one that torch.export can trace"),
        (Twice(), ["one", "output"], ROWS, "modules that run once .* which runs 2 times"),
        (Tokens(), ["embed", "one"], torch.tensor([[1], [0]]), "floating-point numbers across"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(model, cuts, inputs, message):
    with pytest.raises(ValueError, match=message):
        chain_from(model.eval(), cuts, inputs)


def test_a_model_that_mixes_samples_is_refused():
    class Mixing(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(2, 2)

        def forward(self, values):
            out = self.one(values)
            return out - out.mean(0)

    with pytest.raises(ValueError, match="give the model's own outputs"):
        chain_from(Mixing().eval(), ["one", "output"], ROWS)
    with pytest.raises(ValueError, match="eval mode"):
        chain_from(LINEAR.train(), ["0", "1"], ROWS)


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"enable_gqa": True, "scale": 0.3}])
@pytest.mark.parametrize("kind", [None, torch.bool, torch.float64])
def test_attention_written_out_is_torchs(options, kind):
    query, (key, value) = torch.randn(2, 4, 5, 3).double(), torch.randn(2, 2, 4, 5, 3).double()
    if "enable_gqa" in options:
        key, value = key[:, :2], value[:, :2]
    mask = None
    if kind is not None and "is_causal" not in options:
        mask = torch.rand(5, 5).tril() + torch.eye(5)
        mask = mask > 0.3 if kind == torch.bool else mask.to(kind)
    wanted = nn.functional.scaled_dot_product_attention(query, key, value, mask, **options)
    assert torch.allclose(attention(query, key, value, mask, **options), wanted, atol=1e-12)


class Tied(nn.Module):
    """Reads and writes with one matrix."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(x).tanh())


def test_the_chain_of_other_weights_is_that_of_the_model_with_them():
    torch.manual_seed(0)
    model, inputs = Tied().double().eval(), torch.randn(6, 5).double()
    chain_of = chains_from(model, ["input", "one", "output"], inputs)
    before = model(inputs)
    for name in ("one.weight", "two.weight", "two.bias"):
        changed = {name: model.get_parameter(name).detach() + 1}
        other = with_weights(model, changed)
        assert torch.allclose(chain_of(changed).outputs(inputs), other(inputs))
        assert not torch.allclose(other(inputs), before)
    # The model and its own chain stay as they were.
    assert torch.allclose(chain_of({}).outputs(inputs), before)
    with pytest.raises(ValueError, match="weights: expected names of parameters; got 'one.wait'"):
        chain_of({"one.wait": torch.ones(5, 5)})
