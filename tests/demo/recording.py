"""Takes the README's picture of the demo, `make recording`: a film of the real one, in which the daemon is killed.

Every frame is what a terminal would have shown; the film shows them faster than they came, and then the verdict.
"""

from __future__ import annotations

import io
import os
import re
import signal
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.terminal_theme import TerminalTheme

from sidecar.cli.demo.cast import cast
from sidecar.cli.demo.directory import Directory
from sidecar.cli.demo.play import Play
from sidecar.cli.demo.screen import Introduction, Scene, Table

if TYPE_CHECKING:
    from sidecar.cli.demo.verdict import Verdict

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "demo.svg"
COLUMNS = 100
LENGTH, KILL_AT = 24.0, 14.0
"""Seconds of the demo, and when its daemon is killed."""
EACH = 1.5
"""Seconds between two frames of it."""
SHOWN, VERDICT_SHOWN = 1.0, 6.0
"""Seconds for which the film shows a frame, and the last one."""
LARGEST = 150_000
"""Bytes."""

# Of the terminal: background, letters, and the colours that the demo uses.
THEME = TerminalTheme(
    (24, 26, 31),
    (222, 226, 230),
    [(24, 26, 31), (255, 123, 114), (63, 185, 80), (210, 153, 34), *[(150, 158, 168)] * 4],
)
SEPARATOR = "\x1f"
PARTS = SEPARATOR.join(("{styles}", "{backgrounds}", "{matrix}", "{terminal_height}", "{terminal_width}"))
"""What is taken from rich's picture of one frame; the window around it is drawn once."""

FILM = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">
<style>
text {{ font: 20px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; white-space: pre }}
.f {{ visibility: hidden; animation: show {length}s step-end infinite }}
.f:last-child {{ visibility: visible; animation-name: last }}
@keyframes show {{ 0% {{ visibility: visible }} {share}% {{ visibility: hidden }} }}
@keyframes last {{ 0% {{ visibility: visible }} {last_share}% {{ visibility: hidden }} }}
@media (prefers-reduced-motion: reduce) {{ .f {{ animation: none }} }}
{styles}
</style>
<rect width="{width}" height="{height}" rx="10" fill="#181a1f"/>
<circle cx="24" cy="22" r="7" fill="#ff5f57"/>
<circle cx="46" cy="22" r="7" fill="#febc2e"/>
<circle cx="68" cy="22" r="7" fill="#28c840"/>
{frames}
</svg>
"""


@dataclass(slots=True)
class Frame:
    """One picture, without the window around it."""

    drawing: str
    height: float
    width: float


@dataclass(slots=True)
class Reel:
    """The frames of a film, in their order."""

    frames: list[Frame] = field(default_factory=list)
    styles: dict[str, str] = field(default_factory=dict)
    """What letters look like, and the name of that."""

    def take(self, console: Console) -> None:
        """Add what was printed on this console since the last frame."""
        name = f"f{len(self.frames)}"
        parts = console.export_svg(theme=THEME, code_format=PARTS, unique_id=name).split(SEPARATOR)
        styles, backgrounds, matrix, height, width = parts
        # rich cuts each word at its line's edge; ours end before it, and the cuts are half of the bytes.
        drawing = re.sub(r' clip-path="[^"]*"', "", backgrounds + matrix).replace("\n", "")
        # Each frame names its styles anew, and they are the same.
        for own, style in re.findall(r"\.(\S+) \{ (.*) \}", styles):
            drawing = drawing.replace(
                f'"{own}"', f'"{self.styles.setdefault(style, f"s{len(self.styles)}")}"'
            )
        self.frames.append(Frame(drawing, float(height), float(width)))

    def film(self, label: str) -> str:
        """Put them together: one after the other, and for whoever wants no motion the last one."""
        length = (len(self.frames) - 1) * SHOWN + VERDICT_SHOWN
        drawn = [
            f'<g class="f" style="animation-delay:{number * SHOWN - length:g}s" transform="translate(12 44)">'
            f"{frame.drawing}</g>"
            for number, frame in enumerate(self.frames)
        ]
        return FILM.format(
            label=label,
            width=round(max(frame.width for frame in self.frames) + 24),
            height=round(max(frame.height for frame in self.frames) + 60),
            length=f"{length:g}",
            share=f"{100 * SHOWN / length:.3f}",
            last_share=f"{100 * VERDICT_SHOWN / length:.3f}",
            styles="\n".join(f".{name} {{ {style} }}" for style, name in self.styles.items()),
            frames="\n".join(drawn),
        )


class Camera(Table):
    """The demo's own table, which keeps what it would have shown."""

    def __init__(self, place: Path) -> None:
        """`place`: the demo's directory."""
        super().__init__(
            Console(
                width=COLUMNS,
                record=True,
                file=io.StringIO(),
                force_terminal=True,
                markup=False,
                highlight=False,
            )
        )
        self.reel = Reel()
        self.is_well = False
        self._pid = place / "daemon.pid"
        self._killed = False
        self._next = 0.0
        self._scene: Scene | None = None

    def introduce(self, introduction: Introduction) -> None:
        """Say nothing: the README does."""

    def show(self, scene: Scene) -> None:
        """Take a frame, if it is time for one."""
        if scene.elapsed > KILL_AT and not self._killed:
            self._killed = True
            os.kill(int(self._pid.read_text()), signal.SIGKILL)
        if all(row.left is not None for row in scene.rows) and scene.elapsed >= self._next:
            self._next = scene.elapsed + EACH
            self._scene = scene
            self._draw(scene, self._recent())
            self.reel.take(self._console)

    def conclude(self, verdict: Verdict, seconds: float) -> None:
        """Take the last frame."""
        assert self._scene is not None
        self.is_well = verdict.well
        self._draw(self._scene)
        super().conclude(verdict, seconds)
        self.reel.take(self._console)

    def _draw(self, scene: Scene, *more: RenderableType) -> None:
        self._console.print("$ make demo", style="dim")
        self._console.print(Group(self._tokens(scene), self._footer(scene), *more))


def main() -> int:
    """Take the film."""
    with tempfile.TemporaryDirectory(prefix="ts-") as folder:
        os.chdir(folder)
        with Directory(Path("demo")) as place:
            camera = Camera(place.path)
            Play(place, cast(None, 15.0), camera).run(LENGTH)
    film = camera.reel.film(
        "The demo: two tokens that are refreshed, a daemon that is killed, and no promise broken"
    )
    PICTURE.write_text(film, encoding="utf-8")
    print(f"{PICTURE.name}: {len(film.encode()):,} bytes, {len(camera.reel.frames)} frames")  # noqa: T201
    return 0 if camera.is_well and len(film.encode()) <= LARGEST else 1


if __name__ == "__main__":
    sys.exit(main())
