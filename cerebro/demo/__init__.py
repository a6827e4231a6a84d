"""The flagship in small: what `cerebro demo` runs."""
