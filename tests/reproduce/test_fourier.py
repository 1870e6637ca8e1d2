import math

import pytest
import torch

from subscape.reproduce.fourier import fourier_terms, frequency_shares

P = 11
A, B = torch.meshgrid(torch.arange(P).double(), torch.arange(P).double(), indexing="ij")


def wave(k, x):
    return (2 * math.pi * k * x / P + 0.3).cos()


@pytest.mark.parametrize(
    ("values", "label"),
    [
        (wave(3, A) + wave(3, B), "100% cos(3a)+cos(3b)"),
        (wave(9, A), "100% cos(2a)+cos(2b)"),
        (wave(4, A + B), "100% cos(4a+4b)"),
        (wave(4, A - B), "100% cos(4a-4b)"),
        (wave(2, A) * wave(5, B), "100% cos(2a)cos(5b)"),
    ],
)
def test_pure_waves_are_named(values, label):
    assert [str(t) for t in fourier_terms(7 + 3 * values)] == [label]


def test_shares_are_those_of_the_variance_and_the_largest_seven_are_kept():
    # Variances 1/2 each, times 9 and 1.
    values = 3 * wave(2, A + B) + wave(5, A - B)
    terms = fourier_terms(values)
    assert [t.share for t in terms] == pytest.approx([0.9, 0.1])
    assert list(frequency_shares(values)) == [2, 5]
    assert fourier_terms(torch.ones(P, P)) == []
    with pytest.raises(ValueError, match="square"):
        fourier_terms(torch.ones(P, P + 1))
    terms = fourier_terms(torch.randn(P, P).double())
    shares = [t.share for t in terms]
    assert len(terms) == 7
    assert shares == sorted(shares, reverse=True)
