"""What the tests of this room share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For models this small, threads wait for each other a hundred times longer than they work on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
