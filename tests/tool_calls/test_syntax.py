import importlib
import sys

import pytest

from rest_trl.tool_calls import SYNTAXES, Evidence, ParsedCompletion, ToolCallSyntax, get_syntax
from rest_trl.tool_calls.markers import HermesSyntax


MODULE = """
from rest_trl.tool_calls import ParsedCompletion, ToolCallSyntax

NOTHING = None

class Nameless(ToolCallSyntax):
    def parse(self, text):
        return ParsedCompletion()

class MySyntax(Nameless):
    name = "mine"
    markers = ("<mine>",)
"""


@pytest.fixture
def my_module(tmp_path, monkeypatch, registry):
    """A user's module, which nothing has imported yet."""
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "my_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_package.my_module"
    for name in ("my_package", "my_package.my_module"):
        sys.modules.pop(name, None)


def define(name="mine", base=ToolCallSyntax, **attributes):
    """A syntax that reads nothing, as if it stood in a module of its own."""
    attributes = {"__module__": "theirs", "parse": lambda self, text: ParsedCompletion()} | attributes
    return type("Syntax", (base,), {"name": name, **attributes})


class TestGetSyntax:
    def test_gives_every_syntax_by_its_name(self):
        assert all(get_syntax(name).name == name for name in SYNTAXES)

    def test_names_the_choices_when_there_is_none(self):
        with pytest.raises(ValueError, match=r"unknown tool_call_syntax 'json': choose one of .*hermes, .*rlla"):
            get_syntax("json")

    def test_finds_a_user_s_own_by_name_once_its_module_is_imported(self, my_module):
        with pytest.raises(ValueError, match="unknown tool_call_syntax 'mine'"):
            get_syntax("mine")
        module = importlib.import_module(my_module)
        assert type(get_syntax("mine")) is SYNTAXES["mine"] is module.MySyntax

    def test_imports_a_user_s_own_by_its_dotted_path(self, my_module):
        syntax = get_syntax(f"{my_module}.MySyntax")
        assert (syntax.name, syntax.markers) == ("mine", ("<mine>",))
        assert type(get_syntax("mine")) is type(syntax)

    @pytest.mark.parametrize(
        ("path", "reason"),
        [
            ("my_package.no_module.MySyntax", r"cannot be imported \(No module named .*\): give one of .*hermes"),
            ("my_package.my_module.Other", "cannot be imported .*has no attribute"),
            ("..MySyntax", "cannot be imported"),
            ("my_package.my_module.NOTHING", "is not a subclass of rest_trl.tool_calls.ToolCallSyntax"),
            ("pathlib.Path", "is not a subclass"),
            ("my_package.my_module.Nameless", "has no name: set the class attribute `name`"),
        ],
    )
    def test_says_why_a_path_leads_to_no_syntax(self, path, reason, my_module):
        with pytest.raises(ValueError, match=reason):
            get_syntax(path)


class TestRegistration:
    def test_a_class_without_a_name_of_its_own_is_no_syntax(self, registry):
        before = dict(SYNTAXES)

        class Base(HermesSyntax):
            markers = ("<call>",)

        assert dict(SYNTAXES) == before
        assert isinstance(get_syntax("hermes"), HermesSyntax) and not isinstance(get_syntax("hermes"), Base)

    def test_two_of_one_name_are_refused_and_both_are_named(self, registry):
        with pytest.raises(ValueError, match=r"two .* named 'hermes', .*markers.HermesSyntax and theirs.Syntax: give"):
            define("hermes")
        assert SYNTAXES["hermes"] is HermesSyntax

    def test_a_class_that_is_defined_again_replaces_itself(self, registry):
        define()
        second = define()
        assert SYNTAXES["mine"] is second

    def test_what_is_true_of_one_syntax_only_is_not_inherited(self, registry):
        parent = define("parent", evidence=(Evidence(("<a>",)),), vllm_parser="a", untyped=True, markers=("<a>",))
        child = define("child", base=parent)
        assert (child.evidence, child.vllm_parser) == ((), None)
        assert (child.untyped, child.markers) == (True, ("<a>",))

    def test_the_table_is_read_only(self):
        with pytest.raises(TypeError):
            SYNTAXES["mine"] = HermesSyntax


class TestReadValue:
    @pytest.mark.parametrize("text", ["1 2", '"x" y', '"x" "y"', "[1] ]", "{} 1", "1}", "1, 2", "1\u00a0"])
    def test_refuses_text_after_json(self, text):
        with pytest.raises(ValueError, match="text after the value"):
            get_syntax("hermes").read_value(text)

    def test_ignores_white_space_around_json(self):
        assert get_syntax("hermes").read_value(' \n{"a": [1, "x"]}\t\r\n') == {"a": [1, "x"]}

    @pytest.mark.parametrize("text", ["1}", "{a:1}}", "1}}", "[1]}", "1,y:2", "1,x:2"])
    @pytest.mark.parametrize("name", ["gemma4", "functiongemma"])
    def test_refuses_text_after_a_value_of_gemma(self, name, text):
        with pytest.raises(ValueError, match="text after the value"):
            get_syntax(name).read_value(text)

    @pytest.mark.parametrize("text", ["1)", "1)]", "1)] 2", "1), g(y=2", "1, y=2", "1, x=2", "1 2", "[1] 'x'"])
    @pytest.mark.parametrize("name", ["pythonic", "lfm2"])
    def test_refuses_text_after_a_value_of_python(self, name, text):
        with pytest.raises(ValueError, match=r"text after the value|expected, not"):
            get_syntax(name).read_value(text)
