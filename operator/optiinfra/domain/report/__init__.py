"""What a fleet of model servers costs and would save, computed from the history that a metrics server keeps.

Questions name what to ask, frames are what came back, the history joins frames into models, GPUs, nodes and
containers, and the report is what follows from it. Nothing here asks a server: `optiinfra.cluster` does.
"""
