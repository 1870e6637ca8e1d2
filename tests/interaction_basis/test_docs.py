import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "interaction-basis.md"


def test_the_code_of_the_page_runs(capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(block, {})
    assert capsys.readouterr().out.startswith("[")


def test_the_settings_of_the_page_are_settings():
    import tomllib

    from subscape.cli import toml
    from subscape.cli.basis import BasisFile

    (block,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    config = toml.build(BasisFile, tomllib.loads(block), "the page")
    assert config.basis.last == "raw"
