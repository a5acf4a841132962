import httpx
import pytest

from rest_trl.runs.endings import INTERRUPTED, one_line, setup_errors


class TestSetupErrors:
    @pytest.mark.parametrize(
        ("said", "line"),
        [
            ({}, "prog: interrupted before training started"),
            ({"before": "the report was written"}, "prog: interrupted before the report was written"),
        ],
    )
    def test_say_before_what_ctrl_c_came(self, capsys, said, line):
        with pytest.raises(SystemExit) as error, setup_errors("prog", **said):
            raise KeyboardInterrupt
        assert error.value.code == INTERRUPTED
        assert capsys.readouterr().err.splitlines()[-1] == line


class TestOneLine:
    def test_says_that_the_hub_was_meant(self):
        error = httpx.ConnectError("[Errno -2] Name or service not known")
        assert one_line(error).startswith("the Hugging Face Hub cannot be reached ([Errno -2] Name")
        assert one_line(ValueError("a\n b")) == "a b"
