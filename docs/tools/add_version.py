"""Put a built site into the published pages, as the folder of its version, and list it for the menu of versions.

    python docs/tools/add_version.py SITE PAGES VERSION

VERSION is `latest`, for the newest state, or a tag such as `v0.2.0`. The pages open on the newest tag.
"""

import json
import re
import shutil
import sys
from pathlib import Path

TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)")


def order(version):
    """Sort tags by their numbers, the newest first, and `latest` after them."""
    found = TAG.fullmatch(version)
    return (0, *(-int(number) for number in found.groups())) if found else (1,)


def add(site, pages, version):
    """Replace one version of the site, the list of versions, and the page that opens the newest one."""
    if version != "latest" and not TAG.fullmatch(version):
        raise ValueError(f"version must be 'latest' or a tag such as 'v0.2.0', got {version!r}")
    shutil.rmtree(pages / version, ignore_errors=True)
    shutil.copytree(site, pages / version, ignore=shutil.ignore_patterns(".doctrees", ".buildinfo"))
    versions = sorted((path.name for path in pages.iterdir() if (path / "index.html").exists()), key=order)
    (pages / "versions.json").write_text(json.dumps(versions), encoding="utf-8")
    refresh = f'<meta http-equiv="refresh" content="0; url={versions[0]}/">'
    (pages / "index.html").write_text(f"<!doctype html><title>jax_mmf</title>{refresh}\n", encoding="utf-8")
    (pages / ".nojekyll").touch()


if __name__ == "__main__":
    add(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
