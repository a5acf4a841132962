import pytest

from rest_trl.rewards import get_reward_func


class Needy:
    def __init__(self, judge):
        self.judge = judge

    def __call__(self, completions, **kwargs):
        return [0.0] * len(completions)


class Broken:
    def __init__(self):
        self.number = 1 + "1"

    def __call__(self, completions, **kwargs):
        return [0.0] * len(completions)


class TestNames:
    def test_of_a_class_that_needs_arguments_are_refused(self):
        message = r"Needy' cannot be made without arguments .*'judge'.*: give all parameters .* a default"
        with pytest.raises(ValueError, match=message) as error:
            get_reward_func(f"{__name__}.Needy")
        assert "\n" not in str(error.value)

    def test_of_a_class_that_fails_show_where_it_fails(self):
        with pytest.raises(TypeError, match="unsupported operand"):
            get_reward_func(f"{__name__}.Broken")
