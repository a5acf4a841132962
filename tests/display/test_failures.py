import logging

import pytest
from accelerate import PartialState

from rest_trl.lab.display.failures import warned_if_failing


@pytest.fixture(autouse=True)
def state():
    PartialState()  # accelerate's loggers need it


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
