"""
Runs the notebooks and keeps their outputs, without what would differ on another machine or at another time.

```shell
make notebooks
```
"""

import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient


ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Bars, and what bitsandbytes, which only an environment for development has, says at its import.
_NOISE = re.compile(r"\d+%\||^Failed to load CPU gemm_4bit_forward")
GPU = "gpu"  # the tag of cells that need a GPU or an account on the Hub


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """
    Run a notebook from top to bottom, but for the cells with the tag `gpu`.

    Args:
        path (`Path`):
            The notebook.
        folder (`Path`):
            Where its kernel runs; it is empty before.

    Returns:
        `nbformat.NotebookNode`: with the new outputs.
    """
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    # A kernel without ipywidgets warns that it shows bars as text.
    quiet = {"PYTHONWARNINGS": "ignore:IProgress not found", "COLUMNS": "110"}
    client = NotebookClient(
        notebook, timeout=1200, skip_cells_with_tag=GPU, resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env=os.environ | quiet)
    return notebook


def clean(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """
    Take out of the outputs what another run would not repeat: folders, times, ids.

    Args:
        notebook (`nbformat.NotebookNode`):
            The notebook, changed in place.
        folder (`Path`):
            Where its kernel ran.
    """
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            described = {kind: value for kind, value in output.get("metadata", {}).items() if "alt" in value}
            if "metadata" in output:
                output.metadata = described
            if output.get("name") == "stderr":
                kept = [line for line in output.text.split("\n") if not _NOISE.search(line)]
                output.text = "\n".join(kept).strip("\n")
            if "text" in output:
                output.text = _clean(output.text, folder)
            for kind, value in output.get("data", {}).items():
                if kind.startswith("text/"):
                    output.data[kind] = _clean(value, folder)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("text", "more")]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def _clean(text: str, folder: Path) -> str:
    text = text.replace(f"{folder}/", "").replace(str(folder), ".")
    text = re.sub(r"(\[ *\d+/\d+) [\d:]+, Epoch [^\]]*\]", r"\1]", text)  # of the bar of a training
    mark = r"(?:<[^>]*>|\x1b\[[\d;]*m)*"
    return re.sub(rf", {mark}[\d.]+{mark} s\. Per sample", ". Per sample", text)  # of an evaluation


def main(names: list[str]) -> None:
    """
    Run notebooks and write them with their outputs.

    Args:
        names (`list[str]`):
            Names without the suffix; all by default.
    """
    for path in NOTEBOOKS:
        if not names or path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                notebook = execute(path, Path(folder))
                clean(notebook, Path(folder))
            nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
