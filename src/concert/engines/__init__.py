"""Engines: what computes the logits of noisy copies, one file a kind.

A network is trained and differentiated in torch. To sample votes, the same function may be run by
something faster. What is certified is what is deployed: an exported network lies in the run folder,
`predict` and `certify` use it, and the log names it with its hash.
"""

from concert.engines.base import Engine
from concert.engines.choice import EngineChoice, build_engine, read_choice

__all__ = ["Engine", "EngineChoice", "build_engine", "read_choice"]
