"""The report cards of docs/lab/cards: whom they grade, and how a page is made of it.

`card` has the page, `milters` the milters, their own settings and mails; packaging/cards.py
writes the pages, tests/lab/test_cards.py holds them against what is so today.
"""
