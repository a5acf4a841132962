"""Builds the package. All but the recipes, which lie beside it in the source tree, is said in setup.cfg."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Puts the recipes into the package that is installed; an editable one finds them in the source tree."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for source, target in self._recipes():
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *(target for _, target in self._recipes())]

    def _recipes(self) -> list[tuple[str, str]]:
        """Each recipe, and where it goes."""
        return [(str(path), str(Path(self.build_lib, "rest_trl", path))) for path in Path("recipes").rglob("*.yaml")]


setup(cmdclass={"build_py": BuildWithRecipes})
