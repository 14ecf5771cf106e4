"""Headless Chromium: the tree of a page after its scripts, what it complained of, its picture."""

import os
import re
import shutil
import signal
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired

import numpy as np
import pytest
from lxml import html

SECONDS = 90
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run")


@dataclass(frozen=True, slots=True)
class Seen:
    """A page as a browser holds it, and the messages of its scripts."""

    page: html.HtmlElement
    complaints: tuple[str, ...]


def look(path: Path, script: str = "", width: int = 1400) -> Seen:
    """Open a copy of a page, in a window so wide, with another script at its end."""
    copy = path.with_name(f"seen-{path.name}")
    whole = path.read_text(encoding="utf-8")
    copy.write_text(whole.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    out, err = _run(copy, f"--window-size={width},900", "--enable-logging=stderr", "--dump-dom")
    complaints = tuple(re.findall(r".*CONSOLE.*", err.decode(errors="replace")))
    return Seen(html.fromstring(out.decode()), complaints)


def photograph(path: Path, width: int, height: int, *flags: str) -> np.ndarray:
    """Return the page as rows of pixels of three bytes, at half its size."""
    image = path.with_suffix(".png")
    scaled = "--force-device-scale-factor=0.5"
    _run(path, scaled, f"--window-size={width},{height}", f"--screenshot={image}", *flags)
    return pixels(image.read_bytes())


def printed(path: Path, *flags: str) -> bytes:
    """Return the page as a PDF."""
    paper = path.with_suffix(".pdf")
    _run(path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", *flags)
    return paper.read_bytes()


def pixels(image: bytes) -> np.ndarray:
    """Decode a PNG of 8-bit RGB or RGBA that is not interlaced, without its transparency."""
    place, data, width, height, depth = 8, b"", 0, 0, 0
    while place < len(image):
        size, kind = struct.unpack(">I4s", image[place : place + 8])
        body = image[place + 8 : place + 8 + size]
        if kind == b"IHDR":
            width, height, bits, colour, *_, interlaced = struct.unpack(">IIBBBBB", body)
            assert (bits, interlaced) == (8, 0)
            depth = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            data += body
        place += size + 12
    lines = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, width * depth + 1)
    rows = np.zeros((height + 1, width, depth), np.uint8)
    for number, line in enumerate(lines):
        rows[number + 1] = _unfiltered(line[0], line[1:].reshape(width, depth), rows[number])
    return rows[1:, :, :3]


def _unfiltered(kind: int, line: np.ndarray, above: np.ndarray) -> np.ndarray:
    if kind == 0:
        return line
    if kind == 1:
        return np.cumsum(line, axis=0, dtype=np.uint8)
    if kind == 2:
        return line + above
    depth = line.shape[1]
    left, up = [0] * depth + line.ravel().tolist(), [0] * depth + above.ravel().tolist()
    for place in range(depth, len(left)):
        one, other, corner = left[place - depth], up[place], up[place - depth]
        guess = (one + other) // 2 if kind == 3 else _paeth(one, other, corner)
        left[place] = (left[place] + guess) & 255
    return np.array(left[depth:], np.uint8).reshape(line.shape)


def _paeth(left: int, up: int, corner: int) -> int:
    """Return the neighbour nearest to what a plane through all three would be here."""
    by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
    if by_left <= by_up and by_left <= by_corner:
        return left
    return up if by_up <= by_corner else corner


def _run(path: Path, *flags: str) -> tuple[bytes, bytes]:
    """Let a browser with a profile of its own do one thing; end it, and it alone, if it hangs."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium; `make browser` installs it")
    profile = f"--user-data-dir={path.parent / 'profile'}"
    command = [program, *FLAGS, profile, *flags, path.as_uri()]
    with Popen(command, stdout=PIPE, stderr=PIPE, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        except TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, err.decode(errors="replace")
    return out, err
