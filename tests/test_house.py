"""The rooms of the package (its packages and top-level modules) and what they import of one another."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rest_trl"
# Floors as .github/CONTRIBUTING.md draws them, the lowest first: the core with what stands beside it, then the lab.
FLOORS = [
    {"spelling", "lab.packaged"},
    {"shared_prompts", "tool_calls"},
    {"trl_seam", "serving", "lab.__init__", "lab.intervals", "lab.tiny"},
    {"regions", "credit"},
    {"rewards", "rollouts"},
    {"data"},
    {"runs", "gold"},
    {"config", "cli", "lab.display"},
    {"wiring", "lab.evaluation"},
    {"trainer"},
    {"train", "__init__", "lab.sampling", "lab.sft", "lab.diagnose", "lab.inspect"},
    {"lab.demo", "lab.study"},
    {"lab.doctor", "lab.commands"},
]
CORE = {
    "spelling",
    "shared_prompts",
    "tool_calls",
    "trl_seam",
    "regions",
    "credit",
    "rewards",
    "rollouts",
    "gold",
    "config",
    "wiring",
    "trainer",
    "train",
    "cli",
}
# What the trainer imports of the lab where it is switched on: diagnoses, the log of completions, the model card.
SWITCHED_ON = {("wiring", "lab.diagnose"), ("wiring", "lab.display"), ("trainer", "lab.display")}


def named(parts):
    """The room that a path of names, below the package, leads to."""
    return ".".join(parts[:2] if parts[0] == "lab" else parts[:1])


def room(path):
    return named([part.removesuffix(".py") for part in path.relative_to(PACKAGE).parts])


def imported(path):
    """Names of the package's rooms that a file imports, also inside functions."""
    yield from imported_by(path, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_at_once(path):
    """Names of the package's rooms that a file imports where it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    within = {inner for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) for inner in ast.walk(node)}
    yield from imported_by(path, (node for node in ast.walk(tree) if node not in within))


def imported_by(path, nodes):
    here = ("rest_trl", *path.relative_to(PACKAGE).parts[:-1])
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*here[: len(here) - node.level + 1], *(node.module or "").split(".")]
            base = [part for part in base[1:] if part]
            whole = not base or base == ["lab"]
            names = [named([*base, alias.name]) for alias in node.names] if whole else [named(base)]
        elif isinstance(node, ast.ImportFrom):
            base = node.module.split(".")
            names = [named(base[1:])] if base[0] == "rest_trl" and base[1:] else []
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("rest_trl.")]
        else:
            continue
        # `__version__` belongs to the package itself, which is loaded before any of its modules.
        yield from ("__init__" if name.startswith("ResT") else name for name in names if name != "__version__")


@pytest.fixture(scope="module")
def house():
    """What each room imports of other rooms."""
    return rooms_by(imported)


def rooms_by(imports):
    rooms = {}
    for path in PACKAGE.rglob("*.py"):
        rooms.setdefault(room(path), set()).update(set(imports(path)) - {room(path)})
    return rooms


class TestHouse:
    def test_every_room_has_a_floor(self, house):
        assert sorted(house) == sorted(name for floor in FLOORS for name in floor)
        assert {name for names in house.values() for name in names} <= set(house)

    def test_nothing_is_imported_from_the_same_floor_or_above(self, house):
        floor = {name: number for number, names in enumerate(FLOORS) for name in names}
        against = {(name, other) for name, others in house.items() for other in others if floor[other] >= floor[name]}
        assert against <= SWITCHED_ON

    def test_the_core_imports_the_lab_only_where_it_is_switched_on(self, house):
        of_lab = {(name, other) for name in CORE for other in house[name] if other.startswith("lab")}
        assert of_lab == SWITCHED_ON
        at_once = rooms_by(imported_at_once)
        assert [other for name in CORE | {"runs"} for other in at_once[name] if other.startswith("lab")] == []

    def test_the_trainer_loads_few_modules_and_none_of_data_serving_and_lab(self):
        program = "import sys, rest_trl.trainer; print(*(name for name in sys.modules if name.startswith('rest_trl')))"
        names = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        assert not [name for name in names if name.split(".")[1:2] in (["data"], ["serving"], ["lab"])]
        assert len(names) <= 50

    def test_there_is_no_circle_inside_a_room(self):
        modules = {path: set() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
        for path, others in modules.items():
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 1:
                    names = [node.module] if node.module else [alias.name for alias in node.names]
                    others |= {path.with_name(f"{name.split('.')[0]}.py") for name in names} & modules.keys()
        assert len(list(TopologicalSorter(modules).static_order())) == len(modules)

    def test_evaluation_knows_nothing_of_training(self, house):
        seen, todo = set(), ["lab.evaluation"]
        while todo:
            todo += house[name := todo.pop()] - seen
            seen |= {name} | house[name]
        assert not seen & {"trainer", "config", "train", "rollouts", "lab.diagnose"}

    def test_the_map_for_contributors_names_all_rooms(self, house):
        text = (ROOT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
        assert [name for name in house if "__init__" not in name and f"`{name.split('.')[-1]}`" not in text] == []
