"""`show` in Python: what the widget holds, and what it says where something is missing."""

import sys
from dataclasses import replace

import pytest

import subscape


@pytest.fixture(autouse=True)
def installed():
    pytest.importorskip("anywidget")


def test_the_widget_holds_the_report_and_the_open_card(measured):
    found, measures, _ = measured
    widget = found.show(3, measures)
    assert widget.subnetwork == 3
    assert "<!doctype html>" in widget.page and '"moving"' not in widget.page
    state = widget.get_state()
    assert state["page"] == widget.page and state["subnetwork"] == 3 and state["height"] == 680
    assert "render" in state["_esm"]
    assert found.show(None, measures).subnetwork is None
    assert subscape.show(found, measures, -1).subnetwork == 3


def test_with_a_model_cards_have_sliders(measured):
    found, measures, model = measured
    assert '"moving":{"rows":{"' in found.show(0, measures, model=model).page


def test_measures_may_be_in_a_folder(measured, tmp_path):
    found, measures, _ = measured
    measures.save(tmp_path)
    assert found.show(1, tmp_path).page == found.show(1, measures).page


def test_another_card_can_be_opened_but_none_that_is_not_there(measured):
    found, measures, _ = measured
    widget = found.show(0, measures, height=300)
    widget.subnetwork = 2
    assert widget.get_state()["subnetwork"] == 2
    with pytest.raises(ValueError, match="from 0 to 3, or None for the list; got 4"):
        widget.subnetwork = 4
    assert widget.subnetwork == 2
    with pytest.raises(ValueError, match="from 0 to 3"):
        found.show(9, measures)


def test_in_words_and_where_no_widgets_run(measured, monkeypatch):
    found, measures, _ = measured
    widget = found.show(0, measures)
    assert repr(widget) == "Subnetworks(4, 0 open)"
    widget.subnetwork = None
    assert repr(widget) == "Subnetworks(4, the list)"
    still = widget._repr_html_()
    assert still.startswith("<iframe") and still.endswith('#subnetworks"></iframe>')
    monkeypatch.setattr("subscape.notebook.widget.EMBEDDED", 100)
    assert "too large" in widget._repr_html_()


def test_without_measures_it_says_what_to_do(measured):
    found, _, _ = measured
    with pytest.raises(ValueError, match=r"Measure first.*subscape.measure\(found, model, data\)"):
        found.show(3)


def test_measures_of_another_decomposition_are_refused(measured):
    found, measures, _ = measured
    with pytest.raises(ValueError, match="of another one"):
        found.show(0, replace(measures, decomposition="another"))


def test_without_anywidget_it_says_what_to_install(measured, monkeypatch):
    found, measures, _ = measured
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r"in a notebook.*pip install 'subscape\[notebook\]'"):
        found.show(3, measures)
