"""Messages for tests; :func:`tests.corpus.corpus.messages` gives all of them by name."""
