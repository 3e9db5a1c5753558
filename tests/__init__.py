"""The suite.  Helpers are imported as tests.peers, tests.corpus and so on."""
