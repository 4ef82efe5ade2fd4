"""Write the chapters as notebooks that run on Colab and Binder.

The sources in ``book/`` are Python files in the percent format with MyST Markdown. This writes them as
``OUT/notebooks/*.ipynb``, with a first cell that sets Colab up, and ``OUT/.binder``, which tells Binder what to
install. The publishing workflow puts both on the branch that the book's launch buttons point to.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

import jupytext
import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]

SETUP = """\
# Set-up: on Colab this installs moirelib (about a minute); elsewhere it installs nothing.
import os
import subprocess
import sys

os.environ.setdefault("MOIRELIB_FAST", "1")
source = "{source}"
if source and "google.colab" in sys.modules:
    from importlib.metadata import version

    # Colab's own NumPy and PyTorch stay: replacing them would break the running session.
    with open("/tmp/keep.txt", "w") as file:
        file.writelines(f"{{name}}=={{version(name)}}\\n" for name in ("numpy", "torch"))
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-c", "/tmp/keep.txt", source], check=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "_build" / "launch", help="folder to write into")
    parser.add_argument("--repository", default=os.environ.get("MOIRELIB_REPOSITORY", ""), help="OWNER/NAME or address")
    parser.add_argument("--commit", default="", help="commit to install (default: the one checked out)")
    options = parser.parse_args()

    source = pip_source(options.repository, options.commit or head())
    folder = options.out / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    chapters = chapter_files()
    for path in chapters:
        nbformat.write(notebook(path, source), folder / f"{path.stem}.ipynb")
    binder = options.out / ".binder"
    shutil.rmtree(binder, ignore_errors=True)
    shutil.copytree(ROOT / ".binder", binder)
    (binder / "source.txt").write_text(source + "\n", encoding="utf-8", newline="\n")
    print(f"{len(chapters)} notebooks in {folder}; they install {source or 'nothing (no repository given)'}")


def pip_source(repository: str, commit: str) -> str:
    """What pip installs, or nothing where no repository is known."""
    repository = repository.strip().removesuffix("/").removesuffix(".git")
    if not repository:
        return ""
    if "://" not in repository:
        repository = f"https://github.com/{repository}"
    return f"moirelib @ git+{repository}.git@{commit}" if commit else f"moirelib @ git+{repository}.git"


def head() -> str:
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else ""


def chapter_files() -> list[Path]:
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    files = [ROOT / "book" / f"{chapter['file']}.py" for part in toc["parts"] for chapter in part["chapters"]]
    return [path for path in files if path.is_file()]


def notebook(path: Path, source: str) -> nbformat.NotebookNode:
    book = jupytext.read(path, fmt="py:percent")
    for cell in book.cells:
        if cell.cell_type == "markdown":
            cell.source = plain_markdown(cell.source)
    setup = nbformat.v4.new_code_cell(SETUP.format(source=source))
    setup.metadata["tags"] = ["setup"]
    # After the title, so that Colab's outline and preview begin with it.
    book.cells.insert(1 if book.cells and book.cells[0].cell_type == "markdown" else 0, setup)
    book.metadata.pop("jupytext", None)
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    # Ids count through the cells, so that unchanged chapters give unchanged files.
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"
    book.nbformat, book.nbformat_minor = 4, 5
    return book


# --- MyST Markdown as plain Markdown, which is what Colab shows -----------------------------------------------------


def plain_markdown(text: str) -> str:
    """MyST directives and roles as the nearest plain Markdown."""
    text = re.sub(r"^\([\w:-]+\)=\n", "", text, flags=re.M)
    text = re.sub(r"(\$\$)[ \t]*\([\w:-]+\)[ \t]*$", r"\1", text, flags=re.M)  # an equation's label
    text = directives(text.split("\n"))
    text = re.sub(r"\{(?:cite|cite:[pt]|footcite)\}`([^`]+)`", r"[\1]", text)
    text = re.sub(r"\{math\}`([^`]+)`", r"$\1$", text)
    text = re.sub(r"\{(?:numref|ref|eq)\}`(?:[^`<]*?<)?([\w:-]+)>?`", lambda m: words(m[1]), text)
    return re.sub(r"\{[\w:-]+\}`([^`<]+?)\s*(?:<[^`>]*>)?`", r"\1", text)


def words(label: str) -> str:
    return "*" + re.sub(r"^(fig|tab|eq|sec)[-:]", "", label).replace("-", " ").replace("_", " ") + "*"


def directives(lines: list[str]) -> str:
    """Every ``{directive}`` as a quotation with its title in bold; what only a website can show is left out."""
    result = []
    while lines:
        line = lines.pop(0)
        opened = re.match(r"^(`{3,}|:{3,})\{([\w:-]+)\}\s*(.*)$", line)
        if not opened:
            result.append(line)
            continue
        fence, name, title = opened.groups()
        body = take_until(lines, fence)
        result += render(name, title, body)
    return "\n".join(result)


def take_until(lines: list[str], fence: str) -> list[str]:
    """The lines up to the closing fence, without the options that stand first."""
    body = []
    while lines:
        line = lines.pop(0)
        if line.strip() == fence:
            break
        body.append(line)
    while body and re.match(r"^:[\w-]+:", body[0]):
        body.pop(0)
    return body


def render(name: str, title: str, body: list[str]) -> list[str]:
    inner = directives(list(body)).strip("\n").split("\n")
    if name == "math":
        return ["$$", *inner, "$$"]
    if name in ("figure", "image"):
        return [f"*{' '.join(inner).strip()}*"] if any(inner) else []
    if name in ("bibliography", "footbibliography", "tableofcontents", "raw", "include"):
        return []
    heading = title if name in ("admonition", "exercise", "dropdown") else " ".join([name.capitalize() + ".", title])
    return [f"> **{heading.strip()}**", ">", *(f"> {line}".rstrip() for line in inner)]


if __name__ == "__main__":
    main()
