"""The node agent beside nvidia-smi and the driver's own counters, on a real GPU, idle and under three known loads.

By hand, on a machine with a GPU: `python -m hack.gpu_check`. It makes its loads itself, through the driver's CUDA
interface and three kernels that the driver compiles, so that it needs nothing but the driver and this project. What a
load did is known (bytes copied, bytes allocated, one small kernel or the whole chip), and that is what the agent's
numbers are held against. It changes no setting of the GPU and never resets it.

A load that cannot be run is said in the table and never made up; the tests run it against stand-ins of both driver
libraries, and no page of the documentation is ever written from those.
"""
