"""The rules of the optimizer, one a file; `cerebro.optimizer.optimizer.RULES` says in which order they apply."""
