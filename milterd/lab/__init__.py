"""milterlab: play an MTA to any milter, and see what it answers."""
