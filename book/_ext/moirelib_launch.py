"""Launch buttons that open a notebook.

The book's sources are ``.py`` files, which neither Colab nor Binder's file browser opens as a notebook. The publishing
workflow writes each chapter as ``.ipynb`` on a branch (``tools/make_notebooks.py``); this extension points the theme's
launch buttons there. The repository comes from the environment variable ``MOIRELIB_REPOSITORY`` or from
``repository.url`` in ``_config.yml``. With neither set, the pages carry no button that would lead nowhere.
"""

import os
import re
from urllib.parse import quote

from sphinx.errors import ConfigError


def setup(app):
    app.add_config_value("moirelib_launch_branch", "gh-pages", "html", [str])
    app.add_config_value("moirelib_launch_folder", "notebooks", "html", [str])
    app.connect("config-inited", choose_repository)
    # The theme adds its launch buttons at priority 501; they are rewritten after that.
    app.connect("html-page-context", point_at_notebooks, priority=600)
    app.connect("html-page-context", drop_thebe, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def choose_repository(app, config):
    """Give the theme the repository, or take away every button that needs one."""
    options = config.html_theme_options
    url = repository_url(os.environ.get("MOIRELIB_REPOSITORY") or options.get("repository_url") or "")
    options["repository_url"] = url
    options["use_repository_button"] = options["use_issues_button"] = bool(url)
    if not url.startswith("https://github.com/"):  # the theme can launch nothing else on Colab
        options.pop("launch_buttons", None)
    options["repository_branch"] = "main"
    options["path_to_docs"] = "book"
    # Else the underlying theme adds a header bar with a second search field.
    options.setdefault("navbar_persistent", [])


def repository_url(name):
    """``https://host/owner/name`` from that address or from ``owner/name``; empty stays empty."""
    name = name.strip().removesuffix("/").removesuffix(".git")
    if not name:
        return ""
    found = re.fullmatch(r"(?:https://(?P<host>[\w.-]+)/)?(?P<path>[\w.-]+/[\w.-]+)", name)
    if not found:
        raise ConfigError(f"repository {name!r} is neither OWNER/NAME nor https://HOST/OWNER/NAME")
    return f"https://{found['host'] or 'github.com'}/{found['path']}"


def point_at_notebooks(app, pagename, templatename, context, doctree):
    """Replace the addresses of the theme's Colab and Binder buttons by those of the chapter's notebook."""
    for group in context.get("header_buttons", []):
        if group.get("label") != "launch-buttons":
            continue
        owner_and_name = app.config.html_theme_options["repository_url"].removeprefix("https://github.com/")
        addresses = notebook_addresses(app.config, owner_and_name, pagename)
        group["buttons"] = [{**button, "url": addresses[button["text"]]} for button in group["buttons"]]


def notebook_addresses(config, repository, pagename):
    branch = config.moirelib_launch_branch
    notebook = f"{config.moirelib_launch_folder.strip('/')}/{pagename}.ipynb"
    providers = config.html_theme_options["launch_buttons"]
    colab = f"{providers['colab_url']}/github/{repository}/blob/{branch}/{quote(notebook)}"
    binder = f"{providers['binderhub_url']}/v2/gh/{repository}/{quote(branch, safe='')}"
    return {"Colab": colab, "Binder": f"{binder}?urlpath={quote('lab/tree/' + notebook, safe='')}"}


def drop_thebe(app, pagename, templatename, context, doctree):
    """Leave out the scripts of Thebe: unused here, and Jupyter Book adds one twice, an error on every page."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{getattr(script, 'filename', script)} {getattr(script, 'attributes', '')}".lower()
    ]
