from unittest.mock import patch

from matplotlib.axes import Axes
from matplotlib.text import Text

from omni.record.layers import draw_layers
from omni.record.metrics import CsvLogger


def log(tmp_path, rows):
    logger = CsvLogger(tmp_path)
    for step, values in enumerate(rows, 1):
        logger.log(step, values)
    logger.finish("passed")
    return tmp_path / "metrics.csv"


def test_each_part_has_a_panel_and_each_layer_a_line(tmp_path):
    rows = [{"loss": 1.0, "texture_layer_1": 0.3 + i / 10, "texture_layer_-1": 0.7 - i / 10} for i in range(3)]
    metrics = log(tmp_path, [row | {"mixer_layer_3": 0.5} for row in rows])
    said, paint = [], Text.draw

    def listen(self, renderer):
        said.append(self.get_text())
        paint(self, renderer)

    with patch.object(Text, "draw", listen):
        assert draw_layers(metrics, tmp_path / "layers.png")
    assert {"texture", "mixer", "layer 1", "layer -1", "layer 3"} <= set(said)
    assert (tmp_path / "layers.png").stat().st_size > 5000


def test_each_of_many_layers_has_a_colour_and_a_name(tmp_path):
    with patch.object(Axes, "plot", autospec=True, side_effect=Axes.plot) as plot:
        draw_layers(log(tmp_path, [{f"mixer_layer_{layer}": layer / 300 for layer in range(25)}]), tmp_path / "a.png")
    drawn = {call.kwargs["label"]: call.kwargs["color"] for call in plot.call_args_list}
    assert (len(drawn), len(set(drawn.values()))) == (25, 25)


def test_where_nothing_is_learned_there_is_no_picture(tmp_path):
    assert not draw_layers(log(tmp_path, [{"loss": 1.0}]), tmp_path / "layers.png")
    assert not (tmp_path / "layers.png").exists()
