"""The shared language: frozen plans, first what must be true, then how it is done."""
