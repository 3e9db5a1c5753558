"""Looking for what a milter cannot stand: conversations made up, played, judged and shrunk."""
