import sys

import pytest

from omni.config.check import ConfigError
from omni.serve import Serve, serve


@pytest.mark.parametrize("package", ["uvicorn", "fastapi", "python_multipart", "gradio"])
def test_a_missing_package_is_named_with_the_command_before_a_model_is_loaded(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"{package}: pip install 'omni-audio\[serve\]'"):
        serve(Serve(run="nowhere"))
