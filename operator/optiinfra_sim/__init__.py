"""A simulated fleet of LLM engines and node agents that serves the real metric pages of real engines.

It exists so that anyone can try and test the operator without a GPU. What it serves is simulated and says so;
it imports nothing of the operator, so that the operator cannot lean on knowledge that a real engine would not give.
"""

__version__ = "0.1.0"
