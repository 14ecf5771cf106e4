"""Files that are not what their name says: pointers, web pages, links to what is not there."""

from pathlib import Path

from moe.storage import Location, RemotePath

_READ_BYTES = 512


def what_stands_for(path: Location) -> str | None:
    """Return what a file really is and how to get the real one; None where it is neither.

    A clone without Git LFS holds pointers of three lines. A download that needed a login, or that
    took the address of a page, holds HTML. A folder copied out of a cache may hold links alone.
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
            f"{path} is a Git LFS pointer and not the file that it stands for; run `git lfs pull` "
            "in the clone, or download the file itself"
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return (
            f"{path} is a web page and not the file of that name; download the file itself, "
            "logged in where the model asks for it"
        )
    return None
