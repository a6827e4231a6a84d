"""Which way of doing the work: choices by cost, as pure functions of what the pilot measured."""
