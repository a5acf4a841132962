import logging

import pytest
from matplotlib.figure import Figure

from rest_trl.lab.display.writing import markdown_table, warned_if_failing, write_figure


class TestMarkdownTable:
    def test_has_a_line_for_each_row(self):
        assert markdown_table(["a", "b"], [["c", 1], ["d", None]]).splitlines() == [
            "| a | b |",
            "| --- | --- |",
            "| c | 1 |",
            "| d | None |",
        ]


class TestWriteFigure:
    def test_writes_the_picture_alone(self, tmp_path):
        write_figure(Figure(), tmp_path / "figure.png", dpi=10)
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]

    def test_leaves_what_was_there_if_it_fails(self, tmp_path, monkeypatch):
        def fail(self, path, **kwargs):
            path.write_text("half")
            raise OSError("No space left on device")

        (tmp_path / "figure.png").write_text("old")
        monkeypatch.setattr(Figure, "savefig", fail)
        with pytest.raises(OSError, match="No space"):
            write_figure(Figure(), tmp_path / "figure.png", dpi=10)
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


class TestWarnedIfFailing:
    def test_passes_over_a_failure_with_one_line(self, caplog):
        with caplog.at_level(logging.WARNING), warned_if_failing("The card"):
            raise RuntimeError("first\n  second")
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        line = "The card was not written, and the run goes on without it: RuntimeError: first second"
        assert record.getMessage().endswith(line)

    def test_says_nothing_otherwise(self, caplog):
        with caplog.at_level(logging.WARNING), warned_if_failing("The card"):
            pass
        assert not caplog.records

    def test_does_not_hold_up_the_end_of_the_program(self):
        with pytest.raises(KeyboardInterrupt), warned_if_failing("The card"):
            raise KeyboardInterrupt
