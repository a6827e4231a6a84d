"""Public conformance suites: what every implementation of an extension point must do."""
