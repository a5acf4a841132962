"""The rooms of the package (its packages and top-level modules) and what they import of one another."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rest_trl"
# Floors as .github/CONTRIBUTING.md draws them, the lowest first.
FLOORS = [
    {"tool_calls", "credit", "tiny", "serving", "version"},
    {"regions", "data"},
    {"rewards", "display", "runs"},
    {"config", "rollouts", "evaluation", "sft", "diagnose", "cli"},
    {"trainer", "inspect"},
    {"train", "__init__"},
    {"demo", "study", "commands"},
    {"doctor"},
]


def room(path):
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path):
    """Names of the package's modules that a file imports, also inside functions."""
    here = ("rest_trl", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            names = [base[1]] if len(base) > 1 and base[1] else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".")
            names = base[1:2] if base[0] == "rest_trl" else []
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rest_trl.")]
        else:
            continue
        yield from (
            "__init__" if name.startswith("ResT") else name.replace("__version__", "version") for name in names
        )


@pytest.fixture(scope="module")
def house():
    """What each room imports of other rooms."""
    rooms = {}
    for path in PACKAGE.rglob("*.py"):
        rooms.setdefault(room(path), set()).update(set(imported(path)) - {room(path)})
    return rooms


class TestHouse:
    def test_every_room_has_a_floor(self, house):
        assert sorted(house) == sorted(name for floor in FLOORS for name in floor)
        assert {name for names in house.values() for name in names} <= set(house)

    def test_nothing_is_imported_from_the_same_floor_or_above(self, house):
        floor = {name: number for number, names in enumerate(FLOORS) for name in names}
        against = [(name, other) for name, others in house.items() for other in others if floor[other] >= floor[name]]
        assert against == []

    def test_there_is_no_circle_inside_a_room(self):
        modules = {path: set() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
        for path, others in modules.items():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 1:
                    names = [node.module] if node.module else [alias.name for alias in node.names]
                    others |= {path.with_name(f"{name.split('.')[0]}.py") for name in names} & modules.keys()
        assert len(list(TopologicalSorter(modules).static_order())) == len(modules)

    def test_evaluation_knows_nothing_of_training(self, house):
        seen, todo = set(), ["evaluation"]
        while todo:
            todo += house[name := todo.pop()] - seen
            seen |= {name} | house[name]
        assert not seen & {"trainer", "config", "train", "rollouts", "diagnose"}

    def test_the_map_for_contributors_names_all_rooms(self, house):
        text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
        assert [name for name in house if name != "__init__" and f"`{name}`" not in text] == []
