"""The kernels: the only folder that imports torch."""
