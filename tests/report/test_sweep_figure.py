import math
import sys

import pytest

from subscape.report import sweep_figure
from subscape.report.sweep_figure import draw_grid, draw_sweep

plotting = sys.modules["subscape.report.plotting"]

SWEEP = dict(
    subnetwork=3,
    delta=[-1.0, 0.0, 1.0],
    relevant=[2.0, 0.0, None],
    drawn_at_random=[0.5, 0.0, 0.25],
    random_direction=[0.1, 0.0, 0.1],
    unit="nats",
)
CHANGE = [[0.0, 1.0], [None, 2.0]]
GRID = dict(subnetwork=3, beside=1, delta=[0.0, 0.5], change=CHANGE, unit="nats")


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn."""
    made = []

    def keeping(size):
        made.append(plotting.new_figure(size))
        return made[-1]

    monkeypatch.setattr(sweep_figure, "new_figure", keeping)
    return made


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_files_of_every_kind(tmp_path, ending):
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    draw_sweep(tmp_path / f"s.{ending}", SWEEP)
    draw_grid(tmp_path / f"g.{ending}", GRID)
    for name in "sg":
        assert (tmp_path / f"{name}.{ending}").read_bytes().startswith(starts[ending])


def test_what_is_not_finite_is_a_gap_and_no_zero(tmp_path, figures):
    draw_sweep(tmp_path / "s.png", SWEEP)
    (axes,) = figures[0].axes
    curves = {line.get_label(): line for line in axes.lines}
    assert set(curves) == {"top samples", "rows drawn at random", "random direction, top samples"}
    values = curves["top samples"].get_ydata()
    assert list(values[:2]) == [2, 0]
    assert math.isnan(values[2])
    assert list(curves["rows drawn at random"].get_ydata()) == [0.5, 0, 0.25]
    assert axes.get_xlabel() == "δ along subnetwork 3"
    assert axes.get_ylabel() == "mean change of outputs (nats)"


def test_a_grid_shows_both_axes_the_right_way(tmp_path, figures):
    draw_grid(tmp_path / "g.png", GRID)
    axes, bar = figures[0].axes
    (image,) = axes.images
    values = image.get_array()
    # Rows are δ of the subnetwork, upwards.
    assert (values[0, 0], values[0, 1], values[1, 1]) == (0, 1, 2)
    assert values.mask[1, 0]
    assert image.origin == "lower"
    assert axes.get_ylabel() == "δ along subnetwork 3"
    assert axes.get_xlabel() == "δ along subnetwork 1"
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "0.5"]
    assert bar.get_ylabel() == "mean change of outputs (nats)"
    # Its labels are not cut off.
    (figure,) = figures
    figure.draw_without_rendering()
    for axis in (axes.xaxis, axes.yaxis):
        box = axis.label.get_window_extent()
        assert min(box.x0, box.y0) >= 0


def test_all_not_finite(tmp_path):
    """Far out nothing is finite; the picture is empty, and no error. No state is left in matplotlib."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    before = pyplot.get_fignums()
    draw_sweep(tmp_path / "s.png", SWEEP | {"relevant": [None] * 3})
    draw_grid(tmp_path / "g.png", GRID | {"change": [[None, None]] * 2})
    assert all((tmp_path / f"{name}.png").is_file() for name in "sg")
    assert pyplot.get_fignums() == before
