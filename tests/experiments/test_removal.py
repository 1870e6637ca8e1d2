import json
from importlib import import_module


def test_it_runs_goes_on_and_writes_its_tables(experiments, monkeypatch, tmp_path, page, capsys):
    removal, removal_methods = map(import_module, ("removal", "removal_methods"))
    monkeypatch.setattr(removal, "LEAN", {"decay": 0.02, "penalty": 10.0, "steps": 3})
    few = {"n_subnetworks": 3, "rank": 1, "l0": 1.0, "batch_size": 32, "n_heldout_rows": 64}
    monkeypatch.setattr(removal, "OPTIONS", few)
    sizes = {"N_OWN": 3, "N_PLAIN": 4, "N_TEST": 4, "N_PRINCIPAL": 4, "N_OTHERS": 4}
    main, other = (removal.Cell(rank, 0.01, 1, 1) for rank in (1, 2))
    monkeypatch.setattr(removal, "CELLS", [main, other])
    monkeypatch.setattr(removal, "MAIN", main)
    for name, value in (sizes | {"AWAY_STEPS": 2, "START": 0.5}).items():
        monkeypatch.setattr(removal_methods, name, value)
    call = ["--out", str(tmp_path / "out"), "--cells", "2", "--sets", "1", "--steps", "2"]
    removal.main([*call, "--write", str(page)])
    first = capsys.readouterr().out
    assert "rank-1-share-0.01 0: " in first
    text = page.read_text(encoding="utf-8")
    for title in removal_methods.METHODS.values():
        assert f"| {title} |" in text
    assert "| 2 | 1.0% | 1 |" in text
    assert text.endswith("after\n")
    record = json.loads((tmp_path / "out" / "rank-1-share-0.01-0.json").read_text())
    for rule in record["rules"]:
        assert 0 <= rule["subnetwork"]["auroc"] <= 1
        assert 0 <= rule["subnetwork"]["cosine"] <= 1
        assert rule["random"]["elsewhere"] >= 0
    removal.main(call)
    again = capsys.readouterr().out
    assert "rank-1-share-0.01 0: " not in again
    assert again.strip() == first[first.index("Rank 1") :].strip()
