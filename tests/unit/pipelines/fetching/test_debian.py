import shutil
from pathlib import Path

import pytest

from moe.errors import DataError
from pipelines.fetching.debian import newest_package, unpack_package


def test_a_machine_without_apt_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="needs apt-cache, which is not installed; this source"):
        newest_package("bible-kjv")
    with pytest.raises(DataError, match="needs apt-get, which is not installed"):
        unpack_package("bible-kjv", tmp_path)


@pytest.mark.skipif(not shutil.which("apt-cache"), reason="there is no apt on this machine")
def test_a_package_that_apt_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="apt knows no package named like no-such-package-"):
        newest_package(r"no-such-package-\d+")
    with pytest.raises(DataError, match=r"downloading the Debian package no-such-package failed"):
        unpack_package("no-such-package", tmp_path)
