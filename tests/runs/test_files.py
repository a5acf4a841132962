import errno
import os

import pandas as pd
import pytest

from rest_trl.runs.files import write_atomically, write_table


class TestWriteAtomically:
    def test_leaves_what_was_there_if_it_cannot_write(self, tmp_path, monkeypatch):
        path = tmp_path / "file"
        write_atomically(path, "old")

        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=f"cannot write {path}: No space left on device"):
            write_atomically(path, "new")
        assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


class TestWriteTable:
    def test_a_torn_write_leaves_what_was_there(self, tmp_path, monkeypatch):
        path = tmp_path / "table.parquet"
        table = pd.DataFrame({"step": [1]})
        write_table(table, path)

        def broken(table, file, **arguments):
            file.write(b"PAR1")
            raise OSError("disk full")

        monkeypatch.setattr(pd.DataFrame, "to_parquet", broken)
        with pytest.raises(OSError, match="disk full"):
            write_table(pd.DataFrame({"step": [2]}), path)
        assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]
        pd.testing.assert_frame_equal(pd.read_parquet(path), table)
