import io

from subscape._progress import bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn(file, **settings):
    assert list(bar("rows", range(3), file=file, **settings)) == [0, 1, 2]
    return file.getvalue()


def test_a_bar_is_drawn_in_a_terminal_and_not_into_a_log():
    assert "rows: 100%" in drawn(Terminal())
    assert drawn(io.StringIO()) == ""
    assert drawn(Terminal(), progress=False) == ""
