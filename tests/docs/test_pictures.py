"""The pictures of a trained model are drawn by docs/pictures.py."""

from pathlib import Path

from pictures import NAMES, draw_all
from support.needs import needs

STATIC = Path(__file__).parents[2] / "docs" / "_static"


@needs("matplotlib")
def test_each_picture_is_drawn(tmp_path: Path) -> None:
    """With a white background of its own, which a dark page needs."""
    assert [path.name for path in draw_all(tmp_path, rows=40, epochs=1)] == list(NAMES)
    for name in NAMES:
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert text.startswith("<?xml")
        assert "fill: #ffffff" in text


def test_the_committed_pictures_have_a_background() -> None:
    """They cannot be compared with new ones: the numbers differ a little between machines."""
    for name in NAMES:
        assert "fill: #ffffff" in (STATIC / name).read_text(encoding="utf-8")
