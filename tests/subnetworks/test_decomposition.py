import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from subscape import Decomposition, FixedOutput, GradientSource, Target, TrainingConfig
from subscape._io import read_tensors
from subscape.gradients import DenseRowGradients
from subscape.lowrank import make_layout
from subscape.subnetworks.evaluation import evaluate
from subscape.subnetworks.saving import FORMAT_VERSION, piece_keys
from subscape.subnetworks.selection import SELECTIONS
from tests.conftest import Made, normal

EVERY = pytest.mark.parametrize("kind", list(SELECTIONS))
GOLDEN = Path(__file__).parent / "golden"


def target_of(dtype=torch.float64, out=3, **changes):
    """A matrix, a kernel, a vector and a scalar."""
    torch.manual_seed(0)
    linear, kernel = nn.Linear(4, out, dtype=dtype), torch.randn(3, 2, 2, dtype=dtype)
    return Target(
        Made(None, linear=linear, kernel=kernel, scale=torch.ones((), dtype=dtype)), **changes
    )


@pytest.fixture
def make(untrained):
    def make(form="tucker", dtype=torch.float64, **options):
        return untrained(
            target_of(dtype),
            form=form,
            threshold=0.1 + 1e-17 + 1 / 3,
            settings={"rank": 2, "seed": 0},
            metrics={"fvu": 1 / 7, "active_rate": [0.1, 0.2]},
            **options,
        )

    return make


@pytest.fixture
def made(make):
    return make()


def gradients_for(made, n=6):
    shapes = {t.name: t.shape for t in made.layout.tensors}
    flat = normal(n, made.layout.n_parameters).to(made.decoder.weights.dtype)
    return DenseRowGradients(flat, shapes)


# A sequence of subnetworks


def test_length_indexing_and_iteration(made):
    assert len(made) == 5
    assert [s.index for s in made] == [0, 1, 2, 3, 4]
    assert [s.index for s in (made[0], made[4], made[-1], made[-5])] == [0, 4, 4, 0]
    assert torch.equal(made[-1].stack.weights, made.decoder.weights[4])
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"from 0 to 4; got {index}"):
            made[index]


def test_a_subnetwork_is_a_row_of_the_decoder(made):
    dense = made.decoder.dense()
    subnetwork = made[3]
    assert list(subnetwork.dense()) == ["kernel", "scale", "linear.weight", "linear.bias"]
    for name, direction in dense.items():
        torch.testing.assert_close(subnetwork[name], direction[3], rtol=1e-13, atol=1e-15)
    with pytest.raises(KeyError, match="one of"):
        subnetwork["linear.wait"]


def test_norms_square_to_one(made):
    norms = made.norms()
    assert list(norms) == made.layout.names
    total = torch.stack([n.square() for n in norms.values()]).sum(0)
    torch.testing.assert_close(total, torch.ones(5).double())
    one = made[2].norms()
    assert one == {name: pytest.approx(float(n[2])) for name, n in norms.items()}
    expected = float(made[2]["kernel"].square().sum().sqrt())
    assert one["kernel"] == pytest.approx(expected)


def test_similarity_is_the_matrix_of_cosines(made):
    vectors = torch.stack([torch.cat([d.flatten() for d in s.dense().values()]) for s in made])
    cosines = nn.functional.cosine_similarity(vectors[:, None], vectors, dim=-1)
    torch.testing.assert_close(made.similarity(), cosines)
    assert made.neighbours(1).others.tolist() == cosines.fill_diagonal_(-2).topk(1).indices.tolist()


def test_repr_says_what_it_is(made):
    assert re.fullmatch(r"Decomposition\(5 subnetworks over 4 tensors of .*Made\)", repr(made))


# Encode and decode


@EVERY
def test_encode_keeps_what_reaches_the_threshold(make, kind):
    made = make(selection=kind)
    gradients = gradients_for(made)
    coefficients = made.coefficients(gradients)
    torch.testing.assert_close(coefficients, gradients.flat @ made.encoder.flat().mT)
    encoded = made.encode_gradients(gradients)
    reached = coefficients.abs() >= made.threshold
    assert 0 < int(reached.sum()) < reached.numel()
    assert torch.equal(encoded, torch.where(reached, coefficients, 0))
    assert made.threshold.shape == ((5,) if kind == "jumprelu" else ())
    # Every row by itself.
    for i in range(gradients.n_rows):
        alone = made.encode_gradients(gradients.rows(slice(i, i + 1)))
        torch.testing.assert_close(alone, encoded[i : i + 1])


def test_a_coefficient_at_the_threshold_is_active(made):
    gradients = gradients_for(made)
    coefficients = made.coefficients(gradients)
    made.threshold.copy_(coefficients[0, 0].abs())
    assert float(made.encode_gradients(gradients)[0, 0]) == float(coefficients[0, 0])
    made.threshold.copy_(coefficients.abs().max() * (1 + 1e-12))
    assert not made.encode_gradients(gradients).any()


@EVERY
@pytest.mark.parametrize("rows", ["sample", "sampled-token", "token"])
def test_encoding_inputs_is_encoding_their_row_gradients(untrained, kind, rows):
    # Positions see those before.
    model = Made(
        lambda self, ids: self.head(torch.tanh(self.table(ids).cumsum(1))),
        table=nn.Embedding(7, 4),
        head=nn.Linear(4, 7),
    ).double()
    ids = torch.randint(0, 7, (10, 3))
    settings = {"divergence": "kl", "reference": "uniform", "rows": rows}
    made = untrained(Target(model), selection=kind, threshold=0.03, settings=settings)
    # By hand: the gradient of each row's KL to the uniform distribution, with autograd.
    every = []
    for sample in model(ids).log_softmax(-1):
        kl = -sample.mean(-1) - math.log(7)
        for value in [kl.sum()] if rows == "sample" else kl:
            parts = torch.autograd.grad(value, list(model.parameters()), retain_graph=True)
            every.append(torch.cat([part.flatten() for part in parts]))
    assert made.layout.names == [name for name, _ in model.named_parameters()]
    coefficients = torch.stack(every) @ made.encoder.flat().mT
    expected = coefficients * (coefficients.abs() >= made.threshold)
    assert expected.shape == (10 if rows == "sample" else 30, 5)
    assert 0 < int((expected != 0).sum()) < expected.numel()
    for model_or_target in (model, Target(model)):
        found = made.encode(model_or_target, ids)
        torch.testing.assert_close(found, expected)
        assert not found.requires_grad
    torch.testing.assert_close(made.encode(model, ids, batch_size=4), expected)
    # Another reference on request: now partners count, and they depend on the seed.
    others = [made.encode(model, ids, reference="another-row", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(others[0], others[1])
    assert not torch.equal(others[0], others[2])


@EVERY
@pytest.mark.parametrize("alone", [False, True])
def test_figures_of_data_are_those_of_their_source(untrained, kind, alone):
    model, data = nn.Linear(4, 3).double(), torch.randn(60, 4).double()
    made = untrained(Target(model), selection=kind, settings={"reference": "batch-mean"})
    found = made.evaluate(model, data, n_rows=90, batch_size=30, alone=alone, seed=3)
    source = GradientSource(Target(model), data, reference="batch-mean", seed=3)
    expected = evaluate(source, made.dictionary, n_rows=90, batch_size=30, alone=alone)
    assert (float(found.fvu), float(found.l0)) == (float(expected.fvu), float(expected.l0))
    assert found.n_rows == 90


def test_a_fixed_reference_comes_with_the_decomposition(untrained, tmp_path):
    model = nn.Linear(4, 3).double()
    data, output = torch.randn(6, 4).double(), torch.tensor([1.0, -2.0, 3.0]).double()
    made = untrained(Target(model), threshold=1e-9, reference=FixedOutput(output))
    loaded = Decomposition.from_pretrained(made.save_pretrained(tmp_path / "saved"))
    source = GradientSource(Target(model), data, reference=FixedOutput(output))
    expected = made.coefficients(source.gradients(source.rows_of(torch.arange(6))))
    for one in (made, loaded):
        assert one.reference is not None
        assert torch.equal(one.reference.output, output)
        torch.testing.assert_close(one.encode(model, data), expected)


def test_inputs_by_other_outputs_are_refused(untrained):
    model = nn.Linear(4, 3)
    made = untrained(Target(model), settings={"outputs": "default_outputs"})
    with pytest.raises(ValueError, match="outputs: expected .* 'default_outputs'; got '.*lambda"):
        made.encode(model, torch.randn(6, 4), outputs=lambda model, batch: model(batch))


def test_decode_is_coefficients_times_directions(made):
    coefficients = torch.randn(6, 5).double()
    decoded = made.decode(coefficients)
    assert {name: tuple(d.shape) for name, d in decoded.items()} == {
        t.name: (6, *t.shape) for t in made.layout.tensors
    }
    flat = torch.cat([d.reshape(6, -1) for d in decoded.values()], dim=1)
    torch.testing.assert_close(flat, coefficients @ made.decoder.flat())


# Files


@EVERY
@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_save_and_load_is_the_identity_to_the_bit(make, tmp_path, form, dtype, kind):
    made = make(form, dtype, selection=kind)
    folder = made.save_pretrained(tmp_path / "saved")
    loaded = Decomposition.from_pretrained(folder)
    for side in ("encoder", "decoder"):
        before, after = getattr(made, side), getattr(loaded, side)
        # Half precision is worked on in float32.
        assert after.weights.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        assert torch.equal(after.weights, before.weights)
        assert after.layout == before.layout
        assert not after.weights.requires_grad
    selection = loaded.dictionary.selection
    assert type(selection) is SELECTIONS[kind]
    assert selection.l0 == made.dictionary.selection.l0
    assert torch.equal(loaded.threshold, made.threshold)
    assert torch.equal(*(d.encode_gradients(gradients_for(made)) for d in (made, loaded)))
    assert loaded.target == made.target
    assert loaded.settings == made.settings
    assert loaded.metrics == made.metrics
    loaded.verify(target_of(dtype))
    # To another folder the same bytes.
    second = loaded.save_pretrained(str(tmp_path / "second"))
    for file in folder.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


@EVERY
def test_it_goes_to_another_type_and_device(make, tmp_path, kind):
    made = make(selection=kind)
    narrow = made.to(dtype=torch.float32)
    assert {p.dtype for p in narrow.dictionary.state_dict().values()} == {torch.float32}
    assert narrow.encode_gradients(gradients_for(narrow)).dtype == torch.float32
    torch.testing.assert_close(narrow.decoder.weights.double(), made.decoder.weights)
    assert made.decoder.weights.dtype == torch.float64  # it stays as it was
    assert made.to("meta").threshold.is_meta
    assert made.beside(torch.nn.Linear(2, 2)) is made
    assert made.beside(torch.nn.Linear(2, 2, device="meta")).decoder.weights.is_meta
    folder = made.save_pretrained(tmp_path / "saved")
    assert Decomposition.from_pretrained(folder, device="meta").encoder.weights.is_meta


def test_the_folder_holds_json_and_safetensors_only(make, tmp_path):
    folder = make(selection="jumprelu").save_pretrained(tmp_path / "deep" / "saved")
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", "subnetworks.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == FORMAT_VERSION == "2.0"
    assert config["n_subnetworks"] == 5
    assert config["selection"] == {"kind": "jumprelu", "l0": 1.0, "group_size": 1}
    # A pickle starts with 0x80; a safetensors file with the length of its JSON header.
    raw = (folder / "subnetworks.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header["decoder.linear.weight.factors.0"]["shape"] == [5, 3, 2]
    assert header["selection.log_threshold"]["shape"] == [5]
    assert "encoder.scale.core" in header


def test_overwrite_replaces_the_old_one_which_does_not_change_with_the_one_in_memory(
    made, tmp_path
):
    folder = made.save_pretrained(tmp_path / "saved")
    other = replace(made, metrics={"fvu": 9.0})
    made.decoder.weights.zero_()
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save_pretrained(folder, overwrite=False)
    loaded = Decomposition.from_pretrained(folder)
    assert loaded.metrics == made.metrics
    assert loaded.decoder.weights.any()
    other.save_pretrained(folder)
    assert Decomposition.from_pretrained(folder).metrics == {"fvu": 9.0}
    assert [f.name for f in tmp_path.iterdir()] == ["saved"]


def test_format_1_loads_and_gives_the_codes_that_it_gave(tmp_path):
    golden = read_tensors(GOLDEN / "format-1" / "expected.safetensors")
    model = nn.Sequential(nn.Embedding(4, 2), nn.Linear(2, 3)).double()
    model.load_state_dict({n.removeprefix("model."): t for n, t in golden.items() if "model" in n})
    loaded = Decomposition.from_pretrained(GOLDEN / "format-1")
    assert float(loaded.threshold) == 0.5
    assert loaded.dictionary.selection.kind == "batch-top-k"
    assert loaded.dictionary.selection.l0 == 1.5
    # In today's words, so that a run can be made again with these settings.
    today = {"rows": "sampled-token", "divergence": "half-reference-mse", "dense_warmup": 0.2}
    assert today.items() <= loaded.settings.items()
    fields = loaded.settings.keys() - {"rows", "divergence", "reference", "outputs", "engine"}
    TrainingConfig(**{name: loaded.settings[name] for name in fields})
    codes = loaded.encode(model, golden["ids"])  # a row per position
    torch.testing.assert_close(codes, golden["codes"], rtol=1e-12, atol=1e-12)
    # And is written again as the present one.
    again = Decomposition.from_pretrained(loaded.save_pretrained(tmp_path / "new"))
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["format_version"] == FORMAT_VERSION
    assert "threshold" not in config
    assert torch.equal(again.decoder.weights, loaded.decoder.weights)
    assert torch.equal(again.threshold, loaded.threshold)
    assert again.settings == loaded.settings


def test_piece_keys_name_the_modes():
    layout = make_layout({"w": (4, 2, 3), "b": (3,)}, {"w": (2, 2, 2), "b": 1})
    assert piece_keys(layout.tensors[0]) == ["core", "factors.0", "factors.2"]
    assert piece_keys(layout.tensors[1]) == ["core"]
    cp = make_layout({"w": (4, 2)}, 3, "cp")
    assert piece_keys(cp.tensors[0]) == ["factors.0", "factors.1"]


# Whose it is


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "same shapes, other values"),  # by 1e-12
        ({"parameters": ["*", "!linear.bias"]}, r"missing \['linear.bias'\], unknown \[\]"),
        ({"out": 2}, r"linear.weight of shape \[3, 4\].* got shape \[2, 4\]"),
        ({"dtype": torch.float32}, "type float64; got .* type float32"),
    ],
)
def test_another_target_is_refused(made, changes, said):
    made.verify(target_of())
    other = target_of(**changes)
    with torch.no_grad():
        other.model.scale += 1e-12
    with pytest.raises(ValueError, match=said):
        made.verify(other)


def test_a_decomposition_on_the_hub(tmp_path, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, allow_patterns))
        if name != "somebody/circuits":
            raise OSError("404 Client Error\nand more")
        return str(GOLDEN / "format-1")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", download)
    loaded = Decomposition.from_pretrained("somebody/circuits")
    assert len(loaded) == len(Decomposition.from_pretrained(GOLDEN / "format-1"))
    assert asked == [("somebody/circuits", ["config.json", "subnetworks.safetensors"])]
    with pytest.raises(FileNotFoundError, match=r"^folder: .*no folder here.*\(404 Client Error\)"):
        Decomposition.from_pretrained("somebody/else")


def test_a_folder_that_is_none_is_refused_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^folder: .*which does not exist. Check the path"):
        Decomposition.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "run" / "final").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="without a config.json"):
        Decomposition.from_pretrained(tmp_path / "run")
    (tmp_path / "run" / "final" / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="Load .*run/final"):
        Decomposition.from_pretrained(tmp_path / "run")


def test_what_a_notebook_shows_is_short():
    made = Decomposition.from_pretrained(GOLDEN / "format-1")
    html = made._repr_html_()
    assert html.count("<tr>") == 1 + len(made.layout.tensors)
    assert len(html) < 2000
    assert re.fullmatch(r"Subnetwork\(1: \d+% of its squared norm in [\w.]+\)", repr(made[1]))
