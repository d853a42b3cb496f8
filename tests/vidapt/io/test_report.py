"""report.html: one file that shows everything, loads nothing and escapes what it is given."""

import base64
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from vidapt.errors import StorageError
from vidapt.io.encoder import write_video
from vidapt.io.report import Picture, ReportContent, Table, curve, jpeg, write_report

BROWSERS = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
NASTY = "<script>alert('x')</script> & \"co\" {{ 7*7 }} {% raw %} ü"


class Elements(HTMLParser):
    """All start tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def gradient(height: int = 20, width: int = 30) -> np.ndarray:
    return np.dstack([np.full((height, width), value, np.uint8) for value in (200, 100, 20)])


def video_bytes(folder: Path, count: int = 6) -> bytes:
    path = write_video([gradient(32, 48) + np.uint8(index) for index in range(count)], folder / "v.mp4", fps=5)
    assert path is not None
    return path.read_bytes()


def content(folder: Path, text: str = "fog") -> ReportContent:
    return ReportContent(
        title=f"vidapt: {text}",
        notice=f"Generated {text}.",
        facts=[("source", text), (text, "value")],
        summary=Table(("model", "mIoU"), [("source only", "12.3"), (text, "45.6")]),
        classes=Table(("class", text), [("road", "1.0"), ("car", "2.0")], [(128, 64, 128), (0, 0, 142)]),
        curves=[curve(text, {text: ([1, 2, 3], [3.0, 2.0, 1.0])}, "loss")],
        pictures=[jpeg(gradient(), f"frame 0 of {text}")],
        video=video_bytes(folder),
        video_caption=text,
        command=f"vidapt segment x.mp4 --checkpoint '{text}'",
    )


def test_everything_is_shown(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", content(tmp_path))
    found = Elements(tmp_path / "report.html")
    for text in ("vidapt: fog", "Generated fog.", "source only", "45.6", "road", "frame 0 of fog", "x.mp4"):
        assert text in found.text
    assert [len(found.all(tag)) for tag in ("table", "img", "video")] == [2, 2, 1]
    assert "background: rgb(128, 64, 128)" in found.all("i")[0]["style"]
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []


def test_what_is_missing_leaves_no_heading(tmp_path: Path) -> None:
    empty = ReportContent("t", None, [("a", "b")], None, None)
    write_report(tmp_path / "report.html", empty)
    found = Elements(tmp_path / "report.html")
    headings = re.findall(r"<h2>(.*?)</h2>", (tmp_path / "report.html").read_text("utf-8"))
    assert headings == ["Facts"]
    assert not found.all("table") + found.all("video") + found.all("img")


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", content(tmp_path))
    found = Elements(tmp_path / "report.html")
    for _, attributes in found.tags:
        assert not {"href", "srcset", "action", "background"} & set(attributes)
        assert attributes.get("src", "data:").startswith("data:")
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (tmp_path / "report.html").read_text("utf-8"))
    assert not re.search(r"https?:|@import|url\(|<script|<link|<iframe", text)


def test_texts_are_escaped(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", content(tmp_path, NASTY))
    found = Elements(tmp_path / "report.html")
    assert not found.all("script")
    assert found.text.count(NASTY) >= 8
    assert any(NASTY in image["alt"] for image in found.all("img"))


def test_pictures_and_video_come_back_from_their_data_urls(tmp_path: Path) -> None:
    made = content(tmp_path)
    write_report(tmp_path / "report.html", made)
    found = Elements(tmp_path / "report.html")
    source = found.all("video")[0]["src"]
    assert source.startswith("data:video/mp4;base64,")
    data = base64.b64decode(source.partition(",")[2])
    assert data == made.video
    import av

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert len(list(container.decode(stream))) == 6
    for image in found.all("img"):
        data = base64.b64decode(image["src"].partition(",")[2])
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


def test_jpeg_keeps_the_colours_and_enlarges_whole() -> None:
    picture = jpeg(gradient(), "caption", scale=3)
    assert (picture.caption, picture.mime) == ("caption", "image/jpeg")
    decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert decoded.shape == (60, 90, 3)
    assert np.abs(decoded.astype(int) - gradient(60, 90)).max() < 6


def test_a_curve_without_points_is_drawn() -> None:
    assert curve("empty", {}, "loss").data.startswith(b"\x89PNG")
    assert Picture("x", b"abc").source == "data:image/png;base64,YWJj"


def test_a_failed_write_keeps_the_older_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")
    plain = Path.write_text

    def full(self: Path, text: str, encoding: str) -> int:
        plain(self, text[:10], encoding)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(StorageError, match=r"report\.html cannot be written \(No space left on device\)"):
        write_report(path, content(tmp_path))
    monkeypatch.undo()
    assert path.read_text() == "older"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["report.html", "v.mp4"]


@pytest.mark.skipif(not BROWSERS, reason="no Chromium: apt-get install chromium")
def test_a_browser_shows_the_report(tmp_path: Path) -> None:
    """The pictures and the video load, and no table is wider than the page."""
    path = tmp_path / "report.html"
    write_report(path, content(tmp_path))
    probe = """<script>addEventListener('load', () => setTimeout(() => {
      const video = document.querySelector('video');
      document.title = JSON.stringify([
        [...document.images].every(image => image.complete && image.naturalWidth > 0), video.readyState,
        [video.videoWidth, video.videoHeight], document.documentElement.scrollWidth <= innerWidth]);
    }, 600));</script>"""
    path.write_text(path.read_text("utf-8").replace("</body>", f"{probe}</body>"), "utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        f"--user-data-dir={tmp_path}/p",
    ]
    command = [BROWSERS[0], *options, "--virtual-time-budget=3000", "--dump-dom", path.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert "<title>[true,4,[48,32],true]</title>" in dom
