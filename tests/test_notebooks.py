import json
import re
from pathlib import Path

import nbformat
import pytest
from notebook_runs import GPU, NOTEBOOKS, clean, execute


SHOWS = {
    "quickstart": ("96 held-out prompts", "after 8 steps", "tool_name"),
    "own_data": ("get_weather", "Tokens of a prompt", "1 row"),
    "look_inside": ("region credit:", "at the end"),
    "evaluate": ("percent with 95% intervals", "points"),
    "lora_vllm": ("trainable params", "adapter_model.safetensors"),
}

by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook):
    """All that the outputs show, as one line without markup."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    shown = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs]
    return " ".join(" ".join(shown).split())


def errors(notebook):
    return [output for cell in code(notebook) for output in cell.outputs if output.output_type == "error"]


def needs_gpu(cell):
    return GPU in cell.metadata.get("tags", [])


class TestExecute:
    def test_leaves_out_what_needs_a_gpu(self, tmp_path):
        here, elsewhere = nbformat.v4.new_code_cell("print(6 * 7)"), nbformat.v4.new_code_cell("1 / 0")
        elsewhere.metadata["tags"] = [GPU]
        nbformat.write(nbformat.v4.new_notebook(cells=[here, elsewhere]), tmp_path / "small.ipynb")
        notebook = execute(tmp_path / "small.ipynb", tmp_path)
        assert texts(notebook) == "42" and not notebook.cells[1].outputs


class TestClean:
    def test_takes_out_folders_and_times(self, tmp_path):
        cell = nbformat.v4.new_code_cell("", metadata={"execution": {"iopub.status.busy": "2026"}})
        end = "0 reused, \x1b[1m12.3\x1b[0m s. Per sample: a"
        bar = "<div>[10/10 00:31, Epoch 0/1]</div>"
        cell.outputs = [
            nbformat.v4.new_output("stream", name="stderr", text="\rRows:  50%|█\n\n"),
            nbformat.v4.new_output("stream", name="stderr", text="warning: one row skipped\n"),
            nbformat.v4.new_output("stream", text=f"Page: {tmp_path}/page.html\n{end}\n"),
            nbformat.v4.new_output("display_data", {"text/html": bar, "image/png": "QUJD"}),
        ]
        notebook = nbformat.v4.new_notebook(cells=[cell])
        clean(notebook, tmp_path)
        assert cell.outputs.pop(0).text == "warning: one row skipped"
        assert cell.outputs[0].text == "Page: page.html\n0 reused. Per sample: a\n"
        assert cell.outputs[1].data == {"text/html": "<div>[10/10]</div>", "image/png": "QUJD"}
        assert "execution" not in cell.metadata


@by_notebook
class TestEveryNotebook:
    def test_installs_the_package_by_its_name_where_it_is_not_there(self, path):
        notebook = nbformat.read(path, as_version=4)
        install = code(notebook)[0].source
        assert re.search(r'%pip install --quiet "rest-trl(\[peft\])?"$', install)
        assert 'find_spec("rest_trl") is None' in install
        # Colab's torch fits its GPU and all else that is there: it stays, but where vLLM needs its own.
        assert "--constraint" not in install and "torch" not in install and "vllm" not in install

    def test_names_no_address_that_does_not_exist_yet(self, path):
        # The repository has no public home, so a badge or an address of it would lead nowhere.
        assert not re.search("OWNER|colab-badge|git\\+http", path.read_text())

    def test_keeps_the_outputs_of_a_whole_run(self, path):
        notebook = nbformat.read(path, as_version=4)
        assert not errors(notebook)
        numbers = [cell.execution_count for cell in code(notebook) if not needs_gpu(cell)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert all(not cell.outputs for cell in code(notebook) if needs_gpu(cell))
        kept = json.dumps(notebook)
        assert not re.search(r"/tmp/|/home/|/root/|\.venv|site-packages|Warning|Traceback", kept)

    def test_links_lead_somewhere(self, path):
        for cell in nbformat.read(path, as_version=4).cells:
            for target in re.findall(r"\]\((?!http)([^)#]+)", cell.source if cell.cell_type == "markdown" else ""):
                assert (path.parent / target).exists(), target

    def test_runs_from_top_to_bottom(self, path, tmp_path):
        notebook = execute(path, tmp_path)
        shown = texts(notebook)
        for words in SHOWS[path.stem]:
            assert words in shown

    def test_says_how_it_is_listed(self, path):
        readme = (Path(__file__).parents[1] / "README.md").read_text()
        assert f"(notebooks/{path.name})" in readme
