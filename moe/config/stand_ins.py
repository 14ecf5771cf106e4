"""Files whose content does not match their name: LFS pointers, web pages, broken links."""

from pathlib import Path

from moe.storage import Location, RemotePath

_READ_BYTES = 512


def what_stands_for(path: Location) -> str | None:
    """Return what a file really is and how to get the correct file; None for a normal file.

    A clone without Git LFS has pointer files of three lines. A download that needed a login, or the
    download of a page address, is HTML. A folder copied from a cache may have only links.
    """
    if isinstance(path, Path) and path.is_symlink() and not path.exists():
        return (
            f"{path} is a link to {path.readlink()}, which is not there; copy the files "
            "themselves, following links (cp -L), or restore what the link names"
        )
    try:
        with path.open_input() if isinstance(path, RemotePath) else path.open("rb") as file:
            head = bytes(file.read(_READ_BYTES))
    except OSError:
        return None
    if head.startswith(b"version https://git-lfs"):
        return (
            f"{path} is a Git LFS pointer and not the file itself; run `git lfs pull` "
            "in the clone, or download the file itself"
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return (
            f"{path} is a web page and not the file of that name; download the file itself, "
            "logged in where the model asks for it"
        )
    return None
