"""Print the oldest allowed version of every direct dependency, as requirements for pip.

python tools/oldest_dependencies.py test > oldest.txt
python -m pip install -r oldest.txt -e ".[test]"
"""

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def oldest(extras):
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    for requirement in map(Requirement, lines):
        bound = next(spec.version for spec in requirement.specifier if spec.operator == ">=")
        marks = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        yield f"{requirement.name}{marks}=={bound}"


if __name__ == "__main__":
    print("\n".join(oldest(sys.argv[1:])))
