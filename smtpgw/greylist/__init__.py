"""Who has to come again, and who has come too often: greylisting and throttles."""
