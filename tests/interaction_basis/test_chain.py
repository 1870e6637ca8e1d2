import pytest
import torch
from torch import nn

from subscape.interaction_basis import Affine, BasisConfig, Chain, build_bases, check_chain


def rows(n=8, width=3):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("name", ["tanh", "mod-add", "linear", "sequence"])
def test_nodes_parts_and_tail_agree(example, name):
    case = example(name)
    chain = case.chain
    nodes = chain.nodes(case.inputs)
    assert len(nodes) == len(chain.names) == len(chain) + 1
    for layer in range(len(chain) + 1):
        assert torch.equal(chain.tail(layer, nodes[layer]), chain.outputs(case.inputs))
    assert torch.equal(chain.part(0, len(chain))(nodes[0]), nodes[-1])
    assert torch.equal(chain.part(1, 2)(nodes[1]), nodes[2])
    assert len(chain.nodes(case.inputs, 1)) == 2
    assert check_chain(chain, case.inputs) == [n.shape[-1] for n in nodes]


def test_names_must_fit_the_sections():
    with pytest.raises(
        ValueError, match="names: expected one name more than the 1 sections; got 1"
    ):
        Chain(("a",), (torch.tanh,))
    with pytest.raises(ValueError, match="a name of its own"):
        Chain(("a", "a"), (torch.tanh,))
    with pytest.raises(ValueError, match="sections: expected at least one section"):
        Chain(("a",), ())
    with pytest.raises(ValueError, match="isolated: expected one count for each of the 2"):
        Chain(("a", "b"), (torch.tanh,), isolated=(1,))


def test_a_section_that_does_not_fit_the_next_is_named():
    first, second = (
        Affine(torch.zeros(3, 4).double(), torch.zeros(4).double()),
        Affine(torch.zeros(5, 2).double(), torch.zeros(2).double()),
    )
    chain = Chain(("x", "hidden", "y"), (first, second))
    with pytest.raises(
        ValueError, match=r"sections\[1\]: expected a section that takes .*'hidden'"
    ):
        check_chain(chain, rows())
    with pytest.raises(ValueError, match=r"sections\[1\]"):
        build_bases(chain, rows())


def test_sections_that_mix_samples_are_refused():
    chain = Chain(("x", "y"), (lambda f: f - f.mean(0),))
    with pytest.raises(ValueError, match=r"sections\[0\]: expected every sample by itself.*eval"):
        build_bases(chain, rows())
    norm = nn.BatchNorm1d(3).double()
    # One sample alone has no variance: torch's own error, said of this section.
    with pytest.raises(
        ValueError, match=r"sections\[0\]: .*more than 1 value.*batch normalisation"
    ):
        check_chain(Chain(("x", "y"), (norm,)), rows())
    check_chain(Chain(("x", "y"), (norm.eval(),)), rows())


def test_a_section_that_drops_samples_or_gives_integers_is_refused():
    with pytest.raises(ValueError, match=r"'y'.*2 samples"):
        check_chain(Chain(("x", "y"), (lambda f: f[:1],)), rows())
    with pytest.raises(ValueError, match="int64"):
        check_chain(Chain(("x", "y"), (lambda f: f.long(),)), rows())


def test_activations_that_are_not_finite_are_refused():
    inputs = rows()
    inputs[5, 1] = torch.nan
    chain = Chain(("x", "y"), (torch.tanh,))
    with pytest.raises(ValueError, match="'x'.*finite activations; got 1 of 24"):
        build_bases(chain, inputs)
    with pytest.raises(ValueError, match="'y'.*finite"):
        build_bases(Chain(("x", "y"), (lambda f: f / 0,)), rows())


def test_fewer_data_points_than_dimensions_says_what_rank_is_left():
    chain = Chain(("x", "y"), (torch.tanh,))
    with pytest.raises(ValueError, match="more data points than the 3 .* rank of at most 2"):
        build_bases(chain, rows(3))
    bases = build_bases(chain, rows(3), BasisConfig(allow_low_rank=True))
    assert bases.pca[0].rank == 2


def test_equal_samples_do_not_hide_that_a_section_mixes_them():
    inputs = rows()
    inputs[1:4] = inputs[0]
    with pytest.raises(ValueError, match=r"sections\[0\]: expected every sample by itself"):
        check_chain(Chain(("x", "y"), (lambda f: f - f.mean(0),)), inputs)
    # One sample alone, or only equal ones, show nothing and are no error here.
    check_chain(Chain(("x", "y"), (torch.tanh,)), inputs[:3])


@pytest.mark.parametrize(
    "wrong", [lambda f: f[:, [7]], lambda f: f.reshape(2, 2), lambda f: f + ""]
)
def test_any_error_of_a_section_names_the_section(wrong):
    with pytest.raises(ValueError, match=r"sections\[1\]: expected a section that takes .*'mid'"):
        check_chain(Chain(("x", "mid", "y"), (torch.tanh, wrong)), rows())
