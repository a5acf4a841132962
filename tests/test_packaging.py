"""The wheel and the sdist, built as pip builds them, without a network."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def build(kind, source, target):
    """Call the build backend as pip does, in a process of its own, because it works in the current directory."""
    code = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(target)!r}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=True)
    return target / run.stdout.split()[-1]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The names in the wheel of the tree, and in that of the sdist."""
    folder = tmp_path_factory.mktemp("packages")
    tree = folder / "tree"
    tree.mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    for name in ("rest_trl", "recipes"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    archive = build("sdist", tree, folder)
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    wheels = []
    for source in (tree, folder / archive.name.removesuffix(".tar.gz")):
        target = folder / f"wheel of {source.name}"
        target.mkdir()
        with zipfile.ZipFile(build("wheel", source, target)) as wheel:
            wheels.append({name: wheel.read(name) for name in wheel.namelist() if ".dist-info/" not in name})
    return wheels


class TestWheel:
    def test_holds_every_recipe_as_it_is_in_the_tree(self, packages):
        recipes = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in ROOT.glob("recipes/**/*.yaml")}
        found = {name: content for name, content in packages[0].items() if name.startswith("rest_trl/recipes/")}
        assert found == {f"rest_trl/{name}": content for name, content in recipes.items()}

    def test_holds_every_file_of_the_package(self, packages):
        files = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "rest_trl").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert files <= set(packages[0])

    def test_of_the_sdist_is_the_same(self, packages):
        assert packages[1] == packages[0]
