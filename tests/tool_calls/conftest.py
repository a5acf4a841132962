import pytest

from rest_trl.tool_calls import syntax


@pytest.fixture
def registry():
    """The table of syntaxes, which forgets after the test what the test adds."""
    before = dict(syntax._SYNTAXES)
    yield syntax._SYNTAXES
    syntax._SYNTAXES.clear()
    syntax._SYNTAXES.update(before)
