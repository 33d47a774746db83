import pytest
from matplotlib.text import Text


@pytest.fixture(autouse=True)
def no_text_is_cut_off(monkeypatch):
    """In no picture of these tests does a text reach over the edge."""
    paint = Text.draw

    def draw(self, renderer):
        if self.get_visible() and self.get_text().strip():
            box = self.get_window_extent(renderer)
            inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= renderer.width and box.y1 <= renderer.height
            assert inside, f"{self.get_text()!r} is cut off: {box} in {renderer.width} x {renderer.height}"
        paint(self, renderer)

    monkeypatch.setattr(Text, "draw", draw)
