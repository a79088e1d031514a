"""The parts of the GPU acceptance; each runs in a process of its own, because a broken CUDA context never recovers."""
