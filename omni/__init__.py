"""omni: teach a language model to hear. Frozen Whisper -> projector -> nanochat GPT."""

__version__ = "0.1.0"
