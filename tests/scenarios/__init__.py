"""What Gatepost promises, seen from outside: real clients before it, real peers behind it.

:mod:`~tests.scenarios.halves` runs the daemons, :mod:`~tests.scenarios.letters` holds the
mails and judges what became of them.  A test here reads what a person would look at:
answers, delivered files, logs, and the verdicts of other people's verifiers.
"""
