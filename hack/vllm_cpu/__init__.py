"""A real vLLM on CPU, from PyPI, under real load: what OptiInfra says about it, and what its advice changes.

By hand only, never in CI: it downloads some gigabytes and wants minutes of quiet cores. The model is tiny and random,
so that shapes are real (queues, full batches, a full KV cache, preemptions) and speeds are those of the machine.

Everything it writes lies in one folder (see `cache`), which `python -m hack.vllm_cpu clean` removes.
"""
