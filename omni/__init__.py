"""omni: teach a language model to hear. Frozen Whisper -> projector -> nanochat GPT."""

__version__ = "0.1.0"

import os

# Threads that spin while they wait for each other take the time of whatever else runs on a machine, and of themselves.
# It is read when torch is loaded, and every command, worker and rank comes by here before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
