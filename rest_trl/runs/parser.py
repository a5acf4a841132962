"""Reads a recipe and a command line, and reports in one line what is wrong in them."""

import argparse
import dataclasses
import sys
import types
import typing
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from trl import TrlParser

from ..spelling import HintingParser, did_you_mean
from .recipes import find_recipe, load_arm, read_recipe, take_arms, with_arms


_DESCRIPTIONS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
}


class RecipeParser(HintingParser, TrlParser):
    """
    Parser of a recipe (`--config RECIPE` or `--config=RECIPE`: a file, or the name of one that comes with the
    package), of arms (`--arm NAME`, which can be repeated: see [`~rest_trl.runs.recipes.with_arms`]), and of arguments
    that override both.

    It refuses more than [`~trl.TrlParser`]: the error for an unknown argument names the nearest known one, and a value
    in a recipe must have the type of its argument, whereas TRL passes any value on.
    """

    _arms: Sequence[str] = ()

    def parse_args_and_config(self, args: Iterable[str] | None = None, *pos: Any, **kwargs: Any) -> tuple[Any, ...]:
        """See [`~trl.TrlParser`]; raises `ValueError` or `FileNotFoundError` for what the user can mend."""
        self._arms, rest = take_arms(sys.argv[1:] if args is None else list(args))
        args = self._split_config(rest)
        if self._arms and "--config" not in args:
            self.set_defaults_with_config()
        return super().parse_args_and_config(args, *pos, **kwargs)

    @staticmethod
    def _split_config(args: list[str]) -> list[str]:
        args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
        if args and args[-1] == "--config":
            raise ValueError("--config needs a file")
        if "--config" in args:
            place = args.index("--config") + 1
            recipe = find_recipe(args[place])
            if recipe.is_file():  # a pipe can be read only once
                read_recipe(recipe)  # the errors of TRL's parser do not name the file
            args[place] = str(recipe)
        return args

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """
        Take the values of a recipe and of the arms as defaults; raises `ValueError` for unknown keys and values of
        another type.
        """
        self._check("the recipe", kwargs)
        for arm in self._arms:
            self._check(f"the arm {arm}", load_arm(arm))
        values = with_arms(kwargs, self._arms)
        return super().set_defaults_with_config(**{name: self._listed(name, values[name]) for name in values})

    def _check(self, where: str, values: dict[str, Any]) -> None:
        unknown = [key for key in values if key not in self._hints]
        if unknown:
            raise ValueError(f"{where} has {self._named(unknown)}")
        for name, value in values.items():
            if not fits(self._listed(name, value), self._hints[name]):
                raise ValueError(f"{where}'s {name} must be {_describe(self._hints[name])}, but is {value!r}")

    def _listed(self, name: str, value: Any) -> Any:
        """One value makes a list where the argument is a list, as on the command line."""
        kinds = _kinds(self._hints[name])
        return [value] if isinstance(value, str) and list in kinds and str not in kinds else value

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[argparse.Namespace, list[str]]:  # type: ignore[override]
        """See `argparse.ArgumentParser`; raises `ValueError` for unknown arguments."""
        namespace, rest = super().parse_known_args(args, namespace)
        unknown = [argument.split("=")[0] for argument in rest if argument.startswith("--")]
        if unknown:
            raise ValueError(f"the command line has {self._named(unknown)}")
        if rest:
            raise ValueError(f"the command line has {' '.join(rest)!r} without an argument: is a -- missing?")
        return namespace, rest

    @cached_property
    def _hints(self) -> dict[str, Any]:
        """Type of each argument."""
        found: dict[str, Any] = {}
        for dataclass_type in self.dataclass_types:
            hints = typing.get_type_hints(dataclass_type)
            found |= {field.name: hints[field.name] for field in dataclasses.fields(dataclass_type) if field.init}
        return found

    def _named(self, unknown: list[str]) -> str:
        """Name unknown arguments, each with the known one that it is like."""
        named = []
        for name in unknown:
            hint = did_you_mean(name.lstrip("-").replace("-", "_"), self._hints).strip()
            named.append(f"{name} ({hint})" if hint else name)
        return f"unknown argument{'s' * (len(named) > 1)} {', '.join(named)}: --help lists all"


def _options(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if is_union else (hint,)


def _kinds(hint: Any) -> list[Any]:
    """The classes that a type hint allows; `list[str] | None` allows `list` and `NoneType`."""
    return [typing.get_origin(option) or option for option in _options(hint)]


def fits(value: Any, hint: Any) -> bool:
    """
    Tell whether a value that YAML reads can be the value of an argument with this type hint.

    Every string can, because the parser later converts or refuses it, and any scalar can if the argument is a string,
    because YAML reads an unquoted `no` or `3` as a boolean or a number. The parser does not convert the elements of a
    list, so they must already have their type.
    """
    kinds = _kinds(hint)
    if isinstance(value, list):
        elements = {typing.get_args(option) for option in _options(hint) if typing.get_origin(option) is list}
        return list in kinds and all(_is_of(item, *types) for types in elements for item in value)
    if value is None or isinstance(value, dict):
        return type(value) in kinds
    if isinstance(value, str) or any(kind not in _DESCRIPTIONS or kind is str for kind in kinds):
        return True
    return _is_of(value, *kinds)


def _is_of(value: Any, *kinds: Any) -> bool:
    """Whether a value has one of these classes; a whole number also counts as a float."""
    return type(value) in kinds or (isinstance(value, int) and not isinstance(value, bool) and float in kinds)


def _describe(hint: Any) -> str:
    known = [option for option in _options(hint) if (typing.get_origin(option) or option) in _DESCRIPTIONS]
    return " or ".join(_describe_one(option) for option in known)


def _describe_one(option: Any) -> str:
    described = _DESCRIPTIONS[typing.get_origin(option) or option]
    elements = [_DESCRIPTIONS[kind] for kind in typing.get_args(option) if kind in (int, float, str)]
    if typing.get_origin(option) is not list or not elements:
        return described
    return f"a list of {elements[0].removeprefix('a ')}s"
