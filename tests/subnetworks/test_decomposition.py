import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from subscape import Decomposition, Target
from subscape.gradients import DenseRowGradients
from subscape.lowrank import initial_stack, make_layout
from subscape.subnetworks.decomposition import FORMAT_VERSION, piece_keys


class Model(nn.Module):
    """A matrix, a kernel, a vector and a scalar."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3, dtype=dtype)
        self.kernel = nn.Parameter(torch.randn(3, 2, 2, dtype=dtype))
        self.scale = nn.Parameter(torch.ones((), dtype=dtype))


def target_of(dtype: torch.dtype = torch.float64, **changes) -> Target:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Target(Model(dtype), **changes)


def make(form: str = "tucker", dtype: torch.dtype = torch.float64) -> Decomposition:
    target = target_of(dtype)
    layout = make_layout(target.shapes, 2, form)
    stacks = [
        initial_stack(layout, (5,), torch.Generator().manual_seed(seed), target.like)
        for seed in (0, 1)
    ]
    return Decomposition(
        encoder=stacks[0],
        decoder=stacks[1],
        threshold=0.1 + 1e-17 + 1 / 3,
        target=target.fingerprint(),
        settings={"rank": 2, "seed": 0},
        metrics={"fvu": 1 / 7, "active_rate": [0.1, 0.2]},
    )


def gradients_for(made: Decomposition, n: int = 6) -> DenseRowGradients:
    flat = torch.randn(n, made.layout.n_parameters, generator=torch.Generator().manual_seed(2))
    shapes = {t.name: t.shape for t in made.layout.tensors}
    return DenseRowGradients(flat.to(made.decoder.weights.dtype), shapes)


# A sequence of subnetworks


def test_length_indexing_and_iteration():
    made = make()
    assert len(made) == 5
    assert [s.index for s in made] == [0, 1, 2, 3, 4]
    assert [s.index for s in (made[0], made[4], made[-1], made[-5])] == [0, 4, 4, 0]
    assert torch.equal(made[-1].stack.weights, made.decoder.weights[4])
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"from 0 to 4; got {index}"):
            made[index]


def test_a_subnetwork_is_a_row_of_the_decoder():
    made = make()
    dense = made.decoder.dense()
    subnetwork = made[3]
    assert list(subnetwork.dense()) == ["kernel", "scale", "linear.weight", "linear.bias"]
    for name, direction in dense.items():
        torch.testing.assert_close(subnetwork[name], direction[3], rtol=1e-13, atol=1e-15)
    with pytest.raises(KeyError, match="one of"):
        subnetwork["linear.wait"]


def test_norms_square_to_one():
    made = make()
    norms = made.norms()
    assert list(norms) == made.layout.names
    total = torch.stack([n.square() for n in norms.values()]).sum(0)
    torch.testing.assert_close(total, torch.ones(5).double())
    one = made[2].norms()
    assert one == {name: pytest.approx(float(n[2])) for name, n in norms.items()}
    expected = float(made[2]["kernel"].square().sum().sqrt())
    assert one["kernel"] == pytest.approx(expected)


def test_similarity_is_the_matrix_of_cosines():
    made = make()
    found = made.similarity()
    vectors = [torch.cat([d.flatten() for d in s.dense().values()]) for s in made]
    for i, a in enumerate(vectors):
        for j, b in enumerate(vectors):
            cosine = torch.nn.functional.cosine_similarity(a, b, dim=0)
            torch.testing.assert_close(found[i, j], cosine)


def test_repr_says_what_it_is():
    assert re.fullmatch(r"Decomposition\(5 subnetworks over 4 tensors of .*Model\)", repr(make()))


# Encode and decode


def test_encode_keeps_what_reaches_the_threshold():
    made = make()
    gradients = gradients_for(made)
    coefficients = made.coefficients(gradients)
    torch.testing.assert_close(coefficients, gradients.flat @ made.encoder.flat().mT)
    encoded = made.encode(gradients)
    reached = coefficients.abs() >= made.threshold
    assert 0 < int(reached.sum()) < reached.numel()
    assert torch.equal(encoded, torch.where(reached, coefficients, 0))


def test_a_coefficient_at_the_threshold_is_active():
    made = make()
    gradients = gradients_for(made)
    coefficients = made.coefficients(gradients)
    at = replace(made, threshold=float(coefficients[0, 0].abs()))
    assert float(at.encode(gradients)[0, 0]) == float(coefficients[0, 0])
    above = replace(made, threshold=float(coefficients.abs().max()) * (1 + 1e-12))
    assert not above.encode(gradients).any()


def test_encode_sees_every_row_by_itself():
    made = make()
    gradients = gradients_for(made)
    whole = made.encode(gradients)
    for i in range(gradients.n_rows):
        alone = made.encode(gradients.rows(slice(i, i + 1)))
        torch.testing.assert_close(alone, whole[i : i + 1])


def test_decode_is_coefficients_times_directions():
    made = make()
    coefficients = torch.randn(6, 5).double()
    decoded = made.decode(coefficients)
    assert {name: tuple(d.shape) for name, d in decoded.items()} == {
        t.name: (6, *t.shape) for t in made.layout.tensors
    }
    flat = torch.cat([d.reshape(6, -1) for d in decoded.values()], dim=1)
    torch.testing.assert_close(flat, coefficients @ made.decoder.flat())


# Files


@pytest.mark.parametrize("form", ["tucker", "cp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_save_and_load_is_the_identity_to_the_bit(tmp_path: Path, form: str, dtype: torch.dtype):
    made = make(form, dtype)
    folder = made.save_pretrained(tmp_path / "saved")
    loaded = Decomposition.from_pretrained(folder)
    for side in ("encoder", "decoder"):
        before, after = getattr(made, side), getattr(loaded, side)
        # Half precision is worked on in float32.
        assert after.weights.dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)
        assert torch.equal(after.weights, before.weights)
        assert after.layout == before.layout
    assert loaded.threshold == made.threshold
    assert loaded.target == made.target
    assert loaded.settings == made.settings
    assert loaded.metrics == made.metrics
    loaded.verify(target_of(dtype))


def test_a_second_save_writes_the_same_bytes(tmp_path: Path):
    first = make().save_pretrained(tmp_path / "first")
    second = Decomposition.from_pretrained(str(first)).save_pretrained(str(tmp_path / "second"))
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_the_folder_holds_json_and_safetensors_only(tmp_path: Path):
    folder = make().save_pretrained(tmp_path / "deep" / "saved")
    assert sorted(f.name for f in folder.iterdir()) == ["config.json", "subnetworks.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == FORMAT_VERSION
    assert config["n_subnetworks"] == 5
    # A pickle starts with 0x80; a safetensors file with the length of its JSON header.
    raw = (folder / "subnetworks.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert header["decoder.linear.weight.factors.0"]["shape"] == [5, 3, 2]
    assert "encoder.scale.core" in header


def test_a_saved_decomposition_does_not_change_with_the_one_in_memory(tmp_path: Path):
    made = make()
    folder = made.save_pretrained(tmp_path / "saved")
    made.decoder.weights.zero_()
    assert Decomposition.from_pretrained(folder).decoder.weights.abs().sum() > 0


def test_overwrite_replaces_the_old_one(tmp_path: Path):
    made = make()
    made.save_pretrained(tmp_path / "saved")
    other = replace(made, threshold=9.0)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save_pretrained(tmp_path / "saved")
    assert Decomposition.from_pretrained(tmp_path / "saved").threshold == made.threshold
    other.save_pretrained(tmp_path / "saved", overwrite=True)
    assert Decomposition.from_pretrained(tmp_path / "saved").threshold == 9.0
    assert [f.name for f in tmp_path.iterdir()] == ["saved"]


def test_piece_keys_name_the_modes():
    layout = make_layout({"w": (4, 2, 3), "b": (3,)}, {"w": (2, 2, 2), "b": 1})
    assert piece_keys(layout.tensors[0]) == ["core", "factors.0", "factors.2"]
    assert piece_keys(layout.tensors[1]) == ["core"]
    cp = make_layout({"w": (4, 2)}, 3, "cp")
    assert piece_keys(cp.tensors[0]) == ["factors.0", "factors.1"]


# Whose it is


def test_verify_accepts_the_very_target():
    make().verify(target_of())


def test_verify_refuses_other_values():
    target = target_of()
    with torch.no_grad():
        target.model.scale += 1e-12
    with pytest.raises(ValueError, match="same shapes, other values"):
        make().verify(target)


def test_verify_refuses_other_names():
    with pytest.raises(ValueError, match=r"missing \['linear.bias'\], unknown \[\]"):
        make().verify(target_of(parameters=["*", "!linear.bias"]))


def test_verify_refuses_other_shapes_and_dtypes():
    other = Model(torch.float64)
    other.linear = nn.Linear(4, 2, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"linear.weight of shape \[3, 4\].* got shape \[2, 4\]"):
        make().verify(Target(other))
    with pytest.raises(ValueError, match="type float64; got .* type float32"):
        make().verify(target_of(torch.float32))
