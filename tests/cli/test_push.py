"""`subscape push`, up to where the Hub begins; beyond that see tests/subnetworks/test_hub.py."""

import pytest

from subscape.cli.main import main
from subscape.report.page import is_page
from subscape.subnetworks.decomposition import Decomposition


@pytest.mark.parametrize(
    ("run", "more", "expected"),
    [
        ("stories", [], {"base_model": "llama", "private": True, "report": True}),
        ("net", ["--public"], {"base_model": None, "private": False, "report": True}),
        ("net", ["--no-report"], {"base_model": None, "private": True, "report": False}),
        ("bare", [], {"base_model": None, "private": True, "report": False}),
    ],
)
def test_what_is_pushed(folder, monkeypatch, capsys, run, more, expected):
    asked = {}

    def pushed(self, repository, **options):
        report = options["report"]
        asked.update(options, repository=repository, report=report is not None and is_page(report))
        return "https://hub/me/it"

    monkeypatch.setattr(Decomposition, "push_to_hub", pushed)
    assert main(["push", run, "me/it", *more]) == 0
    assert asked == {"repository": "me/it"} | expected
    assert "https://hub/me/it" in capsys.readouterr().out


def test_refusals(folder, capsys):
    assert main(["push", "net", "no-slash", "--no-report"]) == 2
    assert "repository: expected user/repository; got 'no-slash'" in capsys.readouterr().err
