"""Make .venv and install moirelib into it; do nothing when it is up to date.

Runs on a bare Python (standard library only). Written so that even an old Python parses it and can say what is wrong.
"""

import argparse
import hashlib
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
PYTHON = os.path.join(VENV, "Scripts" if os.name == "nt" else "bin", "python.exe" if os.name == "nt" else "python")
OLDEST, NEWEST = (3, 11), (3, 13)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="book,test", help="comma-separated extras of pyproject.toml")
    extras = parser.parse_args().extras

    here = sys.version_info[:2]
    if not OLDEST <= here <= NEWEST:
        fail(
            "moirelib needs Python 3.11 to 3.13, and {0} is {1}.{2}; name another one, as in: "
            "make PYTHON=python3.12 book".format(sys.executable, here[0], here[1])
        )
    stamp = os.path.join(VENV, "moirelib-" + extras.replace(",", "-") + ".stamp")
    wanted = fingerprint(extras)
    if read(stamp) == wanted:
        return
    if venv_version() != here:
        make_venv()
    install(extras)
    with open(stamp, "w") as file:
        file.write(wanted)


def fail(message):
    sys.exit("error: " + message)


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except (IOError, OSError):
        return None


def fingerprint(extras):
    """What the environment depends on: dependencies, Python, and where the checkout lies (the install points there)."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read().replace(b"\r\n", b"\n"))
    for text in (ROOT, extras, "%d.%d" % sys.version_info[:2]):
        digest.update(text.encode("utf-8"))
    return digest.hexdigest()


def venv_version():
    """Python version of a .venv that can be used again, else None."""
    found = re.search(r"^version(?:_info)? *= *(\d+)\.(\d+)", read(os.path.join(VENV, "pyvenv.cfg")) or "", re.M)
    if not found or subprocess.call([PYTHON, "-m", "pip", "--version"], stdout=subprocess.DEVNULL) != 0:
        return None
    return int(found.group(1)), int(found.group(2))


def make_venv():
    print("Making .venv with Python %d.%d" % sys.version_info[:2])
    sys.stdout.flush()
    if subprocess.call([sys.executable, "-m", "venv", "--clear", VENV]) != 0:
        fail("'python -m venv' failed; on Debian and Ubuntu install it first: apt install python3-venv")


def install(extras):
    print("Installing moirelib and its dependencies into .venv (once; some minutes)")
    sys.stdout.flush()
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += ["-c", "constraints.txt", "-e", ".[" + extras + "]"]
    if subprocess.call(command, cwd=ROOT) != 0:
        fail("pip could not install the dependencies; its message stands above")


if __name__ == "__main__":
    main()
