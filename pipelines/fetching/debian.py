"""Files of Debian packages, unpacked without installing them."""

import re
from pathlib import Path

from moe.errors import DataError
from pipelines.fetching.programs import run_program

_REMEDY = "this source needs apt-get and dpkg, with package lists updated by 'apt-get update'"


def newest_package(pattern: str) -> str:
    """Return the package with the highest version numbers among those whose full name matches
    ``pattern``.
    """
    known = run_program(["apt-cache", "pkgnames"], f"looking for {pattern}", _REMEDY).split()
    names = [name for name in known if re.fullmatch(pattern, name)]
    if not names:
        raise DataError(f"apt knows no package named like {pattern}; {_REMEDY}")
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def unpack_package(name: str, scratch: Path) -> str:
    """Unpack one package under ``scratch`` as if that were the root; return ``name=version``."""
    downloads = scratch / f"download-{name}"
    downloads.mkdir()
    purpose = f"downloading the Debian package {name}"
    run_program(["apt-get", "download", "--quiet", name], purpose, _REMEDY, cwd=downloads)
    packages = list(downloads.glob("*.deb"))
    if len(packages) != 1:
        raise DataError(f"{purpose} left {len(packages)} files instead of one; {_REMEDY}")
    run_program(["dpkg", "--extract", packages[0], scratch], f"unpacking {name}", _REMEDY)
    version = packages[0].name.split("_")[1].replace("%3a", ":")
    return f"{name}={version}"
